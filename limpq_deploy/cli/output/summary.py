"""What a build prints last: one screen with the figures that decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from limpq_deploy.calibration.numbers.formats import FP8_BITS, bits_of, pair_name
from limpq_deploy.cli.output.tables import in_columns, table, wrapped
from limpq_deploy.export.records.placement import FLOAT_BITS, Placement
from limpq_deploy.policy.policy import Policy
from limpq_deploy.tasks.score import TOP1, Score
from limpq_deploy.train.evaluate import Accuracy
from limpq_deploy.verdict.recommendation import sentence
from limpq_deploy.verdict.record import NO_GPU, LatencyResult, Verdict, float_baseline

if TYPE_CHECKING:
    from limpq_deploy.pipeline.outcome import Outcome

NAMES = {"uniform8": "int8"}
"""How models are called here."""

COLOURS = {"passed": "green", "failed": "red", "undecided": "yellow", "incomplete": "yellow"}


def summary(outcome: Outcome) -> str:
    """The outcome, figures of every model side by side, bits per layer, what failed, and where the files are."""
    blocks: list[str] = []
    if outcome.verdict is not None and outcome.placement is not None and outcome.policy is not None:
        blocks += [_headline(outcome.verdict), figures_table(outcome.verdict, outcome.placement, outcome.policy)]
    if outcome.policy is not None and outcome.placement is not None:
        blocks.append(bits_of_layers(outcome.policy, outcome.placement))
    if outcome.verdict is not None:
        blocks.append("\n".join(_remarks(outcome.verdict)))
    blocks.append("\n".join(_where(outcome)))
    if outcome.verdict is not None and outcome.verdict.recommendation is not None:
        blocks.append(ship_line(outcome.verdict))
    return "\n\n".join(block for block in blocks if block)


def figures_table(verdict: Verdict, placement: Placement, policy: Policy) -> str:
    """Accuracy, cost and latency of the mixed model and of what it is compared with."""
    pairs = {layer.name: policy.bits[layer.name].weight for layer in placement.searched}
    rows = []
    for bitops in verdict.bitops:
        size = _weight_bits(bitops.name, placement, pairs)
        rows.append(
            (
                NAMES.get(bitops.name, bitops.name.removeprefix("uniform ")),
                _figure(verdict, bitops.name),
                _giga(bitops.nominal_all),
                _giga(bitops.realised_all),
                _size(size),
                *(_p50(verdict, bitops.name, threads) for threads in (1, "default")),
            )
        )
    figure = verdict.accuracy.mixed.measure.name if verdict.accuracy is not None else TOP1.name
    header = ("", figure, "BitOps\nnominal", "BitOps\nrealised", "weights", "p50 ms\n1 thread", "p50 ms\ndefault")
    return table(header, rows, right=range(1, len(header)))


def bits_of_layers(policy: Policy, placement: Placement) -> str:
    """Weight and activation bits of every layer in execution order; pinned layers carry a star."""
    entries = []
    for layer in placement.layers:
        if layer.pinned_bits is None:
            bits = policy.bits[layer.name]
            entries.append(f"{layer.name} {pair_name(bits.pair)}")
        else:
            entries.append(f"{layer.name} w{layer.pinned_bits}a{placement.quantizer(layer.input).bits}*")
    return f"bits of every layer (* pinned):\n{in_columns(entries, gap=3)}"


def _headline(verdict: Verdict) -> str:
    found = verdict.recommendation
    elsewhere_better = verdict.outcome == "passed" and found is not None and not found.own_on_front
    word = click.style(verdict.outcome, fg="yellow" if elsewhere_better else COLOURS[verdict.outcome], bold=True)
    passed = sum(check.passed for check in verdict.checks)
    kept = f"{passed} of {len(verdict.checks)} checks kept"
    left = f", {len(verdict.undecided)} not decided" if verdict.undecided else ""
    elsewhere = any(one.name == "latency" and one.reason.startswith(NO_GPU) for one in verdict.not_measured)
    left += f"; latency not measured: {NO_GPU}" if elsewhere else ""
    return f"{verdict.model} for {verdict.target}: {word}, {kept}{left}"


def ship_line(verdict: Verdict) -> str:
    """The last line of a build: which file to ship, and why; green only where the policy's own file is on the front."""
    found = verdict.recommendation
    assert found is not None
    good = verdict.outcome == "passed" and found.own_on_front
    text = sentence(found, verdict.outcome)
    return click.style(wrapped(text[:1].upper() + text[1:]), fg="green" if good else "yellow", bold=True)


