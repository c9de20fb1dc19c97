"""Two executions of one exported model, compared code by code.

`compare_runtime` sets the integer reference against the runtime's optimised graph, end to end: every code tensor that
the runtime computes, and the logits bit by bit. The comparison of the trained model with the exported one, layer by
layer, is made elsewhere and fills the report's ``faithful`` and ``folding``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.numbers.params import Scales
from limpq_deploy.export.reference.executor import IntegerReference
from limpq_deploy.export.reference.float_execution import TakesFeeds, islands_on, on_runtime
from limpq_deploy.export.reference.given_comparison import GivenComparison
from limpq_deploy.export.reference.islands import Island
from limpq_deploy.export.runtimes.base import Runtime, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorParity:
    """One tensor of codes in two executions.

    ``max_lsb``: largest difference of two codes. ``max_tie_distance``: over the mismatches, the largest distance of the
    unrounded value from the nearest tie, in LSB; None where there is no unrounded value or no mismatch.
    """

    tensor: str
    elements: int
    mismatches: int
    max_lsb: int
    max_tie_distance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IslandParity:
    """An island of operators that the runtime executed alone. ``codes``: values compared behind it (codes, or reals of
    the model's result), of which ``mismatches`` differ by up to ``max_lsb`` steps."""

    name: str
    operators: tuple[str, ...]
    codes: int
    mismatches: int
    max_lsb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An image that the trained model and the runtime put into different classes (indices; images count from 0)."""

    image: int
    trained: int
    runtime: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LostBound:
    """A quantizer whose result left its grid: codes ``least`` to ``most`` where ``low`` to ``high`` were allowed."""

    tensor: str
    least: int
    most: int
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCheck:
    """What came of inputs far beyond every grid. ``lost``: bounds that do not hold; ``not_driven``: quantizers that no
    input carried to the end of their grid, of which nothing is known."""

    lost: tuple[LostBound, ...]
    not_driven: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """What was compared and what was found.

    ``tensors``: integer reference against the optimised runtime, end to end, in execution order. ``unwatched``: code
    tensors that the optimised graph does not compute, each with the reason. ``logits_equal``: bit by bit;
    ``logits_max_difference`` absolute, in the logits' unit. ``faithful``: trained model against the exported one, layer
    by layer, fed the same codes; ``folding``: what folding BatchNorm and rounding biases themselves change.
    ``end_to_end``: trained model, folded and rounded as its accuracy is recorded, against the reference from the images
    on; ``trained_logits_equal``: whether its logits are the runtime's, bit by bit (None: not compared).
    ``scales``: as the model was trained; with "pow2" the last two have to agree entirely.
    ``top1_agreement``: share of images with one class in both. ``notes``: settings chosen, and why. ``mode``: "layer by
    layer" where the runtime's engine was fed the file's own codes at each quantizer (`engine_parity`); ``clips`` then:
    whether its grids hold for inputs far beyond them. ``given``: the float forms against the user's own module, before
    any work and behind the export. ``islands``: what computes in float by plan between integers, executed alone by the
    same runtime; its codes are in no other figure. ``integer_logits_equal``: beside islands, the results that none of
    them gives; None where there are no islands.
    """

    model_sha256: str
    images: int
    environment: dict[str, Any]
    tensors: tuple[TensorParity, ...]
    unwatched: dict[str, str]
    logits_equal: bool
    logits_max_difference: float
    faithful: tuple[TensorParity, ...] = ()
    folding: tuple[TensorParity, ...] = ()
    end_to_end: tuple[TensorParity, ...] = ()
    trained_logits_equal: bool | None = None
    scales: Scales = "free"
    top1_agreement: float | None = None
    disagreements: tuple[Disagreement, ...] = ()
    notes: tuple[str, ...] = ()
    mode: Literal["end to end", "layer by layer"] = "end to end"
    clips: ClipCheck | None = None
    given: tuple[GivenComparison, ...] = ()
    islands: tuple[IslandParity, ...] = ()
    integer_logits_equal: bool | None = None
    format: Literal["limpq.parity/1"] = field(default="limpq.parity/1")

    @property
    def elements(self) -> int:
        """Codes compared with the runtime."""
        return sum(entry.elements for entry in self.tensors)

    @property
    def mismatches(self) -> int:
        """Codes on which reference and runtime differ."""
        return sum(entry.mismatches for entry in self.tensors)

    @property
    def max_lsb(self) -> int:
        return max((entry.max_lsb for entry in self.tensors), default=0)

    @property
    def exact(self) -> bool:
        """Reference and runtime agree in every code and in every bit of the logits, and something was compared. What
        islands give may differ by one step at ties, as floats are summed in any order."""
        ties = all(island.max_lsb <= 1 for island in self.islands)
        return self.images > 0 and self.elements > 0 and self.mismatches == 0 and self.integers_equal and ties

    @property
    def integers_equal(self) -> bool:
        """Whether the logits are equal bit by bit, those aside that an island gives."""
        return self.logits_equal if self.integer_logits_equal is None else self.integer_logits_equal


@dataclass(frozen=True, slots=True)
class Fed:
    """One batch: images, the reference's container codes by tensor name, and the runtime's logits, or the first of its
    outputs with the ``others``."""

    images_NCHW: NDArray[np.float32]
    codes: Mapping[str, NDArray[np.integer]]
    logits: NDArray[np.float32]
    others: tuple[NDArray[np.float32], ...] = ()


def compare_codes(
    tensor: str, first: NDArray[np.generic], second: NDArray[np.generic], max_tie_distance: float | None = None
) -> TensorParity:
    """Count the differing codes of two arrays of one shape (ValueError otherwise)."""
    if first.shape != second.shape:
        raise ValueError(f"codes of {tensor!r} have shapes {first.shape} and {second.shape}; expected one shape")
    differs = np.asarray(first != second)
    largest = 0
    if differs.any():
        largest = int(np.abs(first[differs].astype(np.int64) - second[differs].astype(np.int64)).max())
    return TensorParity(
        tensor=tensor,
        elements=first.size,
        mismatches=int(differs.sum()),
        max_lsb=largest,
        max_tie_distance=max_tie_distance,
    )


def in_order(
    expected: NDArray[np.generic], found: NDArray[np.generic], order: tuple[int, ...] | None
) -> tuple[NDArray[np.generic], tuple[int, ...]]:
    """``found`` with its axes in the order of ``expected``, and that order, which holds for all batches.

    A runtime may hold a tensor behind a Transpose in another one. Where it is not known (None) it is the one of fewest
    differences.
    """
    given = tuple(range(found.ndim))
    if order is None:
        order = given
        if found.shape != expected.shape or not np.array_equal(found, expected):
            fitting = [one for one in permutations(given) if found.transpose(one).shape == expected.shape]
            order = min(fitting, key=lambda one: int((found.transpose(one) != expected).sum()), default=given)
    return found.transpose(order), order


def merged(parts: Iterable[TensorParity]) -> tuple[TensorParity, ...]:
    """Batches added up per tensor, in order of first appearance."""
    totals: dict[str, TensorParity] = {}
    for part in parts:
        total = totals.get(part.tensor)
        if total is None:
            totals[part.tensor] = part
            continue
        ties = [entry.max_tie_distance for entry in (total, part) if entry.max_tie_distance is not None]
        totals[part.tensor] = TensorParity(
            tensor=part.tensor,
            elements=total.elements + part.elements,
            mismatches=total.mismatches + part.mismatches,
            max_lsb=max(total.max_lsb, part.max_lsb),
            max_tie_distance=max(ties, default=None),
        )
    return tuple(totals.values())


def compare_runtime(
    qdq_path: Path,
    batches: Iterable[NDArray[np.float32]],
    runtime: Runtime,
    *,
    reference_path: Path | None = None,
    threads: int | None = None,
) -> ParityReport:
    """Run the reference, the runtime's session and its watched twin on batches of images NCHW, and compare.

    The logits compared are those of the *unwatched* session; the codes come from the watched one, which must give the
    same logits (else the watching itself is at fault, an assertion). Layers and islands that compute in float by plan
    are executed by the same runtime, each alone (`float_execution`); behind an island the reference goes on with the
    runtime's codes. ``reference_path``: another file for the reference, to show that a fault put into one of the two is
    found.
    """
    reference = IntegerReference(
        reference_path or qdq_path,
        floats=on_runtime(runtime, threads=threads),
        islands=islands_on(runtime, threads=threads),
    )
    session = runtime.load(qdq_path, threads=threads)
    watched = runtime.watch(qdq_path, threads=threads)
    islands = {name: index for index, island in enumerate(reference.islands) for name in island.codes}
    floats = {name: index for index, island in enumerate(reference.islands) for name in island.outputs}
    images, equal, integers, difference = 0, True, True, 0.0
    parts: list[TensorParity] = []
    orders: dict[str, tuple[int, ...]] = {}
    unwatched = dict(watched.unwatched)
    for batch in batches:
        found = results_of(session, reference, batch)
        seen, codes = watched.run(batch)
        first = found[reference.outputs[0]]
        assert same_bits(first, seen), "the watched session gives other logits than the unwatched one"
        runtimes = partial(ordered, codes, orders)
        expected, expected_codes = reference.results(batch, keep=watched.watched, given=runtimes)
        images += len(batch)
        for name, result in expected.items():
            same = same_bits(result, found[name])
            equal = equal and same
            difference = max(difference, float(np.abs(result.astype(np.float64) - found[name]).max(initial=0.0)))
            if name in floats:
                parts.append(compare_reals(f"{RESULT}{floats[name]}", result, found[name]))
            else:
                integers = integers and same
        for name in watched.watched:
            own, orders[name] = in_order(expected_codes[name], codes[name], orders.get(name))
            if own.shape == expected_codes[name].shape:
                parts.append(compare_codes(name, expected_codes[name], own))
            else:
                unwatched[name] = f"the runtime holds it as {list(own.shape)}"
    tensors = merged(parts)
    return ParityReport(
        model_sha256=sha256_of(qdq_path),
        images=images,
        environment=session.environment(),
        tensors=tuple(one for one in tensors if one.tensor not in islands and not one.tensor.startswith(RESULT)),
        unwatched=unwatched,
        logits_equal=equal,
        logits_max_difference=difference,
        islands=tuple(
            compared
            for index, one in enumerate(reference.islands)
            if (compared := island_parity(one, index, tensors, islands)).codes
        ),
        integer_logits_equal=integers if reference.islands else None,
    )


def ordered(
    codes: Mapping[str, NDArray[Any]], orders: dict[str, tuple[int, ...]], name: str, own: NDArray[Any]
) -> NDArray[Any]:
    """The runtime's codes of a tensor in the order of the reference's ``own``; those, where it has none."""
    if name not in codes:
        return own
    found, orders[name] = in_order(own, codes[name], orders.get(name))
    return found if found.shape == own.shape else own


def results_of(session: Session, reference: IntegerReference, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """All results of a session, by name."""
    if len(reference.outputs) == 1:
        return {reference.outputs[0]: session.run(images)}
    assert isinstance(session, TakesFeeds), "a runtime with several results takes inputs by name"
    return session.run_feeds({reference.input: images})


RESULT = "\n"
"""Begins the name under which an island's part of the model's results is counted; no tensor is called so."""


def compare_reals(name: str, expected: NDArray[Any], found: NDArray[Any]) -> TensorParity:
    """Values that are no codes: how many differ."""
    differ = int((expected != found).sum()) if expected.shape == found.shape else expected.size
    return TensorParity(tensor=name, elements=expected.size, mismatches=differ, max_lsb=0)


def island_parity(
    island: Island, index: int, tensors: Iterable[TensorParity], by_island: Mapping[str, int]
) -> IslandParity:
    """What was counted behind an island. ``by_island``: the island's place of each code tensor that one gives."""
    own = [part for part in tensors if by_island.get(part.tensor) == index or part.tensor == f"{RESULT}{index}"]
    return IslandParity(
        name=island.name,
        operators=island.operators,
        codes=sum(part.elements for part in own),
        mismatches=sum(part.mismatches for part in own),
        max_lsb=max((part.max_lsb for part in own), default=0),
    )


def same_bits(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays have the same shape, type and bytes."""
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()


def operators_of(island: IslandParity) -> str:
    """The operators of an island, counted: ``2 Conv, Add``."""
    counts = Counter(island.operators)
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts.items())
