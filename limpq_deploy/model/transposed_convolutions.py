"""A ConvTranspose2d as a convolution and a pixel shuffle, which have integer forms everywhere.

Along one axis, with stride s, kernel k and K = ceil(k / s), the result before it is cropped is

    y[s m + r] = sum over j < K of x[m - j] w[r + s j],   0 <= r < s

so that for each r it is a convolution of kernel K, with K - 1 zeros before and behind: s * s channels for one, which a
pixel shuffle puts between each other. Where s divides k (2x2 with stride 2, 4x4 with stride 2) no weight is zero and
the work is the same; else K * s - k taps along each axis are. BatchNorm and ReLU behind it come before the shuffle,
each channel's numbers once for every r.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from limpq_deploy.model.movers import note_shape
from limpq_deploy.model.on_meta import OnMeta
from limpq_deploy.model.operations import operation


def write_convolutions(graph_module: fx.GraphModule) -> None:
    """Rewrite, in place, a graph whose shapes are noted; what has two strides, or dilation, stays."""
    on_meta = OnMeta(graph_module)
    calls = [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    for node in list(graph_module.graph.nodes):
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.ConvTranspose2d) and calls.count(str(node.target)) == 1 and _has_form(module, node):
            _write(node, module, graph_module, on_meta)
    graph_module.recompile()


def _has_form(module: nn.ConvTranspose2d, node: fx.Node) -> bool:
    plain = module.stride[0] == module.stride[1] and tuple(module.dilation) == (1, 1) and len(node.all_input_nodes) == 1
    pads: Any = zip(module.output_padding, module.padding, strict=True)
    beyond = any(more > before for more, before in pads)
    return plain and not beyond and module.padding_mode == "zeros"


def _write(node: fx.Node, module: nn.ConvTranspose2d, graph_module: fx.GraphModule, on_meta: OnMeta) -> None:
    graph, side = graph_module.graph, module.stride[0]
    size = node.meta["tensor_meta"].shape[2:]
    graph_module.set_submodule(str(node.target), _convolution(module))
    last, chain = node, [node]
    while len(last.users) == 1 and _follows(reader := next(iter(last.users)), graph_module):
        last = reader
        chain.append(last)
        norm = graph_module.get_submodule(str(last.target)) if last.op == "call_module" else None
        if isinstance(norm, nn.BatchNorm2d):
            graph_module.set_submodule(str(last.target), _repeated(norm, side**2))
    with graph.inserting_after(last):
        shuffled = graph.call_function(F.pixel_shuffle, (last, side)) if side > 1 else last
    cut = tuple(slice(start, start + length) for start, length in zip(module.padding, size, strict=True))
    with graph.inserting_after(shuffled):
        cropped = graph.call_function(operator.getitem, (shuffled, (slice(None), slice(None), *cut)))
    last.replace_all_uses_with(cropped, delete_user_cb=lambda user: user not in (shuffled, cropped))
    shape = node.meta["tensor_meta"]
    fresh = OnMeta(graph_module)
    for one in dict.fromkeys((*chain, shuffled, cropped)):
        one.meta.update({key: value for key, value in node.meta.items() if key not in one.meta})
        note_shape(one, fresh)
    assert cropped.meta["tensor_meta"].shape == shape.shape


def _follows(node: fx.Node, graph_module: nn.Module) -> bool:
    """Whether a call treats every channel by itself, as a convolution's own BatchNorm and ReLU do."""
    module: Any = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return isinstance(module, nn.BatchNorm2d) or operation(node, graph_module)[0] == "relu"


def _convolution(module: nn.ConvTranspose2d) -> nn.Conv2d:
    side, groups = module.stride[0], module.groups
    reach = [-(-size // side) for size in module.kernel_size]
    weight = _weight(module.weight.detach(), side, reach, groups)
    layer = nn.Conv2d(
        module.in_channels,
        module.out_channels * side**2,
        tuple(reach),  # type: ignore[arg-type]
        padding=tuple(size - 1 for size in reach),  # type: ignore[arg-type]
        groups=groups,
        bias=module.bias is not None,
        device="meta",
    )
    layer.weight = nn.Parameter(weight)
    if module.bias is not None:
        layer.bias = nn.Parameter(module.bias.detach().repeat_interleave(side**2))
    return layer.eval()


def _weight(weight_IOHW: Tensor, side: int, reach: list[int], groups: int) -> Tensor:
    """[O * side * side, I / groups, K, K] of [I, O / groups, k, k]."""
    inputs, outputs, *kernel = weight_IOHW.shape
    padded = F.pad(weight_IOHW, (0, reach[1] * side - kernel[1], 0, reach[0] * side - kernel[0]))
    taps = padded.reshape(groups, inputs // groups, outputs, reach[0], side, reach[1], side).flip(3, 5)
    ordered = taps.permute(0, 2, 4, 6, 1, 3, 5)  # group, output, row, column, input, taps
    return ordered.reshape(groups * outputs * side**2, inputs // groups, *reach).contiguous()


def _repeated(norm: nn.BatchNorm2d, times: int) -> nn.BatchNorm2d:
    found = nn.BatchNorm2d(norm.num_features * times, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for own in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(norm, own)
        if value is not None:
            more = torch.repeat_interleave(value.detach(), times)
            setattr(found, own, nn.Parameter(more) if own in norm._parameters else more)
    return found.eval()