def _remarks(verdict: Verdict) -> Iterator[str]:
    """Failed checks, what was not decided or not measured, speed-up and doubts, notes."""
    for check in verdict.checks:
        if not check.passed:
            yield click.style(wrapped(f"FAILED {check.name}: {check.detail}"), fg="red")
    for left in verdict.undecided:
        text = f"NOT DECIDED {left.name}: {left.detail}; what would decide: {left.needs}"
        yield click.style(wrapped(text), fg="yellow")
    reasons: dict[str, list[str]] = {}
    for missing in verdict.not_measured:
        reasons.setdefault(missing.reason, []).append(missing.name)
    for reason, names in reasons.items():
        yield wrapped(f"not measured: {', '.join(names)}: {reason}")
    if verdict.parity is not None:
        equal = "bit-equal" if verdict.parity.logits_bit_equal else "not bit-equal"
        yield wrapped(
            f"parity: {verdict.parity.mismatches:,} of {verdict.parity.codes:,} codes differ between the integer "
            f"reference and {verdict.target}, logits {equal} ({verdict.parity.images:,} images)"
        )
    if verdict.latency is not None:
        yield from _speed(verdict.latency)
    yield from map(wrapped, verdict.notes)


def _speed(latency: LatencyResult) -> Iterator[str]:
    """The speed-up with the runtime's default threads, and the doubts about these two figures."""
    for gain in latency.speedups:
        if gain.over != "float" or gain.threads != "default":
            continue
        yield wrapped(
            f"speed: {gain.ratio:.2f} times as fast as {float_baseline(line.name for line in latency.lines)} "
            f"(95 % interval {gain.low:.2f} to {gain.high:.2f}; default threads, batch {gain.batch})"
        )
        about: dict[str, list[str]] = {}
        for line in latency.lines:
            if (line.threads, line.batch) == (gain.threads, gain.batch) and line.name in ("mixed", "float"):
                for doubt in line.doubts:
                    about.setdefault(doubt, []).append(line.name)
        for names in sorted(set(map(tuple, about.values()))):
            doubts = "; ".join(doubt for doubt, ones in about.items() if tuple(ones) == names)
            yield wrapped(f"doubtful ({', '.join(names)}): {doubts}")


def _where(outcome: Outcome) -> Iterator[str]:
    if outcome.why is not None:
        yield wrapped(f"Stopped after {outcome.stages[-1].title}: {outcome.why}.")
        yield f"files:  {outcome.folder}"
    else:
        yield f"report: {outcome.folder / 'report.html'}"
        yield f"bundle: {outcome.folder / 'bundle'}"
        if outcome.left is not None:
            yield wrapped(f"next:   {outcome.left}")
    if outcome.outdated:
        yield wrapped(f"Of an earlier build, not of this one: {', '.join(outcome.outdated)}.")


def _weight_bits(name: str, placement: Placement, pairs: dict[str, int]) -> int:
    """Size of all weights in bits, pinned layers included."""
    total = 0
    for layer in placement.layers:
        pinned = layer.pinned_bits
        if name == "float":
            bits = FLOAT_BITS
        elif name == "uniform8":
            bits = 8
        elif pinned is not None:
            bits = pinned
        else:
            bits = pairs[layer.name] if name == "mixed" else _uniform_bits(name)
        total += layer.num_weights * bits_of(bits)
    return total


def _uniform_bits(name: str) -> int:
    """Weight bits of "uniform w4a4" or "uniform fp8"."""
    said = name.removeprefix("uniform ")
    return FP8_BITS if said == "fp8" else int(said.removeprefix("w").partition("a")[0])


def _figure(verdict: Verdict, name: str) -> str:
    if verdict.accuracy is None:
        return "-"
    found: dict[str, Accuracy | Score | None] = {
        "mixed": verdict.accuracy.mixed,
        "float": verdict.accuracy.float,
        "uniform8": verdict.accuracy.uniform8,
        "fp8": verdict.accuracy.fp8,
    }
    accuracy = found.get(name, verdict.accuracy.uniform)
    return "-" if accuracy is None else accuracy.shown


def _p50(verdict: Verdict, name: str, threads: int | str) -> str:
    lines = verdict.latency.lines if verdict.latency is not None else ()
    name = name.partition(" ")[0]  # "uniform w4a4"
    found = [line.p50_ms for line in lines if line.name == name and line.threads == threads]
    return f"{found[0]:.3f}" if found else "-"


def _giga(bitops: int) -> str:
    return f"{bitops / 1e9:,.4g} G"


def _size(bits: int) -> str:
    kib = bits / 8 / 2**10
    return f"{kib:,.1f} KiB" if kib < 1024 else f"{kib / 1024:,.2f} MiB"
