"""Small changes to ONNX files that tests make, and looks into them."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    """The node that makes a tensor."""
    return next(node for node in model.graph.node if output in node.output)


def value_of(model: onnx.ModelProto, name: str) -> Any:
    """The value of an initializer."""
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def replace(model: onnx.ModelProto, name: str, value: Any) -> None:
    """Another value, of any type and shape, for an initializer."""
    tensor = next(entry for entry in model.graph.initializer if entry.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def with_a_batchnorm(model: onnx.ModelProto) -> None:
    """A BatchNormalization before the quantizer block1.mid."""
    quantize = node_of(model, "block1.mid_codes")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "ones"))
    inputs = [quantize.input[0], "ones", "ones", "ones", "ones"]
    place = list(model.graph.node).index(quantize)
    model.graph.node.insert(place, helper.make_node("BatchNormalization", inputs, ["normed"], name="norm"))
    quantize.input[0] = "normed"
