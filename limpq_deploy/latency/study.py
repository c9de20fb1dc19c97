"""How far BitOps predict latency on a device: graphs of many budgets, timed side by side.

Two sweeps. Over the target's native pairs, where executed ("realised") BitOps vary: there BitOps can predict latency,
and how well is measured. Over 2 to 8 bits, where everything executes as 8-bit integers: there nominal BitOps vary, and
latency should stay where it is. All pure; who times the graphs hands the figures in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import InfeasiblePolicy
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.timing.report import Threads
from limpq_deploy.policy.budgets import gbitops_budget
from limpq_deploy.policy.costs import BitOps as BitOpsCost
from limpq_deploy.policy.costs import total_cost
from limpq_deploy.policy.importance_names import SCALE
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.restrictions import restrict
from limpq_deploy.policy.search import search_policy
from limpq_deploy.verdict.record import count_bitops

Sweep = Literal["native", "narrow"]

GOOD, FAIR = 0.9, 0.6
"""Rank correlations from which BitOps order engines well, or roughly."""

NATIVE_SWEEP = "native "
"""What the names of policies of the native sweep begin with."""

STAYS = 0.1
"""Relative spread of latencies that is reported as none."""

RESAMPLES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPoint:
    """One policy: its nominal and realised BitOps (all layers, one image) and p50 of its graph in ms, with its 95 %
    interval. ``residual_ms``: measured less the fitted line; None outside the native sweep."""

    name: str
    sweep: Sweep
    nominal: int
    realised: int
    ms: float
    low_ms: float
    high_ms: float
    residual_ms: float | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Spearman's rank correlation of BitOps with latency, and its 95 % interval over resampled policies; None where the
    BitOps of all policies are equal."""

    value: float | None
    low: float | None
    high: float | None
    policies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyStudy:
    """All points. ``realised`` and ``nominal``: correlation over the native sweep; ``nominal_narrow``: over 2 to 8
    bits. The line, latency = ``base_ms`` + ``ms_per_gbitops`` * realised G BitOps, is that of least squares over the
    native sweep; ``explained``: share of the variance that it explains (R squared). ``narrow_spread``: largest less
    smallest latency over 2 to 8 bits, relative to their median. ``sentence``: what this comes to. ``batch``: images of
    a call (BitOps are those of one); ``refused``: why of a policy's graph no engine was built, by its name."""

    model: str
    device: str
    threads: Threads
    points: tuple[StudyPoint, ...]
    realised: Correlation
    nominal: Correlation
    nominal_narrow: Correlation
    base_ms: float
    ms_per_gbitops: float
    explained: float
    narrow_spread: float
    sentence: str
    batch: int = 1
    refused: Mapping[str, str] = field(default_factory=dict)
    format: Literal["limpq.latency-study/1"] = field(default="limpq.latency-study/1")

    @property
    def doubtful(self) -> int:
        """Points with a doubt."""
        return sum(bool(point.doubts) for point in self.points)


def native_policies(
    indicators: Indicators, placement: Placement, count: int, pairs: Sequence[BitPair] | None = None
) -> dict[str, dict[str, BitPair]]:
    """Policies over the target's native pairs (or these of them) at ``count`` BitOps budgets, evenly from all integers
    to all floats, by name; equal ones once."""
    native = restrict(indicators, space=f"native:{placement.target}")
    pairs = tuple(pairs or placement.spec.native_pairs)
    asked = [tuple(pair for pair in layer.pairs or () if pair in pairs) for layer in native.layers]
    layers = tuple(replace(layer, pairs=some) for layer, some in zip(native.layers, asked, strict=True))
    native = replace(native, layers=layers)
    cost = BitOpsCost(pinned=True)
    ends = [total_cost(cost, native, dict.fromkeys((layer.name for layer in native.layers), pair)) for pair in pairs]
    found: dict[str, dict[str, BitPair]] = {}
    for gbitops in np.linspace(min(ends), max(ends), count) / 1e9:
        try:
            # Outliers are kept: what is asked is which budget gives which latency, not which policy is best.
            policy = search_policy(
                native, [gbitops_budget(native, float(gbitops) + 1e-6)], importance=SCALE, outliers="keep"
            ).pairs()
        except InfeasiblePolicy:
            continue
        if policy not in found.values():
            found[f"{NATIVE_SWEEP}{gbitops:.3g} G"] = policy
    return found


def narrow_policies(placement: Placement, bits: Sequence[int] = (2, 3, 4, 6, 8)) -> dict[str, dict[str, BitPair]]:
    """Uniform policies of up to 8 bits, by name."""
    return {f"w{b}a{b}": {layer.name: (b, b) for layer in placement.searched} for b in bits}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """p50 of a graph in ms, its interval and doubts."""

    ms: float
    low_ms: float
    high_ms: float
    doubts: tuple[str, ...] = ()


