"""What a traced graph writes over: found by running it, not by a list of operations.

An in-place operation is seen by torch's own version counters, so that it makes no difference how it is spelled: ``x +=
y``, ``x.add_(y)``, ``ReLU(inplace=True)``, ``F.relu(x, inplace=True)``, ``torch.add(x, y, out=z)``. Random numbers are
seen by what torch says of its operators.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.lines import written_at
from limpq_deploy.model.node_by_node import NodeByNode
from limpq_deploy.model.operations import operation
from limpq_deploy.model.written_parts import Step, step


@dataclass(frozen=True, slots=True)
class Extent:
    """Elements of a storage that a tensor shows. ``storage``: number of the storage, in order of appearance."""

    storage: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Write:
    """``node`` writes over a tensor and returns it. ``names``: nodes that show the same elements and are read later.
    ``views``: nodes that show some of them and are read later, each with the nodes that make it from one of ``names``
    (or from a node that nothing reads any more), the earliest first and itself last; the first one reads ``bases``.
    ``steps``: from what is written over to the whole tensor that it is a part of, where that is read later; names,
    views and bases are then of the whole."""

    node: fx.Node
    names: tuple[fx.Node, ...]
    views: dict[fx.Node, tuple[fx.Node, ...]]
    bases: dict[fx.Node, fx.Node]
    steps: tuple[Step, ...] = ()


def find_writes(graph_module: fx.GraphModule, image_shape: tuple[int, ...]) -> list[Write]:
    """All writes of a traced graph, in order, found on three images.

    Raises ModelError, with its line, for a write that has no form out of place (through a transposed view of a tensor
    that is read later, into a parameter or buffer), and for a function that draws random numbers.
    """
    run = _Watched(graph_module)
    run.run_on(3, image_shape)
    return run.writes


class _Watched(NodeByNode):
    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.writes: list[Write] = []
        self._order = {node: number for number, node in enumerate(graph_module.graph.nodes)}
        self._extents: dict[fx.Node, tuple[Extent, ...]] = {}
        self._kept: dict[int, int] = {}
        self._storages = 0
        self._reshaped: set[int] = set()

    def run_node(self, n: fx.Node) -> Any:
        read = [tensor for node in n.all_input_nodes for tensor in _tensors(self.env[node])]
        owned = self._owned(n)
        versions = [tensor._version for tensor in (*read, *owned)]
        result = super().run_node(n)
        if self.on_meta.draws:
            raise ModelError(
                f"{self._described(n)} draws random numbers in evaluation mode, too; its result would be another one "
                "each time: give it training=self.training, or leave it out"
            )
        self._extents[n] = tuple(self._extent(n, tensor) for tensor in _tensors(result))
        changed = [t for t, version in zip((*read, *owned), versions, strict=True) if t._version != version]
        if any(tensor is mine for tensor in changed for mine in owned):
            raise ModelError(
                f"{self._described(n)} changes its own parameters or buffers in evaluation mode, too; expected a model "
                "whose eval() reaches every module"
            )
        if changed:
            self.writes.append(self._write(n, changed, result))
        return result

    def _owned(self, node: fx.Node) -> list[torch.Tensor]:
        """Parameters and buffers of a called module."""
        if node.op != "call_module":
            return []
        module = self.on_meta.module(str(node.target))
        return [*module.parameters(), *module.buffers()]

    def _extent(self, node: fx.Node, tensor: torch.Tensor) -> Extent:
        storage = tensor.untyped_storage()._cdata
        number = self._kept.get(storage)
        for before in node.all_input_nodes if number is None else ():
            for extent, shown in zip(self._extents[before], _tensors(self.env[before]), strict=True):
                if shown.untyped_storage()._cdata == storage:
                    number = extent.storage
        if number is None:
            self._storages += 1
            number = self._storages
        if node.op == "get_attr":  # the model keeps it, so that no other storage can take its place
            self._kept[storage] = number
        return Extent(number, tuple(tensor.size()), tuple(tensor.stride()), int(tensor.storage_offset()))

    def _write(self, node: fx.Node, changed: list[torch.Tensor], result: Any) -> Write:
        written = self._extents[node][0] if isinstance(result, torch.Tensor) else None
        inputs = {extent for before in node.all_input_nodes for extent in self._extents[before]}
        storages = {tensor.untyped_storage()._cdata for tensor in changed}
        if written is not None and written not in inputs and any(one is result for one in changed):
            return self._reshape(node, written, result)
        if written is None or written not in inputs or storages != {result.untyped_storage()._cdata}:
            raise self._refused(node, "in a way that has no form out of place")
        if node.target == "copy_" and not _alike(*(self.env[one] for one in node.all_input_nodes)):
            raise self._refused(node, "with values of another shape or type")
        touched = []
        for other, value in self.env.items():
            if not any(_overlap(tensor, result) for tensor in _tensors(value)):
                continue
            if other.op == "get_attr":
                raise self._refused(node, f"that is the model's own {str(other.target)!r}")
            if self._read_after(other, node):
                touched.append(other)
        found = self._names_and_views(node, touched, written, ())
        if found is None:
            steps = self._steps(node, written)
            whole = self._extents[steps[-1].base][0] if steps else written
            found = self._names_and_views(node, touched, whole, steps) if steps else None
        if found is None:
            raise self._refused(node, "through a view, and the tensor behind it is read later")
        if written.storage in self._reshaped and (found.views or found.steps):
            raise self._refused(node, "that another call gave a new shape in place, and a view of it is read later")
        return found

    def _reshape(self, node: fx.Node, shown: Extent, result: torch.Tensor) -> Write:
        """``x.unsqueeze_(1)``: no element changes, and whoever names the tensor sees its new shape."""
        names = [other for other, value in self.env.items() if value is result]
        for other in names:
            if other.op == "get_attr":
                raise self._refused(node, f"that is the model's own {str(other.target)!r}")
            self._extents[other] = (shown,)
        self._reshaped.add(shown.storage)
        return Write(node, tuple(other for other in names if self._read_after(other, node)), {}, {})

    def _names_and_views(
        self, node: fx.Node, touched: list[fx.Node], shown: Extent, steps: tuple[Step, ...]
    ) -> Write | None:
        """The write as one of all that ``shown`` shows; None where one of ``touched`` shows more."""
        names, views, bases = [], {}, {}
        for other in touched:
            if self._extents[other] == (shown,):
                names.append(other)
                continue
            chain = self._chain(other, shown)
            if chain is None:
                return None
            bases[other], views[other] = chain[0], chain[1:]
        return Write(node, tuple(names), views, bases, steps)

    def _steps(self, node: fx.Node, written: Extent) -> tuple[Step, ...]:
        """From the view that a node writes over to the tensor that it is a view of; empty where that is unknown."""
        view = next(before for before in node.all_input_nodes if self._extents[before] == (written,))
        found: list[Step] = []
        while before := [
            one
            for one in view.all_input_nodes
            if any(extent.storage == written.storage for extent in self._extents[one])
        ]:
            if len(before) != 1 or len(self._extents[before[0]]) != 1:
                return ()
            if not any(write.node is view for write in self.writes):  # else it shows what it wrote over
                made = step(view, before[0], self._extents[before[0]][0].size)
                if made is None:
                    return ()
                found.append(made)
            view = before[0]
        return tuple(found)

    def _read_after(self, node: fx.Node, write: fx.Node) -> bool:
        return any(self._order[user] > self._order[write] for user in node.users)

    def _chain(self, view: fx.Node, written: Extent) -> tuple[fx.Node, ...] | None:
        """Nodes from one that shows exactly ``written`` to ``view``; None where that is no chain of views."""
        chain = [view]
        while self._extents[chain[0]] != (written,):
            before = [
                node
                for node in chain[0].all_input_nodes
                if any(extent.storage == written.storage for extent in self._extents[node])
            ]
            if len(before) != 1 or any(write.node is chain[0] for write in self.writes):
                return None
            chain.insert(0, before[0])
        return tuple(chain)

    def _described(self, node: fx.Node) -> str:
        return f"{operation(node, self.module)[1]}{written_at(node)}"

    def _refused(self, node: fx.Node, how: str) -> ModelError:
        return ModelError(
            f"{self._described(node)} writes into a tensor {how}; write it out of place, so that it returns a new "
            "tensor"
        )


def _tensors(value: Any) -> list[torch.Tensor]:
    return list(_each(value))


def _each(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _each(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _each(one)


def _alike(*values: Any) -> bool:
    """Whether all are tensors of one shape and type."""
    return len({(one.shape, one.dtype) for one in values}) == 1


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors show a common element."""
    storage = one.untyped_storage()
    if storage._cdata != other.untyped_storage()._cdata:
        return False
    if one.dtype != other.dtype:
        return True
    seen = torch.zeros(storage.nbytes() // one.element_size(), dtype=torch.bool)
    seen.as_strided(one.size(), one.stride(), one.storage_offset()).fill_(True)
    return bool(seen.as_strided(other.size(), other.stride(), other.storage_offset()).any())
