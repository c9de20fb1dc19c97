"""A file of another tool: its integer reference against ONNX Runtime's optimised graph, code by code.

Which operators the runtime executes in integers is read off its optimised graph; these the reference computes from the
file. The rest are islands: executed by the runtime alone on the reference's reals, compared apart. Behind an island the
reference goes on with the runtime's codes, so that a float sum in another order is counted where it arises.
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.export.graph.code_grids import code_grids, grid_at
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.onnx_files import constants
from limpq_deploy.export.graph.runtime_taps import OTHER_GRID, file_name
from limpq_deploy.export.reference.foreign_file import FileReference
from limpq_deploy.export.reference.foreign_form import as_pairs, require_readable, with_names
from limpq_deploy.export.reference.islands import Executed, OtherForm, Sessions
from limpq_deploy.export.reference.parity import (
    RESULT,
    IslandParity,
    TensorParity,
    compare_codes,
    compare_reals,
    in_order,
    island_parity,
    merged,
    ordered,
    same_bits,
)
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime, OrtSession, OrtWatchedSession, opened

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileParity:
    """What was compared, and what was found.

    ``codes``, ``mismatches``, ``max_lsb``: integer reference against the optimised graph, end to end but for islands.
    ``logits_equal``: the model's results, bit by bit; ``integer_logits_equal``: those of them that no island gives.
    ``tensors``: codes by tensor; ``unwatched``: tensors of codes that the optimised graph does not compute, with the
    reason. ``otherwise``: what the runtime is known to compute otherwise than the file says. ``notes``: what the images
    are, and what was not compared.
    """

    model_sha256: str
    images: int
    codes: int
    mismatches: int
    max_lsb: int
    logits_equal: bool
    logits_max_difference: float
    integer_logits_equal: bool
    islands: tuple[IslandParity, ...]
    tensors: tuple[TensorParity, ...]
    unwatched: dict[str, str]
    environment: dict[str, Any]
    otherwise: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    format: Literal["limpq.file_parity/1"] = field(default="limpq.file_parity/1")

    @property
    def exact(self) -> bool:
        """No integer differs: no code outside islands, and no bit of a result that the reference computes. An island
        may differ by one step at ties, as floats are summed in any order; not where it is fed by integers that the
        runtime is known to compute otherwise."""
        apart = sum(island.mismatches for island in self.islands) if self.otherwise else 0
        ties = all(island.max_lsb <= 1 for island in self.islands)
        return self.mismatches == 0 and self.integer_logits_equal and ties and apart == 0


def compare_file(
    path: Path,
    batches: Iterable[Array],
    runtime: OnnxRuntime,
    *,
    threads: int | None = None,
    notes: tuple[str, ...] = (),
) -> FileParity:
    """Compare on batches of images, as the model takes them. Raises ModelError, naming the node, for a file or graph
    outside of what the reference reads."""
    model = with_names(load_model(path))
    require_readable(model)
    pairs = as_pairs(model)
    with tempfile.TemporaryDirectory() as folder:
        renamed = Path(folder) / "model.onnx"
        renamed.write_bytes(model.SerializeToString())
        optimized = runtime.optimized_graph(renamed)
        watched = runtime.watch_as(pairs, optimized, threads=threads)
        session = runtime.load(renamed, threads=threads)
        execute = Sessions(partial(opened, threads=threads))
        reference = FileReference(pairs, executed_by(model, optimized), execute)
        return _compared(path, pairs, reference, session, watched, batches, notes)


def executed_by(model: onnx.ModelProto, optimized: onnx.ModelProto) -> Executed:
    """How the optimised graph executes each operator of the file, found by its name."""
    grids = code_grids(optimized)
    nodes = {file_name(node): node for node in optimized.graph.node if node.name}
    integers, to_reals, unsigned = set(), set(), set()
    for node in model.graph.node:
        found = nodes.get(node.name)
        if found is None or found.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        made = found.output[0] in grids
        if made or found.op_type in TO_REALS:
            integers.add(node.name)
            if not made:
                to_reals.add(node.name)
            elif grids[found.output[0]].dtype == np.uint8:
                unsigned.add(node.name)
    return Executed(
        integers=frozenset(integers),
        to_reals=frozenset(to_reals),
        unsigned=frozenset(unsigned),
        constants=_constants(model, nodes, optimized),
        kinds={name: node.op_type for name, node in nodes.items()},
    )


NO_INTEGERS = "the runtime executes no operator of this file in integers; quantizers and islands are what was compared"

TO_REALS = ("QGemm", "MatMulIntegerToFloat")
"""Integer operators that may give reals."""


def _constants(
    model: onnx.ModelProto, nodes: Mapping[str, onnx.NodeProto], optimized: onnx.ModelProto
) -> dict[tuple[str, int], OtherForm]:
    """Float constants of the file that the runtime replaced by dequantized integers, of nodes that stayed floats."""
    makers = {name: node for node in optimized.graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in optimized.graph.initializer}
    own = {tensor.name for tensor in model.graph.initializer}
    found: dict[tuple[str, int], OtherForm] = {}
    for node in model.graph.node:
        executed = nodes.get(node.name)
        if executed is None or executed.op_type.removeprefix("Fused") != node.op_type:
            continue
        for place, name in enumerate(node.input):
            made = makers.get(executed.input[place]) if place < len(executed.input) else None
            if name not in own or made is None or made.op_type != "DequantizeLinear":
                continue
            if all(entry in tensors for entry in made.input if entry):
                found[node.name, place] = ((made,), tuple(tensors[entry] for entry in made.input if entry))
    return found


def _compared(
    path: Path,
    pairs: onnx.ModelProto,
    reference: FileReference,
    session: OrtSession,
    watched: OrtWatchedSession,
    batches: Iterable[Array],
    notes: tuple[str, ...],
) -> FileParity:
    by_island = {name: index for index, island in enumerate(reference.islands) for name in island.codes}
    results = {name: index for index, island in enumerate(reference.islands) for name in island.outputs}
    floats = {name: results[name] for name in reference.outputs if name in results}
    images, equal, exact, difference = 0, True, True, 0.0
    parts: list[TensorParity] = []
    unwatched = dict(watched.unwatched)
    orders: dict[str, tuple[int, ...]] = {}
    for batch in batches:
        found = session.run_feeds({reference.input: batch})
        seen, codes = watched.run(batch)
        assert same_bits(found[reference.outputs[0]], seen), (
            "the watched session gives other results than the unwatched one"
        )
        expected, own = reference.run(batch, keep=watched.watched, given=partial(ordered, codes, orders))
        images += len(batch)
        for name, result in expected.items():
            equal = equal and same_bits(result, found[name])
            if result.shape == found[name].shape:
                apart = np.abs(result.astype(np.float64) - found[name]).max(initial=0.0)
                difference = max(difference, float(apart))
            if name in floats:
                parts.append(compare_reals(f"{RESULT}{floats[name]}", result, found[name]))
            else:
                exact = exact and same_bits(result, found[name])
        for name in watched.watched:
            theirs, orders[name] = in_order(own[name], codes[name], orders.get(name))
            if own[name].shape == theirs.shape:
                parts.append(compare_codes(name, own[name], theirs))
            else:
                unwatched[name] = (
                    f"it has the shape {list(codes[name].shape)} there and {list(own[name].shape)} in the file"
                )
    tensors = merged(parts)
    integer = [part for part in tensors if part.tensor not in by_island and not part.tensor.startswith(RESULT)]
    return FileParity(
        model_sha256=sha256_of(path),
        images=images,
        codes=sum(part.elements for part in integer),
        mismatches=sum(part.mismatches for part in integer),
        max_lsb=max((part.max_lsb for part in integer), default=0),
        logits_equal=equal,
        logits_max_difference=difference,
        integer_logits_equal=exact,
        islands=tuple(
            island_parity(island, index, tensors, by_island) for index, island in enumerate(reference.islands)
        ),
        tensors=tuple(integer),
        unwatched=unwatched,
        environment=session.environment(),
        otherwise=(*_explained(pairs, unwatched), *reference.otherwise),
        notes=(
            *notes,
            *(() if reference.computes else (NO_INTEGERS,)),
        ),
    )


def _explained(model: onnx.ModelProto, unwatched: Mapping[str, str]) -> list[str]:
    """Where the runtime is seen to have changed a grid, or merged pairs of different grids."""
    makers = {name: node for node in model.graph.node for name in node.output}
    fixed = constants(model.graph)
    notes = []
    for name, why in unwatched.items():
        before = makers.get(makers[name].input[0]) if name in makers else None
        twice = before is not None and before.op_type == "DequantizeLinear"
        grids = [grid_at(node, 1, fixed) for node in (before, makers[name])] if before is not None and twice else []
        if why.startswith(OTHER_GRID):
            notes.append(f"codes {name!r}: {why}; what follows is not what the file says")
        elif len(grids) == 2 and grids[0] and grids[1] and not grids[0].same_meaning(grids[1]):
            notes.append(
                f"codes {name!r} ({grids[1]}) are quantized again from others ({grids[0]}); the runtime merges the two "
                "pairs into one, so that what follows is not what the file says"
            )
    return notes
