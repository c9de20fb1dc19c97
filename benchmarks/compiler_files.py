"""Files for TensorRT of every kind, of one network: what `compiler.py` and the tests give to NVIDIA's compiler.

Weights are the network's own and scales nobody's (`timing_graph`): what a compiler makes of a file depends on its
nodes, types and shapes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.export.graph.pixel_input import with_pixel_input
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.records.targets import TENSORRT
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_FORMS
from limpq_deploy.export.timing.timing_graph import timing_graph
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place

KINDS = ("float", "w8a8", "w4a4", "mixed", "pow2", "pixels", "weights")
"""No quantizer; 8 and 4 bits; 8, 4 and 16 bits (islands of FP16) in turn; scales of powers of two; uint8 images;
weights of 4 bits (the first and last layer's of 8) and activations in float."""

FORMS = tuple(TENSORRT_FORMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A traced network, and where its quantizers stand."""

    name: str
    traced: TracedModel
    placement: Placement
    weights_only: Placement


def subject_of(name: str, model: nn.Module, shape: tuple[int, int, int]) -> Subject:
    """``shape``: of one image."""
    torch.manual_seed(0)
    traced = trace(model.eval(), shape)
    return Subject(
        name=name,
        traced=traced,
        placement=place(traced, TENSORRT, model=name),
        weights_only=place(traced, TENSORRT, model=name, act_bits=16),
    )


def files(subject: Subject, form: str, kinds: tuple[str, ...] = KINDS) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Files in one form, by kind."""
    template = _template(subject.traced, subject.placement, form)
    for kind in kinds:
        if kind == "float":
            yield kind, strip_markers(template)
        elif kind == "weights":
            bare = _template(subject.traced, subject.weights_only, form)
            pairs = {layer.name: (4, 16) for layer in subject.weights_only.layers}
            yield kind, timing_graph(bare, subject.weights_only, pairs, name=kind)
        else:
            model = timing_graph(template, subject.placement, _policy(subject.placement, kind), name=kind)
            if kind == "pow2":
                _round_scales(model)
            yield kind, with_pixel_input(model, _preprocess(subject), codes=False) if kind == "pixels" else model


def _preprocess(subject: Subject) -> Preprocess:
    channels, height, width = subject.placement.input_shape
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Preprocess(height=height, width=width, channels=channels, mean=mean[:channels], std=std[:channels])


def _policy(placement: Placement, kind: str) -> dict[str, BitPair]:
    """Bits of the searched layers. Layers that read one tensor get one pair."""
    names = list(dict.fromkeys(layer.input for layer in placement.searched))
    widths: tuple[BitPair, ...] = {"w4a4": ((4, 4),), "mixed": ((8, 8), (16, 16), (4, 4))}.get(kind, ((8, 8),))
    chosen = dict(zip(names, cycle(widths), strict=False))
    return {layer.name: chosen[layer.input] for layer in placement.searched}


def _template(traced: TracedModel, placement: Placement, form: str) -> onnx.ModelProto:
    return float_template(traced, placement, TENSORRT_FORMS[form].opset)


def _round_scales(model: onnx.ModelProto) -> None:
    """Make every scale of a quantizer a power of two, in place."""
    scales = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            value = np.exp2(np.rint(np.log2(numpy_helper.to_array(tensor)))).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
