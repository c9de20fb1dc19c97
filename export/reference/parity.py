"""Two executions of one exported model, compared code by code.

`compare_runtime` sets the integer reference against the runtime's optimised graph, end to end: every code tensor that
the runtime computes, and the logits bit by bit. The comparison of the trained model with the exported one, layer by
layer, is made elsewhere and fills the report's ``faithful`` and ``folding``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.numbers.params import Scales
from limpq_deploy.export.reference.executor import IntegerReference
from limpq_deploy.export.reference.float_execution import on_runtime
from limpq_deploy.export.reference.given_comparison import GivenComparison
from limpq_deploy.export.runtimes.base import Runtime


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
    any work and behind the export.
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
        """Reference and runtime agree in every code and in every bit of the logits, and something was compared."""
        return self.images > 0 and self.elements > 0 and self.mismatches == 0 and self.logits_equal


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
    same logits (else the watching itself is at fault, an assertion). Layers that compute in float by plan are executed
    by the same runtime, each alone (`float_execution`). ``reference_path``: another file for the
    reference, to show that a fault put into one of the two is found.
    """
    reference = IntegerReference(reference_path or qdq_path, floats=on_runtime(runtime, threads=threads))
    session = runtime.load(qdq_path, threads=threads)
    watched = runtime.watch(qdq_path, threads=threads)
    images, equal, difference = 0, True, 0.0
    parts: list[TensorParity] = []
    for batch in batches:
        expected, expected_codes = reference.run(batch, keep=watched.watched)
        found = session.run(batch)
        seen, codes = watched.run(batch)
        assert same_bits(found, seen), "the watched session gives other logits than the unwatched one"
        images += len(batch)
        equal = equal and same_bits(expected, found)
        difference = max(difference, float(np.abs(expected.astype(np.float64) - found).max(initial=0.0)))
        parts.extend(compare_codes(name, expected_codes[name], codes[name]) for name in watched.watched)
    return ParityReport(
        model_sha256=sha256_of(qdq_path),
        images=images,
        environment=session.environment(),
        tensors=merged(parts),
        unwatched=watched.unwatched,
        logits_equal=equal,
        logits_max_difference=difference,
    )


def same_bits(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays have the same shape, type and bytes."""
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()