def study(
    placement: Placement,
    policies: Mapping[str, Mapping[str, BitPair]],
    measured: Mapping[str, Measured],
    *,
    device: str,
    threads: Threads,
    batch: int = 1,
    realised: Mapping[str, Mapping[str, BitPair]] | None = None,
    refused: Mapping[str, str] | None = None,
    seed: int = 0,
) -> LatencyStudy:
    """What timed policies say. Names that begin with `NATIVE_SWEEP` are of that sweep, others of the narrow one.
    ``realised``: bits by layer that a policy's engine tells; others count as the target promises."""
    points = []
    for name, policy in policies.items():
        bitops = count_bitops(name, placement, policy, realised=(realised or {}).get(name))
        found = measured[name]
        points.append(
            StudyPoint(
                name=name,
                sweep="native" if name.startswith(NATIVE_SWEEP) else "narrow",
                nominal=bitops.nominal_all,
                realised=bitops.realised_all,
                ms=found.ms,
                low_ms=found.low_ms,
                high_ms=found.high_ms,
                doubts=found.doubts,
            )
        )
    native = [point for point in points if point.sweep == "native"]
    narrow = [point for point in points if point.sweep == "narrow"]
    slope, base, explained = _line(native)
    residuals = {point.name: point.ms - base - slope * point.realised / 1e9 for point in native}
    times = np.array([point.ms for point in narrow])
    spread = float((times.max() - times.min()) / np.median(times)) if len(narrow) else 0.0
    order = rank_correlation([point.realised for point in native], [point.ms for point in native], seed=seed)
    nominal_narrow = rank_correlation([point.nominal for point in narrow], [point.ms for point in narrow], seed=seed)
    return LatencyStudy(
        model=placement.model,
        device=device,
        threads=threads,
        points=tuple(replace(point, residual_ms=residuals.get(point.name)) for point in points),
        realised=order,
        nominal=rank_correlation([point.nominal for point in native], [point.ms for point in native], seed=seed),
        nominal_narrow=nominal_narrow,
        base_ms=base,
        ms_per_gbitops=slope,
        explained=explained,
        narrow_spread=spread,
        sentence=_sentence(order, native, residuals, device if batch == 1 else f"{device} at batch {batch}")
        + _narrow_sentence(placement, narrow, spread)
        + _doubt_sentence(points)
        + _refused_sentence(refused or {}),
        batch=batch,
        refused=dict(refused or {}),
    )


def rank_correlation(bitops: Sequence[int], ms: Sequence[float], *, seed: int) -> Correlation:
    """Spearman's correlation, ties at their mean rank, with a percentile bootstrap interval over the policies."""
    first, second = np.asarray(bitops, np.float64), np.asarray(ms, np.float64)
    value = _spearman(first, second)
    if value is None:
        return Correlation(value=None, low=None, high=None, policies=len(first))
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(first), (RESAMPLES, len(first)))
    found = [one for row in drawn if (one := _spearman(first[row], second[row])) is not None]
    low, high = np.percentile(found, (2.5, 97.5))
    return Correlation(value=value, low=float(low), high=float(high), policies=len(first))


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[index]
    return ranks


def _line(points: Sequence[StudyPoint]) -> tuple[float, float, float]:
    """Slope in ms per G BitOps, base in ms, and R squared of the least-squares line."""
    if len(points) < 2 or len({point.realised for point in points}) < 2:
        return 0.0, float(np.mean([point.ms for point in points])) if points else 0.0, 0.0
    x, y = np.array([point.realised / 1e9 for point in points]), np.array([point.ms for point in points])
    slope, base = np.polyfit(x, y, 1)
    rest, all_ = float(((y - base - slope * x) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return float(slope), float(base), 1 - rest / all_ if all_ else 0.0


def _sentence(realised: Correlation, native: Sequence[StudyPoint], residuals: Mapping[str, float], device: str) -> str:
    if len(native) < 3:
        text = f"On {device} {len(native)} engines of native pairs were timed, too few to say what BitOps predict"
    elif realised.value is None or realised.low is None or realised.high is None:
        text = f"On {device} the policies' executed BitOps are all equal, so they predict nothing of latency"
    else:
        how = "well" if realised.value >= GOOD else "roughly" if realised.value >= FAIR else "poorly"
        worst = max(native, key=lambda point: abs(residuals[point.name]) / point.ms)
        text = (
            f"On {device} executed BitOps order {realised.policies} engines of native pairs {how} by latency (rank "
            f"correlation {realised.value:.2f}, 95 % {realised.low:.2f} to {realised.high:.2f}); a line through "
            "them is "
            f"off by up to {100 * abs(residuals[worst.name]) / worst.ms:.0f} % ({worst.name})"
        )
    return f"{text}."


def _narrow_sentence(placement: Placement, narrow: Sequence[StudyPoint], spread: float) -> str:
    if not narrow:
        return ""
    promised = count_bitops("", placement, {layer.name: (8, 8) for layer in placement.searched}).realised_all
    wider = sum(point.realised != promised for point in narrow)
    how = f"of which {wider} engines leave integers in places" if wider else "which all execute as 8-bit integers"
    noise = max(point.low_ms for point in narrow) <= min(point.high_ms for point in narrow)
    if spread <= STAYS:
        said = f"stays where it is (within {100 * spread:.0f} %)"
    else:
        said = f"differs by {100 * spread:.0f} %" + (", no more than the intervals of these figures" if noise else "")
    return f" Over 2 to 8 bits, {how}, nominal BitOps vary and latency {said}."


def _doubt_sentence(points: Sequence[StudyPoint]) -> str:
    doubtful = sum(bool(point.doubts) for point in points)
    return f" {doubtful} of {len(points)} of these figures are doubtful." if doubtful else ""


def _refused_sentence(refused: Mapping[str, str]) -> str:
    return f" No engine is built of {', '.join(refused)}." if refused else ""
