import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limpq_deploy.calibration.errors import OutputError
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.ship.bundle import write_bundle
from limpq_deploy.export.ship.manifest import Manifest
from limpq_deploy.export.ship.verify import load_manifest, verify_bundle

INPUTS = np.linspace(-1, 1, 4 * 1 * 2 * 2, dtype=np.float32).reshape(4, 1, 2, 2)


def write(folder: Path, **changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "files": {"model.onnx": b"a model", "labels.txt": b"zero\none\n"},
        "model": "resnet8",
        "target": "onnxruntime",
        "model_file": "model.onnx",
        "canary_inputs_NCHW": INPUTS,
        "canary_outputs": INPUTS.reshape(4, 4),
        "environment": read_environment(()),
        "versions": {"limpq-deploy": "0.1.0"},
        "policy": {"bits": {"conv": {"weight": 4, "act": 4}}},
    }
    return write_bundle(folder, **(facts | changes))


def test_manifest_lists_every_file_with_size_and_digest_and_is_what_was_returned(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_bytes(b"zero\none\n")
    written = write(tmp_path / "bundle", files={"model.onnx": b"a model", "labels.txt": source})
    assert [(file.name, file.size) for file in written.files[2:]] == [("labels.txt", 9), ("model.onnx", 7)]
    assert load_manifest(tmp_path / "bundle") == written
    assert verify_bundle(tmp_path / "bundle").files == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "source.txt"]


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    environment = read_environment(())
    for name in ("one", "two"):
        write(tmp_path / name, environment=environment)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_files_may_stand_in_folders(tmp_path: Path) -> None:
    write(tmp_path / "bundle", files={"1/model.onnx": b"a model"}, model_file="1/model.onnx")
    assert (tmp_path / "bundle/1/model.onnx").read_bytes() == b"a model"
    assert verify_bundle(tmp_path / "bundle").files == 3


def test_an_older_bundle_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path / "bundle", files={"model.onnx": b"old", "old.txt": b"old"})
    write(tmp_path / "bundle", files={"model.onnx": b"new"})
    assert (tmp_path / "bundle/model.onnx").read_bytes() == b"new"
    assert not (tmp_path / "bundle/old.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(OutputError, match="it is no bundle to replace"):
        write(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


def test_a_missing_source_file_is_named_and_the_old_bundle_stays(tmp_path: Path) -> None:
    old = write(tmp_path / "bundle")
    with pytest.raises(OutputError, match=r"No such file or directory: .*gone\.onnx"):
        write(tmp_path / "bundle", files={"model.onnx": tmp_path / "gone.onnx"})
    assert load_manifest(tmp_path / "bundle") == old
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/model.onnx", "a//b", ".hidden", "manifest.json", "a\\b", "", "a/.."]
)
def test_names_that_lead_elsewhere_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        write(tmp_path / "bundle", files={"model.onnx": b"", name: b""})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (INPUTS.astype(np.float64), INPUTS.reshape(4, 4), "float64"),
        (INPUTS, INPUTS.reshape(2, 8), "4 canary inputs need as many outputs"),
        (INPUTS, np.full((4, 4), np.nan, np.float32), "not finite"),
        (INPUTS[:0], INPUTS[:0].reshape(0, 4), "at least one"),
    ],
)
def test_canaries_that_cannot_be_compared_are_refused(
    tmp_path: Path, inputs: np.ndarray, outputs: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "bundle", canary_inputs_NCHW=inputs, canary_outputs=outputs)


WRITER = """
import sys, numpy as np
from pathlib import Path
from limpq_deploy.export.ship.bundle import write_bundle
from limpq_deploy.export.records.environment import read_environment
for number in range(1_000_000):
    write_bundle(
        Path(sys.argv[1]), {"model.onnx": bytes([number % 256]) * 3_000_000}, model="m", target="t",
        model_file="model.onnx", canary_inputs_NCHW=np.zeros((1, 1, 1, 1), np.float32),
        canary_outputs=np.zeros((1, 2), np.float32), environment=read_environment(()), versions={}, policy={},
    )
    print(number, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_bundle_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    delays = np.random.default_rng(0).uniform(0, 0.03, size=6)
    for delay in delays:
        with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline(), "the writer failed"
            time.sleep(delay)
            writer.kill()
        assert verify_bundle(folder).files == 3
    write(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_where_folders_cannot_be_exchanged_the_old_one_is_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "limpq_deploy.export.ship.atomic_folder._exchange", lambda one, other: False
    )  # as outside Linux
    write(tmp_path / "bundle", files={"model.onnx": b"old"})
    write(tmp_path / "bundle", files={"model.onnx": b"new"})
    assert (tmp_path / "bundle/model.onnx").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write the bundle .* choose a folder that you may write to"):
        write(tmp_path / "file" / "bundle")


@pytest.mark.parametrize("manifest", ["keep", '{"name": "a web page"}'])
def test_a_bundle_with_a_file_that_no_bundle_wrote_is_not_replaced(tmp_path: Path, manifest: str) -> None:
    write(tmp_path / "bundle", files={"model.onnx": b"old", "old.txt": b"old"})
    if manifest != "keep":
        (tmp_path / "bundle/manifest.json").write_text(manifest)
        (tmp_path / "bundle/old.txt").unlink()
    (tmp_path / "bundle/thesis.txt").write_text("three years of work")
    with pytest.raises(OutputError, match=r"holds 'thesis\.txt', which no bundle wrote"):
        write(tmp_path / "bundle", files={"model.onnx": b"new"})
    assert (tmp_path / "bundle/model.onnx").read_bytes() == b"old"


def test_a_damaged_bundle_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "bundle", files={"model.onnx": b"old"})
    (tmp_path / "bundle/manifest.json").write_bytes(b"{")
    write(tmp_path / "bundle", files={"model.onnx": b"new"})
    assert (tmp_path / "bundle/model.onnx").read_bytes() == b"new"
