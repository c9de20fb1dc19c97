"""Which file to ship: the recommendation, and every candidate with what it costs."""

from dataclasses import dataclass

from limpq_deploy.report.figures import giga, milliseconds
from limpq_deploy.report.inputs import ReportInputs
from limpq_deploy.verdict.candidates import SIMPLEST, Candidate
from limpq_deploy.verdict.recommendation import sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipRow:
    """One candidate; ``role``: "shipped", "dominated" or empty; ``remark``: by what it is dominated and why."""

    name: str
    bits: str
    file: str
    role: str
    accuracy: str
    interval: str
    size: str
    bitops: str
    time: str
    parity: str
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippingSection:
    """``headline``: "Ship int8"; ``sentence``: with the reasons; ``good``: whether the policy's own file is on the
    front; ``rows``: the simplest first; ``time``: what stands in that column; ``figure``: the accuracy's name."""

    headline: str
    sentence: str
    good: bool
    rows: tuple[ShipRow, ...]
    time: str
    figure: str
    objective: str


def shipping_section(inputs: ReportInputs) -> ShippingSection | None:
    """None where the verdict is of a version that recommended nothing."""
    verdict = inputs.verdict
    found = verdict.recommendation
    if found is None or verdict.accuracy is None:
        return None
    text = sentence(found, verdict.outcome)
    measured = any(one.latency_ms is not None for one in verdict.candidates)
    unit = verdict.accuracy.float.measure.unit
    remarks = {one.candidate: f"{one.by} instead: {one.reason}" for one in found.dominated}
    return ShippingSection(
        headline=f"Ship {found.candidate}",
        sentence=f"{text[:1].upper()}{text[1:]}.",
        good=verdict.outcome == "passed" and found.own_on_front,
        rows=tuple(
            _row(
                one,
                remarks.get(one.name, ""),
                shipped=one.name == found.candidate,
                unit=unit,
            )
            for one in sorted(verdict.candidates, key=lambda one: SIMPLEST.index(one.name))
        ),
        time="p50 here" if measured else f"Moved at batch {verdict.candidates[0].batch}, kernels",
        figure=verdict.accuracy.float.measure.title,
        objective=found.objective,
    )


def _row(one: Candidate, remark: str, *, shipped: bool, unit: str) -> ShipRow:
    return ShipRow(
        name=one.name,
        bits=one.bits,
        file=one.file,
        role="shipped" if shipped else "dominated" if remark else "",
        accuracy=f"{one.accuracy:.2f} {unit}".rstrip(),
        interval=f"{one.accuracy_low:.2f} to {one.accuracy_high:.2f}",
        size=f"{one.bytes:,}" + (f" ({one.stored_bytes:,} stored)" if one.stored_bytes is not None else ""),
        bitops=f"{giga(one.bitops_nominal)} / {giga(one.bitops_realised)}",
        time=_time(one),
        parity=_parity(one),
        remark=remark,
    )


def _time(one: Candidate) -> str:
    if one.latency_ms is not None:
        return milliseconds(one.latency_ms)
    if one.moved is None:
        return "not measured"
    return f"{one.moved:,} bytes, {one.kernels} kernels{_other_batches(one)}"


def _other_batches(one: Candidate) -> str:
    """``; batch 8: 9,000 bytes``."""
    numbers = {key: int(key.rpartition("_")[2]) for key in one.moved_by_batch or {}}
    others = [one.at(number) for number in sorted(numbers.values()) if number != one.batch]
    return "".join(f"; batch {other.batch}: {other.moved:,} bytes" for other in others if other.moved is not None)


def _parity(one: Candidate) -> str:
    if one.parity is None:
        return ""
    return f"{one.parity.mismatches:,} of {one.parity.codes:,} codes differ"
