"""Only folders that carry the marker are written into; a lock is never opened through a link."""

import os
from pathlib import Path

import pytest

from limpq_deploy.calibration.errors import OutputError
from limpq_deploy.calibration.own_folders import LOCK, mark, open_lock, require_own


def locked(folder: Path) -> None:
    descriptor = open_lock(folder)
    mark(descriptor)
    os.close(descriptor)


def test_a_new_an_empty_and_a_marked_folder_are_taken(tmp_path: Path) -> None:
    require_own(tmp_path / "new")
    require_own(tmp_path)
    locked(tmp_path)
    (tmp_path / "policy.json").write_text("{}")
    require_own(tmp_path)
    locked(tmp_path)
    require_own(tmp_path)


def test_a_folder_of_somebody_is_refused_with_the_name_of_a_file(tmp_path: Path) -> None:
    for name in ("config.json", "notes.txt"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=r"holds config\.json and 1 more and is no folder of limpq-deploy"):
        require_own(tmp_path)
    (tmp_path / LOCK).write_text("of another program")
    with pytest.raises(OutputError, match=r"holds \.lock and 2 more"):
        require_own(tmp_path)
    with pytest.raises(OutputError, match="is a file; --out expects a folder"):
        require_own(tmp_path / "notes.txt")


def test_a_build_that_was_killed_before_it_could_mark_its_folder_goes_on(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    require_own(tmp_path)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"out\\udcff is no UTF-8"):
        require_own(Path(os.fsdecode(os.fsencode(tmp_path) + b"/out\xff")))


def test_a_lock_is_not_opened_through_a_link_nor_where_it_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / LOCK).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / LOCK)
    for name in "ab":
        with pytest.raises(OSError):  # noqa: PT011  too many levels of links; no plain file
            open_lock(tmp_path / name)
    assert not (tmp_path / "elsewhere").exists()
