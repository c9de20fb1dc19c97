"""The GPU benchmark's result survives the end of its process, and is gone on with. What is measured is played."""

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ..played_engine import NOWHERE

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MODELS = ("a", "b")


class Killed(BaseException):
    """What ends a process; nothing catches it."""


class Plays:
    """A runtime of which only the machine is asked."""

    machine_here = NOWHERE

    def __init__(self, options: Any) -> None: ...

    def machine(self) -> Any:
        return self.machine_here


@pytest.fixture
def gpu() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("gpu")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in MODELS}
    for name, folder in found.items():
        folder.mkdir()
        (folder / "float.onnx").write_text(name)
    return found


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(gpu: Any, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The benchmark with parts that say that they were measured; ``does`` gives another end to some."""
    tried: list[str] = []

    def attempt(package: str) -> dict[str, Any]:
        tried.append(package)
        return {"tried": [{"name": "engine", "passed": True, "detail": package}]}

    def go(does: Callable[[str, str], None] = lambda model, part: None, **settings: Any) -> dict[str, Any]:
        measured: list[tuple[str, str]] = []

        def measure(bench: Any, part: str) -> dict[str, Any]:
            model = bench.folder.name
            measured.append((model, part))
            does(model, part)
            return {"failed": "no luck"} if (model, part) == ("a", "parity") else {"result": {}, "seconds": 0.0}

        monkeypatch.setattr(gpu, "attempt", attempt)
        monkeypatch.setattr(gpu, "measure_part", measure)
        tried.clear()
        output = tmp_path / "result.json"
        with suppress(Killed):
            make, minutes, first = (settings.get(*one) for one in (("make", Plays), ("minutes", 5), ("first", False)))
            gpu.run(files, make, minutes=minutes, quick=True, output=output, first=first)
        return {"measured": measured, "tried": list(tried), "result": json.loads(output.read_text())}

    return go


HEAD = [("a", "first_parity"), ("a", "first_latency")]
FIRST = [(model, part) for model in MODELS for part in ("engines", "parity", "latency")]
THEN = [(model, part) for part in ("audit", "rtx", "profile", "study", "spread", "trtexec") for model in MODELS]


def test_every_model_has_its_latency_before_any_has_more(run: Run) -> None:
    assert run()["measured"] == HEAD + FIRST + THEN


def test_what_nothing_else_can_tell_is_measured_before_the_self_tests_and_by_itself_where_that_is_asked(
    run: Run,
) -> None:
    alone = run(first=True)
    assert (alone["measured"], alone["tried"]) == (HEAD, [])
    assert set(alone["result"]["models"]) == {"a"}
    rest = run()
    assert rest["measured"] == FIRST + THEN
    assert rest["tried"] != []


def test_what_ends_the_process_first_of_all_does_not_keep_the_rest_from_being_measured(run: Run) -> None:
    def kill(model: str, part: str) -> None:
        if part == "first_parity":
            raise Killed

    for _ in range(2):
        assert run(kill)["measured"] == HEAD[:1]
    third = run(kill)
    assert third["measured"] == [*HEAD[1:], *FIRST, *THEN, ("a", "first_parity")]


def test_a_second_run_tries_again_what_ended_the_first_and_last_what_failed(run: Run) -> None:
    def kill(model: str, part: str) -> None:
        if (model, part) == ("b", "engines"):
            raise Killed

    first = run(kill)
    assert first["measured"] == HEAD + FIRST[:4]
    assert first["result"]["models"]["b"]["engines"]["failed"] == "the process ended while this was measured"
    assert "result" in first["result"]["models"]["a"]["engines"]
    second = run()
    assert second["measured"] == [*FIRST[3:], *THEN, ("a", "parity")]
    assert (second["tried"], second["result"]["runs"]) == ([], 2)
    assert run()["measured"] == [("a", "parity")]


def test_what_ends_the_process_twice_comes_last(run: Run) -> None:
    def kill(model: str, part: str) -> None:
        if (model, part) == ("b", "engines"):
            raise Killed

    run(kill)
    assert run(kill)["measured"] == [("b", "engines")]
    assert run()["measured"] == [*FIRST[4:], *THEN, ("a", "parity"), ("b", "engines")]


def test_parts_behind_the_last_minute_are_skipped_and_done_the_next_time(run: Run, tmp_path: Path) -> None:
    late = run(minutes=-1)
    assert late["measured"] == []
    assert late["result"]["models"]["a"]["engines"]["skipped"] == "the time was up"
    assert "engines: the time was up" in (tmp_path / "result.md").read_text()
    assert run()["measured"] == HEAD + FIRST + THEN


@pytest.mark.parametrize("changed", ["file", "machine", "no result"])
def test_a_result_of_other_files_or_another_machine_is_put_aside(
    run: Run, files: dict[str, Path], tmp_path: Path, changed: str
) -> None:
    before = run()["result"]
    make: type[Plays] = Plays
    if changed == "file":
        (files["b"] / "float.onnx").write_text("c")
    elif changed == "machine":
        make = type("Other", (Plays,), {"machine_here": None})
    else:
        (tmp_path / "result.json").write_text("{ this is none")
    again = run(make=make)
    assert (again["measured"], again["result"]["runs"]) == (HEAD + FIRST + THEN, 1)
    aside = (tmp_path / "result.previous.json").read_text()
    assert aside == "{ this is none" if changed == "no result" else json.loads(aside) == before
    (tmp_path / "result.json").write_text("neither")
    run()
    assert (tmp_path / "result.previous1.json").read_text() == "neither"


def test_a_further_model_joins_a_result_and_code_of_another_state_is_named_on_the_page(
    run: Run, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    further = files.pop("b")
    run()
    files["b"] = further
    monkeypatch.setattr(importlib.import_module("gpu_result"), "code_digest", lambda: "ffff")
    again = run()
    assert again["measured"] == [*FIRST[3:], *THEN[1::2], ("a", "parity")]
    assert set(again["result"]["models"]) == {"a", "b"}
    assert again["result"]["models"]["b"]["engines"]["code"] == "ffff"
    [line] = importlib.import_module("gpu_report")._states(again["result"]["models"])
    assert line.startswith("The parts come of 2 states of the code: ")
    assert set(again["result"]["identity"]["files"]) == {"a/float.onnx", "b/float.onnx"}


def test_the_page_is_renewed_with_the_result_and_a_page_that_fails_costs_no_figures(
    gpu: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []

    def look(model: str, part: str) -> None:
        pages.append((tmp_path / "result.md").read_text())

    run(look)
    assert f"{HEAD[1][1]}: the process ended while this was measured" in pages[1]
    broken = importlib.import_module("gpu_result")

    def fail(result: dict[str, Any]) -> str:
        raise KeyError("stats")

    monkeypatch.setattr(broken, "page", fail)
    assert run()["result"]["runs"] == 2
    assert (tmp_path / "result.md").read_text().startswith("The page could not be written (KeyError: 'stats')")


def test_a_self_test_that_hangs_is_ended(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SELF_TEST_S", 0.01)
    start = time.monotonic()
    assert gpu.attempt("pycuda") == {"failed": "it took longer than 0.01 s"}
    assert time.monotonic() - start < 10
