/* An unlucky machine, preloaded: a disk that is full or a quota that is used up (UNLUCKY_ERRNO after UNLUCKY_BYTES of
   regular files), a file system without locks (UNLUCKY_NOLOCK), a clock that jumps back an hour at every look but the
   first (UNLUCKY_CLOCK). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static long long written;

ssize_t write(int file, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    const char *limit = getenv("UNLUCKY_BYTES"), *number = getenv("UNLUCKY_ERRNO");
    struct stat found;
    if (limit && number && !fstat(file, &found) && S_ISREG(found.st_mode)) {
        written += size;
        if (written > atoll(limit)) {
            errno = atoi(number);
            return -1;
        }
    }
    return real(file, data, size);
}

int flock(int file, int operation) {
    static int (*real)(int, int);
    if (!real) real = dlsym(RTLD_NEXT, "flock");
    if (getenv("UNLUCKY_NOLOCK")) {
        errno = ENOLCK;
        return -1;
    }
    return real(file, operation);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    static long long looks;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, now);
    if (clock == CLOCK_REALTIME && getenv("UNLUCKY_CLOCK")) now->tv_sec -= 3600 * looks++;
    return answer;
}
