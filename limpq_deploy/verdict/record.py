"""The verdict: what was promised, what was measured, and a named check for each. Pure; no torch, no runtime."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from limpq_deploy.calibration.numbers.formats import bits_of
from limpq_deploy.calibration.shown import Saved
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.timing.report import FLOAT_SERIES, Speedup, Threads
from limpq_deploy.policy.policy import BudgetUse
from limpq_deploy.tasks.score import Difference, Score
from limpq_deploy.train.evaluate import Accuracy, PairedComparison
from limpq_deploy.verdict.candidates import Candidate
from limpq_deploy.verdict.recommendation import Recommendation

Outcome = Literal["passed", "failed", "undecided", "incomplete"]

MIXED = "mixed"
"""Name of the latency series that limits are about; `FLOAT_SERIES` is what it is held against."""

FP32 = "fp32"
"""Name of a further float series; where there is one, `FLOAT_SERIES` is the engine in FP16."""

UNIFORM = ("uniform8", "fp8", "float16")
"""Names of the engines of one precision throughout that a budgeted engine is set beside."""


_WORD = {True: "passed", False: "failed"}

NO_GPU = "no GPU here"
"""How the reason of what only an engine can tell begins, where none was built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be asked of a result.

    ``max_accuracy_drop``: points of top-1 below float, or of the task's own figure, in its unit. ``significance``: the
    mixed model fails against the uniform one when chance alone would make it look so much worse with a smaller
    probability than this (0.025: one end of a 95 % interval). ``max_lsb``, ``max_flip_share`` and ``max_tie_distance``
    (in steps): what float32 rounding of the trained model may differ from the exported integers, layer by layer.
    ``max_engine_flip_share``: share of codes that an engine which scales in floats may give one step off, fed the same
    codes. ``max_latency_ms``: p50 of one call, and ``min_speedup``: ratio of float's p50 to it, both with the runtime's
    default threads at the smallest batch measured; ``max_float_share``: of all multiply-accumulates, those of operators
    without an integer form; None: no check.
    """

    max_accuracy_drop: float = 1.0
    significance: float = 0.025
    max_lsb: int = 1
    max_flip_share: float = 1e-5
    max_tie_distance: float = 0.01
    max_engine_flip_share: float = 0.01
    max_latency_ms: float | None = None
    min_speedup: float | None = None
    max_float_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BitOpsCount:
    """Exact BitOps (macs * weight_bits * act_bits, one image) of one assignment of bits; FP8 counts as 8.

    ``nominal``: the bits asked for; ``realised``: those the engine executes. ``searched``: layers that the program
    chooses for; ``all``: pinned layers too.
    """

    name: str
    nominal_searched: int
    nominal_all: int
    realised_searched: int
    realised_all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResult:
    """Top-1 of the compared models on the same images, or the figure of another task.

    ``uniform_bits``: the uniform policy within the same budgets, such as "w4a4"; None when no uniform policy keeps
    them. ``uniform``: that policy, trained by the same recipe; None when it was not trained, ``against_uniform``
    (mixed first) with it. ``fp8``: FP8 in every layer, where it has a file of its own. ``against_float``: mixed first
    too, image by image; None in files of older versions. ``of``: what these accuracies are of.
    """

    float: Accuracy | Score
    mixed: Accuracy | Score
    uniform8: Accuracy | Score | None = None
    fp8: Accuracy | Score | None = None
    uniform: Accuracy | Score | None = None
    uniform_bits: str | None = None
    against_uniform: PairedComparison | Difference | None = None
    against_float: PairedComparison | Difference | None = None
    of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEndParity:
    """Two executions from the images on: ``mismatches`` of ``codes`` integers on ``images`` images, and whether every
    logit is the same float32.

    ``layer_by_layer``: the file as written against an engine that scales in float, fed the same codes at every
    quantizer; then ``max_lsb`` bounds the difference, and ``lost_bounds`` names quantizers that let codes out of their
    grid.
    """

    images: int
    codes: int
    mismatches: int
    logits_bit_equal: bool
    max_lsb: int = 0
    layer_by_layer: bool = False
    lost_bounds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerParity:
    """Trained model against the exported one, each layer fed the same codes, summed over layers.

    ``max_tie_distance``: how far from a rounding tie, in steps, the farthest differing value was. ``top1_agreement``:
    share of images on which both name the same class, end to end (None: the outputs are no logits); ``disagreements``:
    number of the others.
    """

    images: int
    layers: int
    codes: int
    mismatches: int
    max_lsb: int
    max_tie_distance: float
    top1_agreement: float | None
    disagreements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyLine:
    """Percentiles of one series of the latency report, in milliseconds per call."""

    name: str
    threads: Threads
    batch: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyResult:
    """What the verdict says of the latency report: every series, and the mixed model's ratio over each other one."""

    lines: tuple[LatencyLine, ...]
    speedups: tuple[Speedup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was asked and measured; ``detail`` is a sentence with the figures."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecided:
    """One thing that was asked and measured, and that the measurement leaves open: the limit lies within its 95 %
    interval. Neither passed nor failed. ``detail``: a sentence with the figures; ``needs``: what would decide."""

    name: str
    detail: str
    needs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured:
    """One thing that was asked and not measured, and why; neither passed nor failed."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Saved):
    """All checks of one build.

    ``outcome``: "failed" when a check failed; "undecided" when none did but the measurements leave one open;
    "incomplete" when something was not measured; else "passed". ``passed`` is true for the last alone. ``checks``:
    those that are decided. ``parity``: the integer reference against the optimised graph on the runtime;
    ``trained_parity``: the trained model against the runtime, where all scales are powers of two. ``notes``: what is
    worth knowing and is no check.
    """

    model: str
    target: str
    outcome: Outcome
    passed: bool
    checks: tuple[Check, ...]
    not_measured: tuple[NotMeasured, ...]
    budgets: tuple[BudgetUse, ...]
    bitops: tuple[BitOpsCount, ...]
    limits: Limits
    accuracy: AccuracyResult | None = None
    parity: EndToEndParity | None = None
    layer_parity: LayerParity | None = None
    trained_parity: EndToEndParity | None = None
    float_nodes: tuple[str, ...] | None = None
    latency: LatencyResult | None = None
    notes: tuple[str, ...] = ()
    undecided: tuple[Undecided, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    recommendation: Recommendation | None = None
    format: Literal["limpq.verdict/1"] = field(default="limpq.verdict/1")

    def __post_init__(self) -> None:
        outcome = outcome_of(self.checks, self.undecided, self.not_measured)
        if self.outcome != outcome or self.passed != (outcome == "passed"):
            raise ValueError(f"the checks say {outcome!r}, the verdict says {self.outcome!r}")

    def rows(self) -> list[dict[str, Any]]:
        """One for each check, decided or not, with its figures in a sentence."""
        return [
            *({"check": one.name, "outcome": _WORD[one.passed], "detail": one.detail} for one in self.checks),
            *({"check": one.name, "outcome": "undecided", "detail": one.detail} for one in self.undecided),
            *({"check": one.name, "outcome": "not measured", "detail": one.reason} for one in self.not_measured),
        ]

    def _title(self) -> str:
        return f"Verdict on {self.model} for {self.target}: {self.outcome}"


def float_baseline(names: Iterable[str]) -> str:
    """What the series "float" is to be called among series of these names."""
    return f"{FLOAT_SERIES} (FP16)" if FP32 in names else FLOAT_SERIES


def outcome_of(checks: Iterable[Check], undecided: Iterable[Undecided], not_measured: Iterable[NotMeasured]) -> Outcome:
    """ "failed" beats "undecided" beats "incomplete" beats "passed"."""
    if not all(check.passed for check in checks):
        return "failed"
    if tuple(undecided):
        return "undecided"
    return "incomplete" if tuple(not_measured) else "passed"


def count_bitops(
    name: str,
    placement: Placement,
    pairs: Mapping[str, BitPair],
    *,
    realised: Mapping[str, BitPair] | None = None,
) -> BitOpsCount:
    """Nominal and realised BitOps of an assignment, in exact integers.

    ``pairs``: (weight, activation) bits of the searched layers; pinned ones keep theirs unless listed. ``realised``:
    what the engine reports for each layer; a layer that it does not name counts as the target promises.
    """
    totals = {"nominal": [0, 0], "realised": [0, 0]}
    for layer in placement.layers:
        pinned = layer.pinned_bits
        asked = pairs[layer.name] if pinned is None else pairs.get(layer.name, (pinned, pinned))
        executed = (realised or {}).get(layer.name) or placement.spec.realised_pair(*asked)
        for kind, (weight_bits, act_bits) in (("nominal", asked), ("realised", executed)):
            bitops = layer.macs * bits_of(weight_bits) * bits_of(act_bits)
            totals[kind][0] += bitops if pinned is None else 0
            totals[kind][1] += bitops
    return BitOpsCount(
        name=name,
        nominal_searched=totals["nominal"][0],
        nominal_all=totals["nominal"][1],
        realised_searched=totals["realised"][0],
        realised_all=totals["realised"][1],
    )


def same_bits_everywhere(placement: Placement, weight_bits: int, act_bits: int) -> dict[str, BitPair]:
    """One pair for every layer, pinned ones included: 8 and 8, or `FLOAT_BITS` for the float model."""
    return {layer.name: (weight_bits, act_bits) for layer in placement.layers}
