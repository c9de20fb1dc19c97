"""What each module and function of a traced graph is to a quantizer: the one table of supported operations."""

import operator
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional as F

from limpq_deploy.model.enlarging import enlarged

Kind = Literal[
    "input",
    "layer",
    "batchnorm",
    "relu",
    "gate",
    "function",
    "add",
    "mul",
    "concat",
    "pool",
    "through",
    "float",
    "constant",
    "shape",
    "output",
]
"""``relu``: cut at 0, and at an upper bound where it has one (ReLU6). ``gate``: a function of single values, from 0 to
1; ``function``: any other (`functions`). ``through``: moves or chooses values, so that it acts on codes as it acts on
reals. ``float``: anything else, computed in float between quantizers. ``constant``: what follows from parameters and
buffers alone. ``shape``: no tensor."""

Lowest = Literal["zero", "near", "free"]
"""Negative values of a tensor: none; few and small beside the positive ones, as behind a SiLU; any."""

MODULE_KINDS: dict[type[nn.Module], Kind] = {
    nn.Conv2d: "layer",
    nn.Linear: "layer",
    nn.BatchNorm1d: "batchnorm",
    nn.BatchNorm2d: "batchnorm",
    nn.ReLU: "relu",
    nn.ReLU6: "relu",
    nn.Hardtanh: "relu",
    nn.Sigmoid: "gate",
    nn.Hardsigmoid: "gate",
    nn.AdaptiveAvgPool2d: "pool",
    nn.AvgPool2d: "pool",
    nn.MaxPool2d: "through",
    nn.Flatten: "through",
    nn.Identity: "through",
    nn.Dropout: "through",
    nn.Dropout1d: "through",
    nn.Dropout2d: "through",
    nn.AlphaDropout: "through",
    nn.FeatureAlphaDropout: "through",
    nn.ZeroPad2d: "through",
    nn.Unflatten: "through",
    nn.PixelShuffle: "through",
    nn.PixelUnshuffle: "through",
}
FUNCTION_KINDS: dict[Callable[..., Any], Kind] = {
    operator.add: "add",
    torch.add: "add",
    operator.mul: "mul",
    torch.mul: "mul",
    torch.cat: "concat",
    torch.concat: "concat",
    F.relu: "relu",
    torch.relu: "relu",
    F.relu6: "relu",
    F.hardtanh: "relu",
    torch.sigmoid: "gate",
    F.sigmoid: "gate",
    F.hardsigmoid: "gate",
    torch.flatten: "through",
    operator.getitem: "through",
    F.pad: "through",
    torch.transpose: "through",
    torch.permute: "through",
    torch.swapaxes: "through",
    torch.reshape: "through",
    torch.squeeze: "through",
    torch.unsqueeze: "through",
    torch.unflatten: "through",
    torch.movedim: "through",
    torch.select: "through",
    torch.narrow: "through",
    torch.index_select: "through",
    enlarged: "through",
    F.pixel_shuffle: "through",
    F.pixel_unshuffle: "through",
    F.max_pool2d: "through",
    torch.max_pool2d: "through",
    F.adaptive_avg_pool2d: "pool",
    F.avg_pool2d: "pool",
    torch.mean: "pool",
}
METHOD_KINDS: dict[str, Kind] = {
    "add": "add",
    "mul": "mul",
    "relu": "relu",
    "sigmoid": "gate",
    "flatten": "through",
    "view": "through",
    **dict.fromkeys(("reshape", "transpose", "permute", "swapaxes", "movedim", "squeeze", "unsqueeze"), "through"),
    **dict.fromkeys(("unflatten", "expand", "select", "narrow"), "through"),
    "mean": "pool",
}
WRITTEN_KINDS: dict[object, Kind] = {
    **dict.fromkeys((nn.Conv1d, nn.ConvTranspose1d, nn.ConvTranspose2d), "layer"),
    **dict.fromkeys((nn.AvgPool1d, nn.AdaptiveAvgPool1d, F.avg_pool1d, F.adaptive_avg_pool1d), "pool"),
    **dict.fromkeys((nn.MaxPool1d, F.max_pool1d, torch.max_pool1d, torch.amax), "through"),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d), "through"),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d), "through"),
}
"""What is written as something else, and is of this kind then: by `signals`, `transposed_convolutions`, `axis_pools`,
`movers`."""
DO_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
"""Modules that hand on their input in evaluation mode."""
NEGATIVE_VALUES: dict[object, Lowest] = {
    **dict.fromkeys((nn.GELU, F.gelu, nn.Mish, F.mish), "near"),
    **dict.fromkeys((nn.Softmax, F.softmax, torch.softmax, "softmax", nn.Softplus, F.softplus), "zero"),
    **dict.fromkeys((torch.abs, "abs", torch.exp, "exp", torch.square, "square"), "zero"),
}
"""Of what is computed in float; whatever is not named may have any."""
AUGMENTED: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.imatmul: operator.matmul,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
}
"""``x += y`` is ``operator.iadd``; out of place it is ``operator.add``."""
SUPPORTED = (
    "Conv1d, Conv2d, Linear, BatchNorm, ReLU, ReLU6, SiLU, Hardswish, Sigmoid, Hardsigmoid, add, "
    "multiply, concatenate, average pools, MaxPool2d, Flatten, slice, zero pad"
)


