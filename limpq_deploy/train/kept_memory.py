"""Memory that a training step frees is kept for the next one; what a stage of large graphs frees goes back at once."""

import contextlib
import ctypes
import gc
import platform
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Names of settings in glibc's malloc.h."""
FIRST, GROWN, MAPPED = 128 * 2**10, 32 * 2**20, 65536
"""glibc's own: bytes from which a block comes from the system by itself, at first and at most; how many such blocks."""

_holders = {"now": 0}
"""Blocks of code that keep memory at this moment: only the outermost gives it back."""


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Within it freed memory stays with the process, afterwards it goes back to the system; gives whether that works.

    glibc hands large blocks back at once and asks for them anew, and the kernel clears every page: a joint step of
    ResNet-18 at 64 px met 150,000 page faults, about a fifth of its time; with memory kept, next to none. MobileNetV2
    on 250 images of 224 px met 6 million, and was in the kernel for 10 s beside 4 s of work. Settings of the allocator
    cannot be read, so they stay as they are set here; what is free goes back at the end of the outermost such block.
    """
    library = _glibc()
    if library is None:
        yield False
        return
    library.mallopt(TRIM_THRESHOLD, -1)  # never
    library.mallopt(MMAP_MAX, 0)
    _holders["now"] += 1
    try:
        yield True
    finally:
        _holders["now"] -= 1
        if not _holders["now"]:
            library.malloc_trim(0)


def give_back() -> None:
    """What is free goes back to the system at once, within such blocks too. Parts of a stage make tensors of other
    sizes, which find no room between what the part before left: what is kept of several parts adds up, to one and a
    half times a float model's memory where a network was calibrated. It takes milliseconds; so seldom, not in a loop.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def let_go() -> None:
    """What nobody holds is freed and goes back: graphs of torch.fx hold each other, and whole networks with them."""
    gc.collect()
    give_back()


@contextlib.contextmanager
def memory_apart() -> Iterator[None]:
    """Within it memory is kept for itself alone, where it is kept."""
    give_back()
    try:
        yield
    finally:
        give_back()


@contextlib.contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Within it blocks of 128 KiB or more that the heap has no room for go back to the system once they are freed:
    networks and graphs are made one after the other, and small blocks between them would keep the memory of all."""
    library = _glibc()
    if library is not None:
        _set(library, FIRST)
    try:
        yield
    finally:
        if library is not None:
            _set(library, GROWN)


def _set(library: ctypes.CDLL, threshold: int) -> None:
    library.mallopt(MMAP_MAX, MAPPED)
    library.mallopt(MMAP_THRESHOLD, threshold)
    library.mallopt(TRIM_THRESHOLD, 2 * threshold)
    library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
