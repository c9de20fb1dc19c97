"""A model that takes images as uint8 pixels: the normalisation becomes the first operators of its graph.

    images uint8 NCHW -> DequantizeLinear(1 / (255 std), one scale for each channel) -> Sub(mean / std) -> as before

in the very arithmetic of `Preprocess.normalise`: a float32 product, a float32 difference. So every pixel gives the
same float, its first quantizer the same code, and the file the same logits as the one of normalised floats, bit by bit.
The first layer stays in integers. TensorRT has no uint8 codes: there the pixels go through Cast and Mul. (A pixel as
the first code itself, without any float, needs one mean and std for all channels and a mean on the grid of pixels.)
"""

import json
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.graph.checked import check

PREPROCESS_KEY = "limpq.preprocess"
"""Metadata of an exported model: how its input is made from an image, as JSON."""


def with_pixel_input(model: onnx.ModelProto, preprocess: Preprocess, *, codes: bool = True) -> onnx.ModelProto:
    """A copy of a model of normalised float images that takes their pixels.

    ``codes``: whether the runtime dequantizes uint8 (ONNX Runtime); else Cast and Mul are written. The metadata says
    that images are no longer normalised before. Raises ModelError where the input is not one tensor of float32 images.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    image = graph.input[0]
    if len(graph.input) != 1 or image.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ModelError("the model does not take one tensor of float32 images, so it cannot take pixels instead")
    name, normalised = image.name, f"{image.name}.normalised"
    for node in graph.node:
        for index, read in enumerate(node.input):
            if read == name:
                node.input[index] = normalised
    scale = (1 / (255 * np.array(preprocess.std))).astype(np.float32)
    shift = (np.array(preprocess.mean) / np.array(preprocess.std)).astype(np.float32)[:, None, None]
    nodes, constants = _scaled(name, scale) if codes else _multiplied(name, scale)
    if np.any(shift):
        constants[f"{name}.shift"] = shift
        nodes.append(helper.make_node("Sub", [f"{name}.scaled", f"{name}.shift"], [normalised], name=normalised))
    else:
        nodes[-1].output[0] = normalised
    image.type.tensor_type.elem_type = TensorProto.UINT8
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
    texts = {entry.key: entry.value for entry in changed.metadata_props}
    texts[PREPROCESS_KEY] = json.dumps(to_dict(preprocess.of_pixels()))
    helper.set_model_props(changed, dict(sorted(texts.items())))
    check(changed)
    return changed


def as_pixels(images_NCHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Whole numbers from 0 to 255 as uint8. Raises ModelError for others: images that were normalised already."""
    pixels = images_NCHW.astype(np.uint8)
    if not np.array_equal(pixels, images_NCHW):
        raise ModelError(
            f"the model takes pixels, whole numbers from 0 to 255, and found {images_NCHW.min():g} to "
            f"{images_NCHW.max():g}; give images that are not normalised"
        )
    return pixels


def _scaled(name: str, scale: NDArray[np.float32]) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    constants: dict[str, NDArray[Any]] = {
        f"{name}.scale": scale,
        f"{name}.zero_point": np.zeros(len(scale), np.uint8),
    }
    node = helper.make_node("DequantizeLinear", [name, *constants], [f"{name}.scaled"], name=f"{name}.scaled", axis=1)
    return [node], constants


def _multiplied(name: str, scale: NDArray[np.float32]) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    nodes = [
        helper.make_node("Cast", [name], [f"{name}.float"], name=f"{name}.float", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [f"{name}.scaled"], name=f"{name}.scaled"),
    ]
    return nodes, {f"{name}.scale": scale[:, None, None]}