def operation(node: fx.Node, graph_module: nn.Module) -> tuple[Kind | None, str]:
    """The table's word for a call, None where it has none, and what to name it in a sentence."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        return MODULE_KINDS.get(type(module)), f"{node.target} ({type(module).__name__})"
    if node.op == "call_function":
        name = getattr(node.target, "__name__", str(node.target))
        return FUNCTION_KINDS.get(node.target), f"{node.name} ({name})"  # type: ignore[arg-type]
    return (METHOD_KINDS.get(str(node.target)) if node.op == "call_method" else None), str(node.target)


def does_nothing(node: fx.Node, graph_module: nn.Module) -> bool:
    """Whether a call hands its input on unchanged: Identity, and a Dropout, which acts in training only."""
    return node.op == "call_module" and isinstance(graph_module.get_submodule(str(node.target)), DO_NOTHING)


def relu_bounds(node: fx.Node, graph_module: nn.Module) -> tuple[float, float | None]:
    """Where a ``relu`` cuts: below at (0 but for a Hardtanh of the user's), above at (None: nowhere)."""
    if node.op == "call_module":
        module = graph_module.get_submodule(str(node.target))
        return (module.min_val, module.max_val) if isinstance(module, nn.Hardtanh) else (0.0, None)
    if node.target is F.relu6:
        return 0.0, 6.0
    if node.target is F.hardtanh:
        given = [*node.args[1:3], *([None] * (3 - len(node.args)))]
        low, high = (
            node.kwargs.get(name, default) if value is None else value
            for value, name, default in zip(given, ("min_val", "max_val"), (-1.0, 1.0), strict=True)
        )
        return float(low), float(high)  # type: ignore[arg-type]
    return 0.0, None


def float_result(node: fx.Node, graph_module: nn.Module) -> tuple[Kind | None, Lowest | None]:
    """Of a node that is computed in float: its kind in the table as far as its values are bounded by those that it
    reads, else None; and the negative values that it has whatever it reads, None where they depend on that."""
    kind = operation(node, graph_module)[0]
    if kind == "relu":
        return kind, "zero" if relu_bounds(node, graph_module)[0] >= 0 else "free"
    called = type(graph_module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
    if called in NEGATIVE_VALUES:
        return None, NEGATIVE_VALUES[called]
    same = kind in ("pool", "through") and len(node.all_input_nodes) == 1
    return (kind, None) if same else (None, "free")
