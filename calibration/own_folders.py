"""Folders that this program writes, and may therefore change: each carries a marker, the first line of its lock file.

A folder of the user is refused before anything is written, and what a user put into one of ours stays.
"""

import os
import stat
from pathlib import Path

from limpq_deploy.calibration.errors import OutputError
from limpq_deploy.calibration.plain_text import plain

LOCK = ".lock"
MARK = b"written by limpq-deploy: files here that bear the names of its results are replaced\n"

HARMLESS = frozenset((".gitkeep", ".gitignore", ".DS_Store"))
"""Names that make no folder somebody's: no result bears one of them."""


def require_own(folder: Path, *, ours: bool = False) -> None:
    """Raise OutputError where a folder holds files and does not carry the marker, and where its name is no text.
    ``ours``: it is known by other means to be one of ours, as those of older versions are."""
    name = plain(folder)
    try:
        os.fsencode(folder).decode()
    except UnicodeDecodeError as error:
        raise OutputError(f"the name of the folder {name} is no UTF-8; choose another one with --out") from error
    try:
        if folder.is_file():
            raise OutputError(f"{name} is a file; --out expects a folder")
        if ours or not folder.exists() or _is_marked(folder):
            return
        others = sorted(one.name for one in folder.iterdir() if one.name not in HARMLESS and not _unmarked_lock(one))
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        why = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write to {name}: {why}; choose another folder with --out") from error
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise OutputError(
            f"{name} holds {plain(others[0], 60)}{more} and is no folder of limpq-deploy; choose a new or an empty one "
            "with --out, so that nothing of yours is written over"
        )


def open_lock(folder: Path) -> int:
    """A descriptor of a folder's lock file, which is made where it is not there; links are not followed. Raises
    OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(folder / LOCK, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, f"its {LOCK} is no plain file")
    return descriptor


def mark(descriptor: int) -> None:
    """Have the folder whose lock is held carry the marker from now on."""
    if os.pread(descriptor, len(MARK), 0) != MARK:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, MARK, 0)
        os.fsync(descriptor)


def _unmarked_lock(path: Path) -> bool:
    """Whether this is the lock of a build that was killed before it could mark its folder."""
    return path.name == LOCK and path.is_file() and not path.is_symlink() and not path.stat().st_size


def _is_marked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.pread(descriptor, len(MARK), 0) == MARK
    finally:
        os.close(descriptor)
