"""Models are checked whole, and their weights are not copied for it."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.export.graph.checked import LARGE, check


def dense(inputs: int, width: int) -> onnx.ModelProto:
    """images [N, inputs] times a weight [width, 2048]; it fits where there are 2048 inputs."""
    weight = numpy_helper.from_array(np.zeros((width, 2048), np.float32), "fc.weight")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["images", "fc.weight"], ["logits"], transB=1)],
        "dense",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", inputs])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", width])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_a_large_weight_of_the_wrong_shape_is_found() -> None:
    assert LARGE < 2 * 2048
    check(dense(2048, 2))
    with pytest.raises(onnx.shape_inference.InferenceError):
        check(dense(1024, 2))


def test_what_a_model_says_beside_its_graph_is_checked_too() -> None:
    twice = dense(2048, 2)
    for value in ("1", "2"):
        twice.metadata_props.add(key="a", value=value)
    with pytest.raises(onnx.checker.ValidationError, match="duplicate keys"):
        check(twice)
    sparse = dense(2048, 2)
    sparse.graph.sparse_initializer.add(dims=[2])
    with pytest.raises(onnx.checker.ValidationError):
        check(sparse)


PROGRAM = """
import resource, sys
import numpy as np, onnx
sys.path.insert(0, sys.argv[1])
from test_checked import dense
from limpq_deploy.export.qdq.build import strip_markers

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

strip_markers(dense(2048, 2))
template = dense(2048, 16384)
before = peak()
strip_markers(template)
print((peak() - before) / 128)
"""


def test_a_float_model_is_made_of_a_template_in_the_memory_of_one() -> None:
    here = __file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", PROGRAM, here], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The model itself, and the bytes of its one tensor while they are checked. The checker's own three copies make 4.
    assert float(done.stdout) < 2.5
