"""Everything that an export for TensorRT holds is what its ONNX parser was seen to take.

`READ` says, for each operator, in which forms the importers of 8.6, 10.6 and 10.15 take it (where they were read:
`limpq_deploy.export.lint.tensorrt_parser`). A torch or a change of ours that writes anything else fails here, before a
GPU is asked; then the importers are to be read again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, shape_inference

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from limpq_deploy.calibration.datasets.preprocess import Preprocess  # noqa: E402
from limpq_deploy.export.graph.onnx_files import attribute, constants  # noqa: E402
from limpq_deploy.export.graph.pixel_input import with_pixel_input  # noqa: E402
from limpq_deploy.export.graph.split_at_quantizers import cut_model  # noqa: E402
from limpq_deploy.export.graph.to_float16 import in_half  # noqa: E402
from limpq_deploy.export.lint.check import static_findings  # noqa: E402
from limpq_deploy.export.qdq.build import build_qdq, strip_markers  # noqa: E402
from limpq_deploy.export.records.targets import TENSORRT  # noqa: E402
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_FORMS  # noqa: E402
from limpq_deploy.export.reference.self_test import tiny_model  # noqa: E402
from limpq_deploy.model.float_template import float_template  # noqa: E402
from limpq_deploy.model.layers import trace  # noqa: E402
from limpq_deploy.model.place import place  # noqa: E402
from limpq_deploy.quant.fold_model import integer_model  # noqa: E402
from limpq_deploy.quant.quantized_model import model_of_policy  # noqa: E402

SHAPE = (3, 16, 16)
FLOAT, HALF, UINT8 = int(TensorProto.FLOAT), int(TensorProto.FLOAT16), int(TensorProto.UINT8)
INT8, INT64 = int(TensorProto.INT8), int(TensorProto.INT64)
FLOATS = {FLOAT, HALF}


@dataclass(frozen=True, kw_only=True)
class Form:
    """``inputs``: "t" computed, "c" constant, "*" either; ``types``: of the inputs, where a set stands for one type
    that all inputs with that set share. ``attributes``: names, with the only value where not every one is taken."""

    inputs: tuple[str, ...]
    types: tuple[set[int], ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


def alike(inputs: str, attributes: Mapping[str, Any] | None = None) -> Form:
    """All inputs of one float type."""
    return Form(inputs=tuple(inputs), types=(FLOATS,) * len(inputs), attributes=attributes or {})


ANY = object()
WINDOW = {"kernel_shape": ANY, "pads": ANY, "strides": ANY, "auto_pad": "NOTSET"}
READ: Mapping[str, tuple[Form, ...]] = {
    # activation layers; bounds that are constants become kCLIP, computed ones two elementwise layers
    "Relu": (alike("t"),),
    "Clip": (alike("tcc"),),
    "Sigmoid": (alike("t"),),
    "HardSigmoid": (alike("t", {"alpha": ANY, "beta": ANY}),),
    # elementwise layers, which broadcast
    "Add": (alike("t*"),),
    "Mul": (alike("t*"),),
    "Sub": (alike("t*"),),
    # a computed weight: `convMultiInput`; the bias is a constant of the layer
    "Conv": (alike("t*c", {**WINDOW, "dilations": ANY, "group": ANY}),),
    # a matrix product and an elementwise sum
    "Gemm": (alike("t*c", {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}),),
    "MaxPool": (alike("t", {**WINDOW, "ceil_mode": 0, "dilations": [1, 1], "storage_order": 0}),),
    "GlobalAveragePool": (alike("t"),),
    "Concat": tuple(alike("t" * count, {"axis": ANY}) for count in (2, 3, 4)),
    # shuffles and slices; a free batch stands as -1
    "Flatten": (alike("t", {"axis": ANY}),),
    "Reshape": (Form(inputs=("t", "c"), types=(FLOATS, {INT64}), attributes={"allowzero": ANY}),),
    "Pad": (Form(inputs=("t", "c"), types=(FLOATS, {INT64}), attributes={"mode": "constant"}),),
    "Slice": (Form(inputs=("t", "c", "c", "c", "c"), types=(FLOATS, *({INT64},) * 4)),),
    # pixels may be an input of the network, read by a Cast alone
    "Cast": (Form(inputs=("t",), types=({FLOAT, HALF, UINT8},), attributes={"to": ANY}),),
    # `QuantDequantLinearHelper`: scales FP32 (10: the FP16 of what is made, too), zero-points int8
    "QuantizeLinear": (Form(inputs=("*", "c", "c"), types=({FLOAT}, {FLOAT}, {INT8}), attributes={"axis": 0}),),
    "DequantizeLinear": (Form(inputs=("*", "c", "c"), types=({INT8}, FLOATS, {INT8}), attributes={"axis": 0}),),
}


class Everything(nn.Module):
    """Each operation of the traced path once: see `limpq_deploy.model.operations`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.swish = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardswish()
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.wide, self.pool = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.left, self.right, self.silu = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1), nn.SiLU()
        self.hidden, self.head = nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.stem(x)))
        y = self.swish(self.depthwise(x))
        y = y * torch.sigmoid(self.excite(torch.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        shortcut = F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = self.pool(torch.relu(self.wide(y) + shortcut))
        x = torch.cat([torch.relu(self.left(x)), self.silu(self.right(x))], dim=1)
        return self.head(torch.relu(self.hidden(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))))


MIXED = {
    "depthwise": (4, 5),
    "squeeze": (16, 16),
    "excite": (32, 32),
    "wide": (3, 8),
    "left": (16, 16),
    "right": (16, 16),
    "hidden": (4, 16),
}


def exports(version: str) -> dict[str, onnx.ModelProto]:
    """All kinds of files that are written for a version: mixed widths, weights alone, pixels, the cut file of the
    parity check, the float model and that in FP16."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, images = Everything().eval(), torch.randn(4, *SHAPE)
    traced, form = trace(net, SHAPE), TENSORRT_FORMS[version]
    found = {}
    for kind, act_bits in (("mixed", None), ("weights", 16)):
        placement = place(traced, TENSORRT, model="everything", act_bits=act_bits)
        policy = MIXED if act_bits is None else {layer.name: (4, 16) for layer in placement.searched}
        assert policy.keys() == {layer.name for layer in placement.searched}
        model = model_of_policy(traced, placement, policy)
        model.initialise_scales(images)
        model.set_bits(policy)
        layers, acts = integer_model(model.eval(), policy)
        template = float_template(traced, placement, form.opset)
        found[kind] = build_qdq(template, placement, layers, acts, {}, form)
    preprocess = Preprocess(height=16, width=16, channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    found["pixels"] = with_pixel_input(found["mixed"], preprocess, codes=False)
    found["cut"] = cut_model(found["mixed"])[0]
    found["float"] = strip_markers(template)
    found["half"] = in_half(found["float"]).model
    return found


def unread(model: onnx.ModelProto) -> list[str]:
    """Nodes in a form that is not in `READ`."""
    fixed = constants(model.graph)
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (entry for entries in (inferred.value_info, inferred.input, inferred.output) for entry in entries)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return [
        f"{node.op_type} {node.name}: {[types[name] for name in node.input]} "
        f"{['c' if name in fixed else 't' for name in node.input]} {[entry.name for entry in node.attribute]}"
        for node in model.graph.node
        if not any(_is_of(node, form, fixed, types) for form in READ.get(node.op_type, ()))
    ]


def _is_of(node: onnx.NodeProto, form: Form, fixed: Mapping[str, Any], types: Mapping[str, int]) -> bool:
    if len(node.input) != len(form.inputs) or node.domain != "":
        return False
    kinds = ["c" if name in fixed else "t" for name in node.input]
    if any(wanted not in ("*", kind) for wanted, kind in zip(form.inputs, kinds, strict=True)):
        return False
    found: dict[int, set[int]] = {}
    for name, admitted in zip(node.input, form.types, strict=True):
        if types[name] not in admitted:
            return False
        found.setdefault(id(admitted), set()).add(types[name])
    if any(len(kind) > 1 for kind in found.values()):
        return False
    return all(
        entry.name in form.attributes and form.attributes[entry.name] in (ANY, attribute(node, entry.name))
        for entry in node.attribute
    )


@pytest.mark.parametrize("version", TENSORRT_FORMS)
def test_all_files_of_a_version_hold_only_what_its_parser_takes(version: str) -> None:
    found = exports(version)
    assert {kind: unread(model) for kind, model in found.items()} == {kind: [] for kind in found}
    for kind in ("mixed", "weights", "pixels"):
        rules = {finding.rule for finding in static_findings(found[kind], TENSORRT)}
        assert rules <= ({"weights-at-every-call"} if kind == "weights" else set()), kind
    for model in found.values():
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names) == len(set(names) - {tensor.name for tensor in model.graph.initializer})
        assert {entry.name for entry in model.graph.input}.isdisjoint(tensor.name for tensor in model.graph.initializer)
    used = {node.op_type for model in found.values() for node in model.graph.node}
    assert {"Slice", "Pad", "Concat", "HardSigmoid", "Sigmoid", "MaxPool", "Mul", "Sub", "Cast"} <= used


def test_the_self_tests_model_holds_only_what_the_parser_takes() -> None:
    assert unread(tiny_model()) == []


def test_a_form_that_was_not_seen_is_named() -> None:
    model = tiny_model()
    pool = onnx.helper.make_node("AveragePool", ["images"], ["pooled"], name="pooled", kernel_shape=[1, 1])
    model.graph.node.insert(0, pool)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.attribute.append(onnx.helper.make_attribute("alpha", 2.0))
    assert [line.split(":")[0] for line in unread(model)] == ["AveragePool pooled", f"Gemm {gemm.name}"]
    assert np.isclose(attribute(gemm, "alpha"), 2.0)
