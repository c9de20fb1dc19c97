"""A model that is written tensor by tensor is the file that protobuf would write, in a fraction of the memory."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph import written
from limpq_deploy.export.graph.written import write_model


def dense(widths: list[int]) -> onnx.ModelProto:
    """images [N, first] through as many products as there are widths, with texts and shapes beside them."""
    weights = [np.random.default_rng(0).random((one, other), np.float32) for one, other in pairwise(widths)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"t{at}", f"w{at}"], [f"t{at + 1}"]) for at in range(len(weights))],
        "dense",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["N", widths[0]])],
        [helper.make_tensor_value_info(f"t{len(weights)}", TensorProto.FLOAT, ["N", widths[-1]])],
        [numpy_helper.from_array(weight, f"w{at}") for at, weight in enumerate(weights)],
        doc_string="of a test",
        value_info=[helper.make_tensor_value_info("t1", TensorProto.FLOAT, ["N", widths[1]])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="limpq-deploy")
    helper.set_model_props(model, {"b": "2", "a": "1"})
    return model


@pytest.mark.parametrize("widths", [[3, 2], [3, 5, 127, 128, 4], [700, 900, 2]])
def test_the_bytes_are_protobufs_own(widths: list[int], tmp_path: Path) -> None:
    model = dense(widths)
    write_model(tmp_path / "model.onnx", model)
    assert (tmp_path / "model.onnx").read_bytes() == model.SerializeToString(deterministic=True)


def test_a_model_without_weights_is_written_whole(tmp_path: Path) -> None:
    model = dense([3, 2])
    del model.graph.initializer[:]
    write_model(tmp_path / "model.onnx", model)
    assert onnx.load(tmp_path / "model.onnx") == model


def test_a_model_that_no_runtime_could_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = dense([300, 200])
    size = model.ByteSize()
    monkeypatch.setattr(written, "MAX_BYTES", size)
    write_model(tmp_path / "fits.onnx", model)
    monkeypatch.setattr(written, "MAX_BYTES", size - 1)
    with pytest.raises(ModelError, match="less than 2 GiB"):
        write_model(tmp_path / "large.onnx", model)
    assert not (tmp_path / "large.onnx").exists()


PROGRAM = """
import resource, sys
from itertools import pairwise
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_written import dense
from limpq_deploy.export.graph.written import write_model

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

write_model(Path(sys.argv[2]), dense([3, 2]))
model = dense([2048] * 17)
before = peak()
write_model(Path(sys.argv[2]), model)
print((peak() - before) / 256)
"""


def test_it_takes_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.3  # of the model; its largest tensor is a sixteenth, protobuf's bytes two models
