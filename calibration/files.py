"""Whole files or none: temporary name, fsync, rename."""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from limpq_deploy.calibration.errors import CacheRefused, OutputError

NO_TEMPORARY_FOLDER = (
    "temporary files can be written nowhere, neither in TMPDIR nor in /tmp; make room there, or name in TMPDIR a "
    "folder that you may write to"
)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is synced and renamed to ``path``.

    On any exception (Ctrl-C included) the temporary file is removed and an existing ``path`` stays as it was.
    Raises OutputError where the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise _cannot_write(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def require_temporary_folder() -> None:
    """Raise OutputError where no folder for temporary files can be written to."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise OutputError(NO_TEMPORARY_FOLDER) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` whole, or leave what was there."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` whole, or leave what was there."""
    write_bytes(path, text.encode())


def cache_folder() -> Path:
    """LIMPQ_CACHE, or a folder in the user's cache directory: made where it is not there (mode 0700), and the user's
    own. What lies in it is executed. Raises CacheRefused where another user owns it, or may write to it."""
    folder = _named_cache()
    with contextlib.suppress(OSError):  # who writes to it is told why not
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    try:
        found = folder.stat()
    except OSError:
        return folder
    if found.st_uid != os.geteuid():
        raise CacheRefused(f"the cache {folder} belongs to another user; name a folder of your own in LIMPQ_CACHE")
    if found.st_mode & 0o022:
        raise CacheRefused(
            f"others may write to the cache {folder}, of which code is loaded; take that from them (chmod go-w, once "
            "you have emptied it), or name another folder in LIMPQ_CACHE"
        )
    return folder


def _named_cache() -> Path:
    if given := os.environ.get("LIMPQ_CACHE") or "":
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limpq-deploy"
    except RuntimeError as error:
        raise CacheRefused("there is no home folder (HOME) for a cache; name a folder in LIMPQ_CACHE") from error


def keep(path: Path, data: bytes) -> None:
    """Write a file of a cache that `kept_bytes` reads: the SHA-256 of its bytes in hexadecimal, a line end, the bytes.
    In one file, so that two processes may keep the same at once."""
    write_bytes(path, hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


def kept_bytes(path: Path) -> bytes | None:
    """The bytes of a file that `keep` wrote, None where there is none. Raises CacheRefused where it is another user's,
    no plain file, or not what was written."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_kept(path, str(error.strerror)) from error
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise _not_kept(path, "it is no file that you alone may write")
        recorded, _, data = stream.read().partition(b"\n")
    if hashlib.sha256(data).hexdigest().encode() != recorded:
        raise _not_kept(path, "its SHA-256 is another")
    return data


def _not_kept(path: Path, why: str) -> CacheRefused:
    return CacheRefused(f"{path} in the cache is not what was kept there ({why}); remove it, so that it is made again")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have a file's bytes, or a folder's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path}: {error.strerror or error}; choose a folder that you may write to, with free space"
    )
