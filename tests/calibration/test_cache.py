"""The cache is the user's own, and what is kept there is used only as it was written."""

import os
import resource
import tempfile
from pathlib import Path

import pytest

from limpq_deploy.calibration.errors import CacheRefused, OutputError
from limpq_deploy.calibration.files import cache_folder, keep, kept_bytes, require_temporary_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


def test_a_new_cache_is_the_users_alone(cache: Path) -> None:
    assert cache_folder() == cache
    assert cache.stat().st_mode & 0o777 == 0o700


def test_a_cache_that_others_may_write_is_refused(cache: Path) -> None:
    cache_folder().chmod(0o775)
    with pytest.raises(CacheRefused, match="others may write to the cache"):
        cache_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_cache_of_another_user_is_refused(cache: Path) -> None:
    os.chown(cache_folder(), 12345, 12345)
    with pytest.raises(CacheRefused, match="belongs to another user"):
        cache_folder()


def test_without_a_home_the_sentence_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIMPQ_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(CacheRefused, match="name a folder in LIMPQ_CACHE"):
        cache_folder()


def test_what_was_kept_comes_back_and_any_other_bytes_are_refused(cache: Path) -> None:
    path = cache_folder() / "library.so"
    assert kept_bytes(path) is None
    keep(path, b"code\nand more")
    assert kept_bytes(path) == b"code\nand more"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CacheRefused, match="its SHA-256 is another"):
            kept_bytes(path)
    path.write_bytes(b"\x7fELF planted")
    with pytest.raises(CacheRefused, match="remove it"):
        kept_bytes(path)


def test_links_pipes_and_files_that_others_may_write_are_refused(cache: Path) -> None:
    folder = cache_folder()
    keep(folder / "real", b"code")
    (folder / "link").symlink_to("real")
    os.mkfifo(folder / "pipe")
    keep(folder / "open", b"code")
    (folder / "open").chmod(0o666)
    for name in ("link", "pipe", "open"):
        with pytest.raises(CacheRefused, match="is not what was kept there"):
            kept_bytes(folder / name)


def test_without_room_for_temporary_files_the_sentence_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    require_temporary_folder()
    monkeypatch.setattr(tempfile, "tempdir", None)  # Python looks for it once
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OutputError, match="name in TMPDIR a folder"):
            require_temporary_folder()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
