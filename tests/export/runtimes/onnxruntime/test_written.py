"""What ONNX Runtime could not write whole is refused in a sentence that names the folder; it sends nothing home."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.errors import OutputError
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.onnxruntime.package import load_onnxruntime
from limpq_deploy.export.runtimes.onnxruntime.profile import profile_nodes
from limpq_deploy.export.runtimes.onnxruntime.written import read_events, read_graph


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["logits"], name="relu")], "one", ends[:1], ends[1:])
    path = tmp_path / "files" / "one.onnx"
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def files_end_at() -> Iterator[Callable[[int], None]]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 2_000])
def test_a_disk_that_is_full_under_the_profiler_is_told(
    model: Path, files_end_at: Callable[[int], None], room: int
) -> None:
    runtime = runtime_named("onnxruntime")
    profile_nodes(runtime, model, threads=1, calls=50)
    files_end_at(room)
    with pytest.raises(OutputError, match="make room there, or name another folder in TMPDIR"):
        profile_nodes(runtime, model, threads=1, calls=50)


def test_what_is_cut_off_or_missing_is_refused(model: Path, tmp_path: Path) -> None:
    whole, cut = model.read_bytes(), tmp_path / "files" / "cut"
    assert read_graph(model).graph.node[0].op_type == "Relu"
    cut.write_bytes(whole[:-3])
    with pytest.raises(OutputError, match="did not write the graph whole to the folder"):
        read_graph(cut)
    with pytest.raises(OutputError, match="did not write the graph whole"):
        read_graph(tmp_path / "files" / "missing")
    for text in ("", "[", '[{"cat": "No', '[{"cat": "Node"},'):
        cut.write_text(text)
        with pytest.raises(OutputError, match="did not write the profile whole"):
            read_events(cut)


def test_the_runtime_is_told_to_send_nothing_but_what_the_user_says_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    load_onnxruntime("onnxruntime", "cpu")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    load_onnxruntime("onnxruntime", "cpu")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
