"""One flipped bit in any file of a finished build, and every command that reads it."""

import contextlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from limpq_deploy.workspace.finished import BuildFiles, FileChanged

Command = Callable[..., Result]
Refused = Callable[..., str]

CONFIG, JOINT, FLOAT_WEIGHTS, POLICY, FINETUNED = (
    *("config.json", "joint.safetensors", "float.safetensors", "policy.json", "finetuned.safetensors"),
)
INDICATORS, PLACEMENT, MODEL = "indicators.json", "placement.json", "model.qdq.onnx"
FLOAT_MODEL, UNIFORM8 = "baselines/float.onnx", "baselines/uniform8.qdq.onnx"

PREVIEWED = (CONFIG, FLOAT_WEIGHTS, JOINT, INDICATORS)
READERS = {
    "preview mine.json --build out": PREVIEWED,
    "search mine-indicators.json --like w4a4 --preview out -o new.json": PREVIEWED,
    "sweep mine-indicators.json --gbitops 0.01:0.02:2 --preview out -o new.json": PREVIEWED,
    "parity out": (CONFIG, POLICY, FLOAT_WEIGHTS, FINETUNED, MODEL),
    "bench out --seconds 0.1": (MODEL, FLOAT_MODEL, UNIFORM8),
    "profile out --seconds 0.1 -o new.json": (FLOAT_MODEL, PLACEMENT, INDICATORS),
    "ship out models": ("bundle/model.onnx", "bundle/manifest.json"),
    "verify out/bundle": ("bundle/model.onnx", "bundle/manifest.json", "bundle/labels.txt"),
}
"""Commands that are given a build's folder, and what they read there."""

GIVEN = {
    "evaluate {} --data digits": (MODEL, FLOAT_MODEL),
    "lint {} --target onnxruntime": (MODEL, UNIFORM8),
    "bench {} --seconds 0.1": (MODEL, FLOAT_MODEL),
    "unpack {} -o new.onnx": (MODEL,),
    "search {} --like w4a4 -o new.json": (INDICATORS,),
    "sweep {} --gbitops 0.01:0.02:2 -o new.json": (INDICATORS,),
    "diff {} mine.json": (POLICY,),
    "table {} --indicators mine-indicators.json -o new.csv": (POLICY,),
    "preview {} --build out": (POLICY,),
    "bench compare {} mine-latency.json": ("latency.json",),
    "bench merge {}": ("latency.json",),
    "build --policy {} --out other": (POLICY,),
    "build --weights {} --out other": (FLOAT_WEIGHTS,),
}
"""Commands that are given one file, which happens to lie in a build's folder."""

FOLDER_CASES = [(command, file) for command, files in READERS.items() for file in files]
FILE_CASES = [(command, file) for command, files in GIVEN.items() for file in files]


@contextlib.contextmanager
def flipped(path: Path) -> Iterator[None]:
    """One bit of a file the other way round, in a place that its name chooses."""
    before = path.read_bytes()
    at, bit = divmod(zlib.crc32(path.name.encode()) % (8 * len(before)), 8)
    path.write_bytes(before[:at] + bytes([before[at] ^ 1 << bit]) + before[at + 1 :])
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="module")
def build(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the build for this file alone: each test leaves it as it was."""
    folder = tmp_path_factory.mktemp("changed")
    for name, mine in (
        (POLICY, "mine.json"),
        (INDICATORS, "mine-indicators.json"),
        ("latency.json", "mine-latency.json"),
    ):
        shutil.copy(finished / name, folder / mine)
    return Path(shutil.copytree(finished, folder / "out"))


@pytest.fixture(autouse=True)
def in_its_folder(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(build.parent)


@pytest.mark.parametrize(("command", "file"), FOLDER_CASES)
def test_a_command_on_a_build_refuses_a_changed_file_of_it(
    build: Path, refused: Refused, command: str, file: str
) -> None:
    with flipped(build / file):
        refused(*command.split(), words=("out/bundle",) if "bundle" in file else (f"out/{file}", "the build again"))
    assert not list(build.parent.glob("new.*"))
    assert not (build.parent / "models").exists()


@pytest.mark.parametrize(("command", "file"), FILE_CASES)
def test_a_command_on_a_file_that_lies_in_a_build_refuses_it_where_it_has_changed(
    build: Path, refused: Refused, command: str, file: str
) -> None:
    with flipped(build / file):
        refused(*command.format(f"out/{file}").split(), words=(f"out/{file}", "SHA-256", "another folder"))
    assert not list(build.parent.glob("new.*"))
    assert not (build.parent / "other").exists()


def test_every_output_of_every_stage_is_refused_when_it_has_changed(build: Path) -> None:
    stages = json.loads((build / "stages.json").read_text())["stages"]
    tried = 0
    for stage, done in stages.items():
        for name in done["outputs"]:
            path = build / name
            inner = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            for file in inner:
                with flipped(file), pytest.raises(FileChanged, match=rf"{name} is not what the stage '{stage}' wrote"):
                    BuildFiles(build).path(name)
                tried += 1
            assert BuildFiles(build).path(name) == path
    assert tried > 25


def test_a_flipped_bit_of_the_record_itself_is_no_way_in(build: Path, refused: Refused) -> None:
    text = (build / "stages.json").read_text()
    recorded = json.loads(text)["stages"]["export"]["outputs"][MODEL]
    try:
        (build / "stages.json").write_text(
            text.replace(recorded, recorded[:-1] + ("0" if recorded[-1] != "0" else "1"))
        )
        refused("bench", "out", words=(MODEL, "SHA-256"))
        (build / "stages.json").write_text(text.replace(f'"{MODEL}"', '"model.qdq.onny"'))
        refused("bench", "out", words=(MODEL, "no finished stage"))
        (build / "stages.json").write_text(text[:-20])
        refused("bench", "out", words=("stages.json",))
        (build / "stages.json").unlink()
        refused("bench", "out", words=("out has no stages.json", "copy it along"))
    finally:
        (build / "stages.json").write_text(text)


def test_unchanged_files_are_read_and_so_are_files_of_ones_own(build: Path, run: Command) -> None:
    for command in (
        "evaluate out/model.qdq.onnx --data digits",
        "preview out/policy.json --build out",
        "verify out/bundle",
    ):
        assert run(*command.split()).exit_code == 0
    shutil.copy(build / MODEL, build / "mine.onnx")
    with flipped(build / MODEL):
        assert run("evaluate", "out/mine.onnx", "--data", "digits").exit_code == 0
    (build / "mine.onnx").unlink()


def test_a_few_files_without_their_build_are_taken_as_they_are(build: Path, run: Command, tmp_path: Path) -> None:
    (tmp_path / "few/baselines").mkdir(parents=True)
    for name in (FLOAT_MODEL, PLACEMENT, INDICATORS):
        shutil.copy(build / name, tmp_path / "few" / name)
    result = run("profile", tmp_path / "few", "--seconds", "0.05", "--graphs", "0", "-o", tmp_path / "table.json")
    assert result.exit_code == 0
