"""Memory that a training step frees is kept for the next one; what a stage of large graphs frees goes back at once."""

import contextlib
import ctypes
import gc
import platform
from collections.abc import Iterator
from typing import Literal

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Names of settings in glibc's malloc.h."""
FIRST, GROWN, MAPPED = 128 * 2**10, 32 * 2**20, 65536
"""glibc's own: bytes from which a block comes from the system by itself, at first and at most; how many such blocks."""

_within: list[Literal["kept", "returned"]] = []
"""Blocks of code that the process is in, the innermost last."""


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Within it freed memory stays with the process, afterwards it goes back to the system; gives whether that works.

    glibc hands large blocks back at once and asks for them anew, and the kernel clears every page: a joint step of
    ResNet-18 at 64 px met 150,000 page faults, about a fifth of its time; with memory kept, next to none. MobileNetV2
    on 250 images of 224 px met 6 million, and was in the kernel for 10 s beside 4 s of work. Settings of the allocator
    cannot be read, so that glibc's own come after the outermost such block; what is free goes back at its end.

    What outlives such a block is better made outside it, in a stage that returns its memory: large tensors among those
    that come and go hold free memory apart, in pieces that the next ones do not fit into. Stages that made networks
    within it kept twice as much as they ever used.
    """
    library = _glibc()
    if library is None:
        yield False
        return
    with _mode(library, "kept"):
        yield True


@contextlib.contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Within it blocks of 128 KiB or more that the heap has no room for go back to the system once they are freed:
    networks and graphs are made one after the other, and small blocks between them would keep the memory of all."""
    library = _glibc()
    with contextlib.nullcontext() if library is None else _mode(library, "returned"):
        yield


def give_back() -> None:
    """What is free goes back to the system now. It takes milliseconds."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def let_go() -> None:
    """What nobody holds is freed and goes back: graphs of torch.fx hold each other, and whole networks with them."""
    gc.collect()
    give_back()


@contextlib.contextmanager
def _mode(library: ctypes.CDLL, mode: Literal["kept", "returned"]) -> Iterator[None]:
    before = _within[-1:]
    _within.append(mode)
    if before != [mode]:
        _set(library, mode)
    try:
        yield
    finally:
        _within.pop()
        if before != [mode]:
            _set(library, *before)


def _set(library: ctypes.CDLL, mode: Literal["kept", "returned"] | None = None) -> None:
    threshold = FIRST if mode == "returned" else GROWN
    library.mallopt(MMAP_MAX, 0 if mode == "kept" else MAPPED)
    library.mallopt(MMAP_THRESHOLD, threshold)
    library.mallopt(TRIM_THRESHOLD, -1 if mode == "kept" else 2 * threshold)  # -1: never
    if mode != "kept":
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
