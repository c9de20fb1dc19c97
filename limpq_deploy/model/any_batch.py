"""One graph for any number of images, of two that were traced for different ones.

Where both say the same number it is a constant; where they differ, it is a + b N of the number N of images.
"""

from dataclasses import dataclass, field
from itertools import zip_longest
from operator import add, mul
from typing import Any

import torch
from torch import Tensor, fx, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.lines import WRITTEN_AT, written_at


def for_any_batch(graphs: tuple[fx.Graph, fx.Graph], root: nn.Module, batches: tuple[int, int]) -> None:
    """Rewrite the second graph; each was traced for its number of ``batches``. ``root`` holds their constants. Raises
    ModelError, with its line, where a forward does something else for another number."""
    merge = _Merge(graphs[1], root, batches)
    for before, node in zip_longest(*(list(graph.nodes) for graph in graphs)):
        merge.node(before, node)


@dataclass
class _Merge:
    graph: fx.Graph
    root: nn.Module
    batches: tuple[int, int]
    same: dict[fx.Node, fx.Node] = field(default_factory=dict)
    counts: dict[tuple[int, int], fx.Node] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)

    def node(self, before: fx.Node | None, node: fx.Node | None) -> None:
        if before is None or node is None or before.op != node.op:
            raise self._differs(before, node)
        self.same[before] = node
        if before.op == "get_attr" and before.target != node.target:
            self._constant(before, node)
        elif before.target != node.target:
            raise self._differs(node)
        node.args = tuple(self._merged(a, b, node) for a, b in zip_longest(before.args, node.args))
        if before.kwargs.keys() != node.kwargs.keys():
            raise self._differs(node)
        node.kwargs = {name: self._merged(before.kwargs[name], value, node) for name, value in node.kwargs.items()}

    def _merged(self, before: Any, now: Any, node: fx.Node) -> Any:
        if isinstance(before, fx.Node):
            if self.same.get(before) is not now:
                raise self._differs(node)
            return now
        if type(before) is not type(now):
            raise self._differs(node)
        if isinstance(now, tuple | list):
            if len(before) != len(now):
                raise self._differs(node)
            merged = [self._merged(a, b, node) for a, b in zip(before, now, strict=True)]
            return type(now)(*merged) if hasattr(now, "_fields") else type(now)(merged)
        if isinstance(now, dict):
            if before.keys() != now.keys():
                raise self._differs(node)
            return {name: self._merged(before[name], value, node) for name, value in now.items()}
        if isinstance(now, slice):
            ends = ((before.start, now.start), (before.stop, now.stop), (before.step, now.step))
            return slice(*(self._merged(a, b, node) for a, b in ends))
        if before == now or (before != before and now != now):
            return now
        if isinstance(now, bool) or not isinstance(now, int):
            raise self._differs(node)
        return self._count(before, now, node)

    def _count(self, before: int, now: int, node: fx.Node) -> fx.Node:
        """The node that computes ``before`` and ``now`` from the number of images."""
        first, second = self.batches
        each, rest = divmod(now - before, second - first)
        if rest:
            raise self._differs(node)
        start = before - each * first
        for known, made in (((1, 0), None), ((each, 0), (mul, each)), ((each, start), (add, start))):
            if known not in self.counts:
                self.counts[known] = self._made(made, self.counts.get((each, 0) if known[1] else (1, 0)), node)
        return self.counts[each, start]

    def _made(self, how: tuple[Any, int] | None, of: fx.Node | None, node: fx.Node) -> fx.Node:
        images = next(one for one in self.graph.nodes if one.op == "placeholder")
        with self.graph.inserting_after(images if of is None else of):
            if how is None:
                made = self.graph.call_method("size", (images, 0))
            else:
                made = self.graph.call_function(how[0], (of, how[1]))
        made.meta[WRITTEN_AT] = node.meta.get(WRITTEN_AT, "")
        return made

    def _constant(self, before: fx.Node, node: fx.Node) -> None:
        """Tensors that the forward makes: the same ones, or repeated for each image."""
        one, other = (self._tensor(str(each.target)) for each in (before, node))
        if one.shape == other.shape:
            if not torch.equal(one, other) and not torch.allclose(one, other, equal_nan=True):
                raise self._differs(node)
            return
        if one.dim() != other.dim():
            raise self._differs(node)
        axes = [axis for axis in range(one.dim()) if one.shape[axis] != other.shape[axis]]
        row = other
        for axis in axes:
            row = row.narrow(axis, 0, 1)
        if not all(torch.equal(row.expand_as(each), each) for each in (one, other)):
            raise self._differs(node)
        self.whole[str(node.target)] = other  # it may be read again
        setattr(self.root, str(node.target), row.clone())
        sizes = [self._merged(a, b, node) for a, b in zip(one.shape, other.shape, strict=True)]
        times = [size if axis in axes else 1 for axis, size in enumerate(sizes)]
        # the first state of a loop has to lie in memory as its later ones do
        recurs = any(self._recurs(user) for user in node.users)
        with self.graph.inserting_after(node):
            whole = self.graph.call_method(*(("repeat", (node, *times)) if recurs else ("expand", (node, *sizes))))
        whole.meta[WRITTEN_AT] = node.meta.get(WRITTEN_AT, "")
        node.replace_all_uses_with(whole, delete_user_cb=lambda user: user is not whole)
        self.same[before] = whole

    def _recurs(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.root.get_submodule(str(node.target)), nn.RNNBase)

    def _tensor(self, name: str) -> Tensor:
        if name in self.whole:
            return self.whole[name]
        owner, _, own = name.rpartition(".")
        found = getattr(self.root.get_submodule(owner), own)
        assert isinstance(found, Tensor)
        return found

    def _differs(self, *nodes: fx.Node | None) -> ModelError:
        where = next((found for node in nodes if node is not None and (found := written_at(node))), "")
        return ModelError(
            f"the model's forward does something else for {self.batches[0]} image than for {self.batches[1]} at once"
            f"{where}; expected one that takes any number of images: leave the first axis as it is, and build what is "
            "of its length with torch.zeros_like or expand"
        )
