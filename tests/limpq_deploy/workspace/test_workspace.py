"""Stages on disk, with stages that only copy numbers."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limpq_deploy.calibration.errors import OutputError, RecordError
from limpq_deploy.calibration.files import write_text
from limpq_deploy.workspace import workspace as pipeline
from limpq_deploy.workspace.sources import Code
from limpq_deploy.workspace.step import Part, Step
from limpq_deploy.workspace.workspace import Passed, Workspace, read_state


def workspace(folder: Path) -> Workspace:
    return Workspace(folder, say=lambda passed: None)


def writing(folder: Path, name: str, text: str, *, reads: tuple[str, ...] = (), inputs: Any = None) -> Step:
    """A stage that writes ``text`` and what it reads to ``<name>.txt``."""

    def run(report: Callable[..., None]) -> str:
        read = "".join((folder / file).read_text() for file in reads)
        write_text(folder / f"{name}.txt", read + text)
        return f"{name} says {text}"

    return Step(name=name, title=name, inputs={"text": inputs or text}, reads=reads, outputs=(f"{name}.txt",), run=run)


def build(folder: Path, *stages: Step, fresh: bool = False) -> list[Passed]:
    space = workspace(folder)
    with space.held(fresh=fresh):
        for stage in stages:
            space.run(stage)
    return space.passed


def ran(passed: list[Passed]) -> list[str]:
    return [stage.name for stage in passed if stage.ran]


def test_a_hundred_builds_leave_no_descriptor_open(tmp_path: Path) -> None:
    stages = (writing(tmp_path, "one", "1"), writing(tmp_path, "two", "2", reads=("one.txt",)))
    build(tmp_path, *stages)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        build(tmp_path, *stages, fresh=number % 2 == 0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_finished_stage_is_not_run_again_but_says_what_it_said(tmp_path: Path) -> None:
    stages = (writing(tmp_path, "one", "1"), writing(tmp_path, "two", "2", reads=("one.txt",)))
    assert ran(build(tmp_path, *stages)) == ["one", "two"]
    again = build(tmp_path, *stages)
    assert ran(again) == []
    assert [stage.said for stage in again] == ["one says 1", "two says 2"]
    assert ran(build(tmp_path, *stages, fresh=True)) == ["one", "two"]


def test_a_stage_runs_again_when_its_input_or_what_it_reads_has_changed(tmp_path: Path) -> None:
    two = writing(tmp_path, "two", "2", reads=("one.txt",))
    build(tmp_path, writing(tmp_path, "one", "1"), two)
    assert ran(build(tmp_path, writing(tmp_path, "one", "one"), two)) == ["one", "two"]
    assert (tmp_path / "two.txt").read_text() == "one2"


def test_a_stage_that_comes_to_the_same_result_stops_the_change_there(tmp_path: Path) -> None:
    two = writing(tmp_path, "two", "2", reads=("one.txt",))
    build(tmp_path, writing(tmp_path, "one", "1"), two)
    assert ran(build(tmp_path, writing(tmp_path, "one", "1", inputs="another way"), two)) == ["one"]


@pytest.mark.parametrize("damage", [None, "1 "])
def test_a_missing_or_altered_output_is_made_again(tmp_path: Path, damage: str | None) -> None:
    build(tmp_path, writing(tmp_path, "one", "1"))
    (tmp_path / "one.txt").unlink()
    if damage is not None:
        (tmp_path / "one.txt").write_text(damage)
    assert ran(build(tmp_path, writing(tmp_path, "one", "1"))) == ["one"]


def test_a_stage_that_fails_is_not_recorded_and_keeps_the_earlier_ones(tmp_path: Path) -> None:
    def fail(report: Callable[..., None]) -> str:
        raise RuntimeError("broken")

    one = writing(tmp_path, "one", "1")
    broken = Step(name="two", title="two", inputs={}, reads=(), outputs=("two.txt",), run=fail)
    with pytest.raises(RuntimeError):
        build(tmp_path, one, broken)
    assert list(json.loads((tmp_path / "stages.json").read_text())["stages"]) == ["one"]
    assert ran(build(tmp_path, one, writing(tmp_path, "two", "2"))) == ["two"]


def test_only_one_build_holds_a_directory(tmp_path: Path) -> None:
    with (
        workspace(tmp_path).held(),
        pytest.raises(OutputError, match="another build is running in"),
        workspace(tmp_path).held(),
    ):
        pass
    with workspace(tmp_path).held():
        pass


def test_leftovers_of_a_killed_stage_go_and_files_of_the_user_stay(tmp_path: Path) -> None:
    (tmp_path / ".one.txt.k3j2h1.tmp").write_text("half")
    (tmp_path / ".stages.json.k3j2h1.tmp").write_text("half")
    (tmp_path / ".mine.tmp").write_text("mine")
    build(tmp_path, writing(tmp_path, "one", "1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".mine.tmp", "one.txt", "stages.json"]


def test_files_of_an_earlier_build_are_named_once_something_before_them_changed(tmp_path: Path) -> None:
    space = workspace(tmp_path)
    with space.held():
        space.run(writing(tmp_path, "one", "1"))
        space.run(writing(tmp_path, "two", "2"))
        assert space.outdated() == ()
    space = workspace(tmp_path)
    with space.held():
        space.run(writing(tmp_path, "one", "1"))
        assert space.outdated() == ()
        space.run(writing(tmp_path, "one", "changed"))
        assert space.outdated() == ("two.txt",)


def test_files_that_a_stage_makes_no_longer_are_named(tmp_path: Path) -> None:
    both = replace(writing(tmp_path, "one", "1"), outputs=("one.txt", "more.txt"))
    (tmp_path / "more.txt").write_text("more")
    build(tmp_path, both)
    space = workspace(tmp_path)
    with space.held():
        space.run(writing(tmp_path, "one", "changed"))
        assert space.outdated() == ("more.txt",)
        (tmp_path / "more.txt").unlink()
        assert space.outdated() == ()


def test_a_folder_is_an_output_with_all_that_is_in_it(tmp_path: Path) -> None:
    def run(report: Callable[..., None]) -> str:
        (tmp_path / "folder/below").mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder/below/file.txt").write_text("1")
        return "done"

    stage = Step(name="one", title="one", inputs={}, reads=(), outputs=("folder",), run=run)
    build(tmp_path, stage)
    assert ran(build(tmp_path, stage)) == []
    (tmp_path / "folder/below/file.txt").write_text("2")
    assert ran(build(tmp_path, stage)) == ["one"]


def test_a_checkpoint_survives_a_stopped_run_and_goes_when_the_stage_is_done_or_begun_afresh(tmp_path: Path) -> None:
    kept = tmp_path / "half.bin"
    found: list[bool] = []

    def run(report: Callable[..., None], *, stops: bool) -> str:
        found.append(kept.exists())
        kept.write_text("half")
        if stops:
            raise KeyboardInterrupt
        (tmp_path / "one.txt").write_text("1")
        return "done"

    def stage(*, stops: bool) -> Step:
        return Step(
            name="one",
            title="one",
            inputs={},
            reads=(),
            outputs=("one.txt",),
            run=lambda report: run(report, stops=stops),
            checkpoint="half.bin",
        )

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, stage(stops=True))
    assert kept.exists()
    (tmp_path / ".half.bin.k3j2h1.tmp").write_text("a write that was killed")
    build(tmp_path, stage(stops=False))
    assert not kept.exists()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, stage(stops=True), fresh=True)
    build(tmp_path, stage(stops=False), fresh=True)
    assert found == [False, True, False, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "one.txt", "stages.json"]


def test_processes_that_help_are_told_whether_a_shared_stage_runs(tmp_path: Path) -> None:
    told: list[bool] = []
    shared = replace(writing(tmp_path, "shared", "1"), together=True)
    for _ in range(2):
        space = Workspace(tmp_path, say=lambda passed: None, tell=told.append)
        with space.held():
            space.run(writing(tmp_path, "alone", "1"))
            space.run(shared)
    assert told == [True, False]


def test_other_code_or_another_library_runs_a_stage_again_and_is_said_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def built(code: Code) -> list[str]:
        monkeypatch.setattr(pipeline, "code_of", lambda run: code)
        space = Workspace(tmp_path, say=lambda passed: said.append("done"), note=said.append)
        with space.held():
            space.run(writing(tmp_path, "one", "1"))
        return ran(space.passed)

    code = Code(sources="a", libraries={"limpq_deploy": "1", "torch": "2.13"}, modules=())
    assert built(code) == ["one"]
    assert built(code) == []
    assert said == ["done", "done"]
    said.clear()
    assert built(replace(code, sources="b")) == ["one"]
    assert said == ["one runs again: sources changed", "done"]
    said.clear()
    assert built(replace(code, sources="b", libraries={"limpq_deploy": "1", "torch": "2.14"})) == ["one"]
    assert said == ["one runs again: torch is 2.14, and was 2.13 when it ran", "done"]


def test_a_stage_of_a_version_that_did_not_record_its_code_runs_again(tmp_path: Path) -> None:
    build(tmp_path, writing(tmp_path, "one", "1"))
    state = json.loads((tmp_path / "stages.json").read_text())
    del state["stages"]["one"]["sources"], state["stages"]["one"]["libraries"]
    (tmp_path / "stages.json").write_text(json.dumps(state))
    assert ran(build(tmp_path, writing(tmp_path, "one", "1"))) == ["one"]


def test_a_file_that_a_stage_reads_and_that_is_missing_is_an_error_before_it_runs(tmp_path: Path) -> None:
    two = writing(tmp_path, "two", "2", reads=("one.txt",))
    sentence = r"one\.txt, which the stage 'two' reads, is missing; run the build again, which makes it"
    with pytest.raises(RecordError, match=sentence):
        build(tmp_path, two)
    assert not (tmp_path / "two.txt").exists()
    (tmp_path / "one.txt").write_text("")  # an empty file is one
    assert ran(build(tmp_path, two)) == ["two"]


def test_of_a_part_of_a_file_the_rest_does_not_count(tmp_path: Path) -> None:
    record = tmp_path / "one.txt"
    bits = Part("one.txt", "bits", lambda path: json.loads(path.read_text())["bits"])
    two = replace(writing(tmp_path, "two", "2"), reads=(bits,))
    record.write_text('{"bits": 4, "seconds": 0.5}')
    assert ran(build(tmp_path, two)) == ["two"]
    record.write_text('{"bits": 4, "seconds": 0.7}')
    assert ran(build(tmp_path, two)) == []
    record.write_text('{"bits": 5, "seconds": 0.7}')
    assert ran(build(tmp_path, two)) == ["two"]


def test_what_a_stage_depends_on_is_recorded_by_name_and_what_was_asked_is_no_input(tmp_path: Path) -> None:
    one = replace(writing(tmp_path, "one", "1", inputs={"lr": 0.1, "steps": {"most": 3}}), asked={"--lr": "0.1"})
    two = writing(tmp_path, "two", "2", reads=("one.txt",))
    build(tmp_path, one, two)
    stages = read_state(tmp_path).stages
    assert list(stages["one"].named) == ["--lr", "text.lr", "text.steps.most"]
    assert list(stages["two"].named) == ["text", "one.txt"]
    assert stages["two"].named["one.txt"] == stages["one"].outputs["one.txt"][:12]
    assert ran(build(tmp_path, replace(one, asked={"--lr": "0.10"}), two)) == []
