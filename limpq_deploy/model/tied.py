"""Parameters that several modules share: two names of one module, and two modules with one tensor."""

from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise

from torch import Tensor, fx, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.own_versions import of_own_versions


def require_untied(modules: Mapping[str, nn.Module]) -> None:
    """Raises ModelError, which names both, where two modules share memory of a parameter or buffer.

    Each of them gets a grid and a BatchNorm folded in of its own, so that one tensor cannot serve both.
    """
    owned = sorted(
        (*_span(tensor), f"{name}.{own}")
        for name, module in modules.items()
        for own, tensor in (*module.named_parameters(), *module.named_buffers())
        if tensor.numel() and not own.endswith("num_batches_tracked")
    )
    for (_, end, one), (start, _, other) in pairwise(owned):
        if start < end:
            first, second = sorted((one, other))
            raise ModelError(
                f"{first!r} and {second!r} are one tensor, and each layer needs weights of its own; untie them: give "
                f"{second.rpartition('.')[0]!r} a copy, as in nn.Parameter(weight.detach().clone())"
            )


def name_apart(graph_module: fx.GraphModule, modules: Collection[str]) -> None:
    """Give tensors of these modules that operators read as well a second name there, in place: the module is replaced
    by a quantized one, and what the operators read stays."""
    for node in graph_module.graph.nodes:
        owner, _, own = str(node.target).rpartition(".")
        if node.op == "get_attr" and owner in modules:
            tensor, name = getattr(graph_module.get_submodule(owner), own), f"{node.name}_read"
            while hasattr(graph_module, name):
                name += "_"
            if isinstance(tensor, nn.Parameter):
                graph_module.register_parameter(name, tensor)
            else:
                graph_module.register_buffer(name, tensor)
            node.target = name
    graph_module.recompile()


def _span(tensor: Tensor) -> tuple[int, int]:
    """First and last byte of what a tensor shows, in memory."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True)) + 1
    start = tensor.data_ptr()
    return start, start + reach * tensor.element_size()


def distinct(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict, each under the first of its names, and none of them part of another's memory."""
    seen: set[tuple[object, ...]] = set()
    for name, tensor in tensors.items():
        shown = (tensor.data_ptr(), tensor.dtype, tuple(tensor.size()), tuple(tensor.stride()))
        if tensor.numel() and shown in seen:
            continue
        seen.add(shown)
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        yield name, tensor if whole and tensor.is_contiguous() else tensor.detach().clone().contiguous()


def load_distinct(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Take back what `distinct` gave of the module's state. Raises KeyError for a tensor that is not there."""
    state = module.state_dict()
    firsts = dict(distinct(state))
    if firsts.keys() != tensors.keys():
        raise KeyError(*sorted(firsts.keys() ^ tensors.keys()))
    module.load_state_dict(of_own_versions(module, tensors), strict=False)
