"""Files of a finished build, checked before they are read."""

import os
from pathlib import Path

import pytest

from limpq_deploy.calibration.json_text import MAX_BYTES
from limpq_deploy.calibration.records import write_record
from limpq_deploy.workspace.finished import FileChanged, checked
from limpq_deploy.workspace.step import digest_of
from limpq_deploy.workspace.workspace import STATE, BuildState


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    path.write_text("{}")
    write_record(BuildState(stages={}, written={path.name: digest_of(path)}), tmp_path / STATE)
    return path


def test_a_file_that_its_build_names_is_taken_where_it_is_what_was_written(record: Path) -> None:
    assert checked(record) == record
    record.write_text("{ }")
    with pytest.raises(FileChanged, match="its SHA-256 is another"):
        checked(record)


def test_a_record_of_absurd_size_is_refused_without_reading_it(record: Path) -> None:
    os.truncate(record, 2**40)  # a hole: takes no room, and hours to hash
    assert record.stat().st_size > MAX_BYTES
    with pytest.raises(FileChanged, match="1,099,511,627,776 bytes, more than a record has"):
        checked(record)
