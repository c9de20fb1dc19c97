"""A ConvTranspose2d as a convolution and a pixel shuffle, which have integer forms everywhere.

Along one axis, with stride s, kernel k and K = ceil(k / s), the result before it is cropped is

    y[s m + r] = sum over j < K of x[m - j] w[r + s j],   0 <= r < s

so that for each r it is a convolution of kernel K, with K - 1 zeros before and behind: as many channels for one as
both axes have r, which a pixel shuffle puts between each other. Where s divides k (2x2 with stride 2, 4x4 with stride
2) no weight is zero and the work is the same; else K * s - k taps along each axis are. BatchNorm and ReLU behind it
come before the shuffle, each channel's numbers once for every r.
"""

import operator
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from limpq_deploy.model.movers import note_shape
from limpq_deploy.model.on_meta import OnMeta
from limpq_deploy.model.operations import operation


def write_convolutions(graph_module: fx.GraphModule) -> None:
    """Rewrite, in place, a graph whose shapes are noted; what has dilation stays."""
    calls = [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    for node in list(graph_module.graph.nodes):
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        once = calls.count(str(node.target)) == 1 and len(node.all_input_nodes) == 1
        if isinstance(module, nn.ConvTranspose2d) and once and is_convolution(module):
            _write(node, module, graph_module)
    graph_module.recompile()


def is_convolution(module: nn.ConvTranspose1d | nn.ConvTranspose2d) -> bool:
    """Whether it can be written so."""
    pads: Any = zip(module.output_padding, module.padding, strict=True)
    beyond = any(more > before for more, before in pads)
    plain = set(module.dilation) == {1} and module.padding_mode == "zeros"
    return plain and not beyond


def _write(node: fx.Node, module: nn.ConvTranspose2d, graph_module: fx.GraphModule) -> None:
    graph, (down, right) = graph_module.graph, module.stride
    size = node.meta["tensor_meta"].shape[2:]
    graph_module.set_submodule(str(node.target), _convolution(module))
    last, chain = node, [node]
    while len(last.users) == 1 and _follows(reader := next(iter(last.users)), graph_module):
        last = reader
        chain.append(last)
        norm = graph_module.get_submodule(str(last.target)) if last.op == "call_module" else None
        if isinstance(norm, nn.BatchNorm2d):
            graph_module.set_submodule(str(last.target), _repeated(norm, down * right))
    following, readers = last.next, list(last.users)
    with graph.inserting_before(following):
        shuffled = list(_shuffle(last, module, graph))
        cut = tuple(slice(start, start + length) for start, length in zip(module.padding, size, strict=True))
        whole = shuffled[-1] if shuffled else last
        cropped = graph.call_function(operator.getitem, (whole, (slice(None), slice(None), *cut)))
    for reader in readers:
        reader.replace_input_with(last, cropped)
    shape = node.meta["tensor_meta"]
    fresh = OnMeta(graph_module)
    for one in (*chain, *shuffled, cropped):
        one.meta.update({key: value for key, value in node.meta.items() if key not in one.meta})
        note_shape(one, fresh)
    assert cropped.meta["tensor_meta"].shape == shape.shape


def _shuffle(last: fx.Node, module: nn.ConvTranspose2d, graph: fx.Graph) -> Iterator[fx.Node]:
    """The calls that put a channel's pixels between each other."""
    down, right = module.stride
    if down == right:
        if down > 1:
            yield graph.call_function(F.pixel_shuffle, (last, down))
        return
    yield (parts := graph.call_method("unflatten", (last, 1, (module.out_channels, down, right))))
    yield (moved := graph.call_method("permute", (parts, 0, 1, 4, 2, 5, 3)))
    yield (rows := graph.call_method("flatten", (moved, 4, 5)))
    yield graph.call_method("flatten", (rows, 2, 3))


def _follows(node: fx.Node, graph_module: nn.Module) -> bool:
    """Whether a call treats every channel by itself, as a convolution's own BatchNorm and ReLU do."""
    module: Any = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return isinstance(module, nn.BatchNorm2d) or operation(node, graph_module)[0] == "relu"


def _convolution(module: nn.ConvTranspose2d) -> nn.Conv2d:
    sides, groups = module.stride, module.groups
    reach = tuple(-(-size // side) for size, side in zip(module.kernel_size, sides, strict=True))
    layer = nn.Conv2d(
        module.in_channels,
        module.out_channels * prod(sides),
        reach,  # type: ignore[arg-type]
        padding=tuple(size - 1 for size in reach),  # type: ignore[arg-type]
        groups=groups,
        bias=module.bias is not None,
        device="meta",
    )
    layer.weight = nn.Parameter(_weight(module.weight.detach(), sides, reach, groups))
    if module.bias is not None:
        layer.bias = nn.Parameter(module.bias.detach().repeat_interleave(prod(sides)))
    return layer.eval()


def _weight(weight_IOHW: Tensor, sides: tuple[int, ...], reach: tuple[int, ...], groups: int) -> Tensor:
    """[O * s * s, I / groups, K, K] of [I, O / groups, k, k]."""
    inputs, outputs, *kernel = weight_IOHW.shape
    (down, right), (rows, columns) = sides, reach
    padded = F.pad(weight_IOHW, (0, columns * right - kernel[1], 0, rows * down - kernel[0]))
    taps = padded.reshape(groups, inputs // groups, outputs, rows, down, columns, right).flip(3, 5)
    ordered = taps.permute(0, 2, 4, 6, 1, 3, 5)  # group, output, row, column, input, taps
    return ordered.reshape(groups * outputs * down * right, inputs // groups, rows, columns).contiguous()


def _repeated(norm: nn.BatchNorm2d, times: int) -> nn.BatchNorm2d:
    found = nn.BatchNorm2d(norm.num_features * times, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for own in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(norm, own)
        if value is not None:
            more = torch.repeat_interleave(value.detach(), times)
            setattr(found, own, nn.Parameter(more) if own in norm._parameters else more)
    return found.eval()
