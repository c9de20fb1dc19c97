"""Folders that appear whole or not at all: built under a hidden locked name, synced, exchanged in one step.

The rename in `move_into_place` is the only commit point: a process killed before it leaves the old folder, one killed
after it the new one. Hidden folders of killed writers are removed by the next writer of the same folder.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from limpq_deploy.calibration.files import sync
from limpq_deploy.export.ship.manifest import BundleFile

OURS = "limpq"
"""In the name of every hidden folder, so that none of a user's is taken for one."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def building(folder: Path, at: Path | None = None) -> Iterator[Path]:
    """A locked hidden folder beside ``folder``; whatever is left under its name afterwards is removed.

    ``at``: a path to build beside instead, on the same file system, where hidden folders next to ``folder`` would be
    noticed.

    The lock ends with its process: folders of killed writers are recognised by it and by `OURS`, and removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = at or folder
    prefix = f".{place.name}.{OURS}-"
    for left in place.parent.glob(f"{prefix}*.tmp"):
        with contextlib.suppress(OSError), locked(left):
            shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=prefix, suffix=".tmp"))
    try:
        with locked(temporary):
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o777 & ~mask)
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sync_folders(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        sync(Path(folder))


def move_into_place(temporary: Path, folder: Path) -> None:
    """Rename; afterwards ``temporary`` is gone, or holds what stood there before."""
    if not folder.exists():
        temporary.rename(folder)
    elif not _exchange(temporary, folder):
        aside = temporary.with_name(temporary.name.removesuffix(".tmp") + ".old.tmp")
        folder.rename(aside)
        temporary.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    sync(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step (Linux renameat2); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def put(root: Path, name: str, content: Path | bytes) -> BundleFile:
    """Write one file; size and digest are of the bytes written."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with synced(path) as target:
        for chunk in _chunks(content):
            target.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return BundleFile(name=name, size=size, sha256=digest.hexdigest())


@contextlib.contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    with path.open("xb") as target:
        yield target
        target.flush()
        os.fsync(target.fileno())


def _chunks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with Path(content).open("rb") as source:
        while chunk := source.read(1 << 20):
            yield chunk
