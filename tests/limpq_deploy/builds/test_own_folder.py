"""``--out`` on a folder of the user: refused at once, and nothing in it changes."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Command = Callable[..., Result]
Refused = Callable[..., str]

MINE = ("policy.json", "config.json", "float.safetensors", "report.html", ".config.json.abcdefgh.tmp", "notes.txt")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("more", [(), ("--fresh",), ("--plan",)])
@pytest.mark.parametrize("name", MINE)
def test_a_folder_with_files_of_the_user_is_refused(
    refused: Refused, tmp_path: Path, name: str, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / name).write_text("mine")
    monkeypatch.chdir(folder)
    refused("build", "--out", ".", *more, words=(name, "no folder of limpq-deploy", "--out"))
    assert contents(folder) == {name: b"mine"}


def test_a_build_of_an_older_version_goes_on(run: Command, settings: Path, copy: Path) -> None:
    (copy / ".lock").write_bytes(b"")
    result = run("build", "--config", settings, "--out", "out", "--json")
    assert result.exit_code == 0, result.output
    assert not any(stage["ran"] for stage in json.loads(result.stdout)["stages"])
    assert (copy / ".lock").read_bytes().startswith(b"written by limpq-deploy")


def test_damaged_bookkeeping_is_named_before_anything_is_repeated(run: Command, settings: Path, copy: Path) -> None:
    run("build", "--config", settings, "--out", "out")
    (copy / "stages.json").write_text("{")
    result = run("indicators", "--config", settings, "--out", "out")
    assert result.exit_code == 0, result.output
    notes = [line for line in result.stderr.splitlines() if "stages.json is not valid JSON" in line]
    assert notes
    assert "all stages run again; stop here" in notes[0]


def test_a_log_is_not_written_through_a_link(copy: Path) -> None:
    from limpq_deploy.calibration.errors import OutputError
    from limpq_deploy.train.training_log import _Log

    (copy / "elsewhere").write_text("mine")
    (copy / "float.jsonl").symlink_to(copy / "elsewhere")
    with pytest.raises(OutputError, match="cannot write the log"):
        _Log(copy / "float.jsonl")
    assert (copy / "elsewhere").read_text() == "mine"
    os.unlink(copy / "float.jsonl")
