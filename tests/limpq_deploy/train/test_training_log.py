"""The progress line, the log and event files."""

import json
from pathlib import Path

import pytest

from limpq_deploy.calibration.errors import MissingExtra
from limpq_deploy.optional_packages import missing_modules
from limpq_deploy.progress import silent
from limpq_deploy.train.execution import Execution
from limpq_deploy.train.training_log import LINES, Watch, require_tensorboard


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_line_tells_loss_and_accuracy_of_every_width(tmp_path: Path) -> None:
    log = tmp_path / "folder" / "log.jsonl"
    heard: list[str] = []
    watch = Watch(["2", "4"], 10, lambda done, total, note="": heard.append(note), Execution(log=log), per_epoch=5)
    watch.step(1, [2.0, 1.0], [8, 16], 32, 0.5)
    watch.step(2, [1.0, 0.5], [16, 32], 32, 1.0)
    watch.close()
    found = lines(log)
    assert [line.pop("images_per_second") for line in found] != [0, 0]
    assert found == [
        {"step": 1, "epoch": 0.2, "loss": {"2": 2.0, "4": 1.0}, "top1": {"2": 25.0, "4": 50.0}, "rate": 0.5},
        {"step": 2, "epoch": 0.4, "loss": {"2": 1.0, "4": 0.5}, "top1": {"2": 50.0, "4": 100.0}, "rate": 1.0},
    ]
    assert heard[0].startswith("loss 1.500  ")
    assert heard[0].endswith(" images/s  top-1 2:25 4:50 %")
    assert heard[1].startswith("loss 1.125  ")
    assert heard[1].endswith(" images/s  top-1 2:38 4:75 %")


def test_a_long_training_has_about_two_thousand_lines_that_average_what_is_between(tmp_path: Path) -> None:
    log, steps = tmp_path / "log.jsonl", 3 * LINES
    watch = Watch(["x"], steps, silent, Execution(log=log), per_epoch=100)
    for step in range(1, steps + 1):
        watch.step(step, [float(step)], [1], 4, 1.0)
    watch.close()
    found = lines(log)
    assert len(found) == LINES
    assert found[0] == {**found[0], "step": 3, "loss": {"x": 2.0}, "top1": {"x": 25.0}}
    assert found[-1]["step"] == steps


def test_a_training_that_goes_on_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    watch = Watch(["x"], 10, silent, Execution(log=log), per_epoch=5)
    for step in range(1, 7):
        watch.step(step, [float(step)], [1], 4, 1.0)
    watch.close()
    log.write_text(log.read_text() + '{"step": 7, "lo')  # what a kill leaves
    again = Watch(["x"], 10, silent, Execution(log=log), per_epoch=5)
    again.resumed(4)
    again.step(5, [50.0], [1], 4, 1.0)
    again.close()
    assert [(line["step"], line["loss"]) for line in lines(log)] == [
        *((step, {"x": float(step)}) for step in range(1, 5)),
        (5, {"x": 50.0}),
    ]


def test_a_training_from_the_start_writes_a_new_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n')
    watch = Watch(["x"], 10, silent, Execution(log=log), per_epoch=5)
    assert len(lines(log)) == 2  # until there is something to say
    watch.step(1, [1.0], [1], 4, 1.0)
    watch.close()
    assert [line["step"] for line in lines(log)] == [1]
    assert "loss" in lines(log)[0]


def test_a_watch_that_saw_nothing_leaves_no_file(tmp_path: Path) -> None:
    Watch(["x"], 10, silent, Execution(log=tmp_path / "log.jsonl"), per_epoch=5).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not missing_modules(["tensorboard"]), reason="tensorboard is installed here")
def test_without_tensorboard_one_sentence_says_what_to_install() -> None:
    with pytest.raises(MissingExtra, match="need tensorboard, which is not installed; run: pip install tensorboard"):
        require_tensorboard()


@pytest.mark.skipif(bool(missing_modules(["tensorboard"])), reason="tensorboard is not installed here")
def test_event_files_are_written(tmp_path: Path) -> None:
    watch = Watch(["2", "4"], 2, silent, Execution(tensorboard=tmp_path / "events"), per_epoch=5)
    watch.step(1, [2.0, 1.0], [8, 16], 32, 0.5)
    watch.close()
    (events,) = (tmp_path / "events").iterdir()
    assert b"top1/4" in events.read_bytes()
