"""The table of what could be shipped, gathered from the records of the stages before. No torch here."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from limpq_deploy.calibration.numbers.formats import pair_name
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.timing.report import LatencyReport
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.stages.candidates import CandidateFiles
from limpq_deploy.pipeline.stages.comparison import Comparison
from limpq_deploy.pipeline.stages.measure import Measured
from limpq_deploy.policy.policy import Policy
from limpq_deploy.verdict.candidates import SERIES, AccuracyPair, Candidate, CandidateName, Compared, SpeedPair
from limpq_deploy.verdict.record import Verdict
from limpq_deploy.workspace.file_names import ACCURACY, CANDIDATES, COMPARISON, LATENCY, POLICY

Aliases = Mapping[CandidateName, tuple[CandidateName, ...]]
"""Candidates whose file and figures are those of one that was measured, by that one, which is among them."""


def candidate_table(subject: Deployed, folder: Path, verdict: Verdict) -> Compared:
    """Every candidate of a build with its comparisons; ``verdict`` has the figures of accuracy, BitOps and latency."""
    assert verdict.accuracy is not None
    facts = load_record(CandidateFiles, folder / CANDIDATES).files
    comparison = load_record(Comparison, folder / COMPARISON)
    policy = load_record(Policy, folder / POLICY)
    accuracies = {
        "float": verdict.accuracy.float,
        "int8": verdict.accuracy.uniform8,
        "fp8": verdict.accuracy.uniform if comparison.is_fp8 else verdict.accuracy.fp8,
        "uniform": verdict.accuracy.uniform,
        "mixed": verdict.accuracy.mixed,
    }
    bitops = {_bitops_of(entry.name): entry for entry in verdict.bitops}
    bits = {
        "float": _float_bits(subject),
        "int8": "w8a8",
        "fp8": "fp8",
        "uniform": comparison.bits or "",
        "mixed": _bits(policy),
    }
    aliases = _aliases(comparison)
    measured = {alias: name for name, names in aliases.items() for alias in names}
    latency = load_record(LatencyReport, folder / LATENCY) if subject.builds_engine else None
    times = _times(latency, aliases)
    candidates = []
    for name in SERIES.values():
        accuracy, found = accuracies.get(name), facts.get(name)
        if accuracy is None or found is None:
            continue
        low, high = accuracy.interval
        candidates.append(
            Candidate(
                name=name,
                file=found.file,
                accuracy=accuracy.value,
                accuracy_low=low,
                accuracy_high=high,
                bytes=found.bytes,
                bitops_nominal=bitops[measured.get(name, name)].nominal_all,
                bitops_realised=bitops[measured.get(name, name)].realised_all,
                latency_ms=times.get(name),
                batch=found.batch,
                moved_bytes=found.moved_bytes,
                moved_by_batch=found.moved_by_batch,
                weight_bytes=found.weight_bytes,
                kernels=found.kernels,
                stored_file=found.stored_file,
                stored_bytes=found.stored_bytes,
                bits=bits[name],
                how=_how(subject, name),
                parity=found.parity,
            )
        )
    return Compared(
        candidates=tuple(candidates),
        accuracies=tuple(_accuracies(load_record(Measured, folder / ACCURACY).pairs, aliases)),
        speeds=tuple(_speeds(latency, aliases)) if latency is not None else (),
        points=verdict.accuracy.mixed.measure.points,
        own_compiler=subject.target.runs_on is not None and subject.target.runs_on.prices,
    )


def _how(subject: Deployed, name: CandidateName) -> str:
    if name == "float":
        return subject.start.source
    if subject.config.ptq:
        return "calibrated"
    if not subject.config.finetune:
        return "jointly trained" if name in ("mixed", "uniform") else "calibrated"
    return "trained"


def _float_bits(subject: Deployed) -> str:
    return "FP16" if (subject.config.float_type or subject.target.float_baseline) == "float16" else "FP32"


def _bits(policy: Policy) -> str:
    """``w4a4``; ``weights of 2 to 6 bits``; ``fp8 in 2 of 8 layers, weights of 8 bits``."""
    pairs = set(policy.pairs().values())
    if len(pairs) == 1:
        return pair_name(pairs.pop())
    widths = [bits.weight for bits in policy.bits.values() if bits.format is None]
    least, most, floats = min(widths), max(widths), len(policy.bits) - len(widths)
    said = f"weights of {least} bits" if least == most else f"weights of {least} to {most} bits"
    return f"fp8 in {floats} of {len(policy.bits)} layers, {said}" if floats else said


def _bitops_of(name: str) -> CandidateName:
    """Name of a candidate by that of its BitOps, such as "uniform w4a4"."""
    return SERIES[name.partition(" ")[0]]


def _aliases(comparison: Comparison) -> Aliases:
    """Uniform bits, where the policy is those, and FP8, where uniform bits are that."""
    fp8: tuple[CandidateName, ...] = ("fp8",) if comparison.is_fp8 else ()
    return {"mixed": ("mixed", "uniform", *fp8)} if comparison.same else {"uniform": ("uniform", *fp8)}


def _accuracies(pairs: tuple[AccuracyPair, ...], known: Aliases) -> Iterator[AccuracyPair]:
    for pair in pairs:
        for first, second in itertools.product(
            known.get(pair.first, (pair.first,)), known.get(pair.second, (pair.second,))
        ):
            yield AccuracyPair(
                first=first,
                second=second,
                points=pair.points,
                low=pair.low,
                high=pair.high,
                p_first_worse=pair.p_first_worse,
            )


def _times(latency: LatencyReport | None, known: Aliases) -> dict[CandidateName, float]:
    """p50 in ms with default threads, at the smallest batch."""
    if latency is None:
        return {}
    batch = min(series.batch for series in latency.series)
    deployed = [one for one in latency.series if (one.threads, one.batch, one.streams) == ("default", batch, 1)]
    found = {SERIES[one.name]: one.stats.p50_ms for one in deployed if one.name in SERIES}
    return {alias: ms for name, ms in found.items() for alias in known.get(name, (name,))}


def _speeds(latency: LatencyReport, known: Aliases) -> Iterator[SpeedPair]:
    batch = min(series.batch for series in latency.series)
    timed = {one.name for one in latency.series if (one.threads, one.batch, one.streams) == ("default", batch, 1)}
    for one, other in itertools.permutations([name for name in SERIES if name in timed], 2):
        gain = latency.speedup(one, other, threads="default", batch=batch)
        names = (known.get(SERIES[name], (SERIES[name],)) for name in (one, other))
        for first, second in itertools.product(*names):
            yield SpeedPair(first=first, second=second, ratio=gain.ratio, low=gain.low, high=gain.high)
