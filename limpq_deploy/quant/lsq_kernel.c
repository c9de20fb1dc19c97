/* The LSQ operator in one pass over memory; `limpq_deploy/lsq_kernel.py` compiles and calls it.

   x, out, upstream, grad: n elements in one order. They fall into rows of `row` elements (the last may be shorter);
   row r has the scale scales[r % channels]. sums: one number per row, so that no result depends on the threads.
   The arithmetic is that of the eager operator, operation by operation: compile without contraction and fast math. */

#include <math.h>
#include <stdint.h>

#define LANES 16
#define FEW 4 /* rows that are not worth a second thread */

#define DEFINE(REAL, SUFFIX, RINT)                                                                                     \
                                                                                                                       \
    static inline REAL clip_##SUFFIX(REAL v, REAL qmin, REAL qmax) {                                                   \
        REAL c = v < qmin ? qmin : v;                                                                                  \
        return c > qmax ? qmax : c;                                                                                    \
    }                                                                                                                  \
                                                                                                                       \
    static inline REAL slope_##SUFFIX(REAL v, REAL upstream, REAL qmin, REAL qmax, REAL *grad, int add) {              \
        REAL c = clip_##SUFFIX(v, qmin, qmax);                                                                         \
        *grad = (c == v ? upstream : (REAL)0) + (add ? *grad : (REAL)0);                                               \
        return upstream * (RINT(c) - (c == v ? v : (REAL)0));                                                          \
    }                                                                                                                  \
                                                                                                                       \
    void forward_##SUFFIX(const REAL *x, REAL *out, int64_t n, int64_t row, const REAL *scales, int64_t channels,      \
                          REAL qmin, REAL qmax) {                                                                      \
        int64_t rows = (n + row - 1) / row;                                                                            \
        _Pragma("omp parallel for schedule(static) if (rows > FEW)")                                                   \
        for (int64_t r = 0; r < rows; r++) {                                                                           \
            REAL scale = scales[r % channels];                                                                         \
            int64_t end = (r + 1) * row < n ? (r + 1) * row : n;                                                       \
            for (int64_t i = r * row; i < end; i++)                                                                    \
                out[i] = RINT(clip_##SUFFIX(x[i] / scale, qmin, qmax)) * scale;                                        \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    static inline void rows_##SUFFIX(const REAL *x, const REAL *upstream, REAL *grad, double *sums, int64_t n,         \
                                     int64_t row, const REAL *scales, int64_t channels, REAL qmin, REAL qmax,          \
                                     int add) {                                                                        \
        int64_t rows = (n + row - 1) / row;                                                                            \
        _Pragma("omp parallel for schedule(static) if (rows > FEW)")                                                   \
        for (int64_t r = 0; r < rows; r++) {                                                                           \
            REAL scale = scales[r % channels];                                                                         \
            int64_t end = (r + 1) * row < n ? (r + 1) * row : n;                                                       \
            REAL parts[LANES] = {0};                                                                                   \
            double sum = 0;                                                                                            \
            int64_t i = r * row;                                                                                       \
            for (; i + LANES <= end; i += LANES)                                                                       \
                for (int k = 0; k < LANES; k++)                                                                        \
                    parts[k] += slope_##SUFFIX(x[i + k] / scale, upstream[i + k], qmin, qmax, grad + i + k, add);      \
            for (; i < end; i++)                                                                                       \
                sum += slope_##SUFFIX(x[i] / scale, upstream[i], qmin, qmax, grad + i, add);                           \
            for (int k = 0; k < LANES; k++)                                                                            \
                sum += parts[k];                                                                                       \
            sums[r] = sum;                                                                                             \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* grad may be upstream itself; add: it is added to what grad holds. */                                            \
    void backward_##SUFFIX(const REAL *x, const REAL *upstream, REAL *grad, double *sums, int64_t n, int64_t row,      \
                           const REAL *scales, int64_t channels, REAL qmin, REAL qmax, int add) {                      \
        if (add)                                                                                                       \
            rows_##SUFFIX(x, upstream, grad, sums, n, row, scales, channels, qmin, qmax, 1);                           \
        else                                                                                                           \
            rows_##SUFFIX(x, upstream, grad, sums, n, row, scales, channels, qmin, qmax, 0);                           \
    }

DEFINE(float, f32, rintf)
DEFINE(double, f64, rint)
