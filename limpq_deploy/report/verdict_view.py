"""The verdict as the page's opening: one word, one sentence, the named checks, four figures."""

from dataclasses import dataclass

from limpq_deploy.export.timing.report import FLOAT_SERIES
from limpq_deploy.report.costs import weight_sizes
from limpq_deploy.report.figures import giga, milliseconds, plural, signed
from limpq_deploy.report.inputs import ReportInputs
from limpq_deploy.report.latency import threads_text
from limpq_deploy.verdict.record import MIXED, LatencyLine, Verdict, float_baseline

WORDS = {"passed": "Passed", "failed": "Failed", "undecided": "Not decided", "incomplete": "Incomplete"}

TITLES = {
    "budget_bitops": "BitOps budget, all layers",
    "budget_bitops_searched": "BitOps budget, searched layers",
    "budget_size": "Weight size budget",
    "parity_end_to_end": "Integer parity, end to end",
    "parity_layer_by_layer": "Parity with the trained model",
    "parity_power_of_two": "Trained model equals the engine",
    "integers_everywhere": "Integers everywhere",
    "accuracy_against_float": "Accuracy against float",
    "accuracy_against_uniform": "Accuracy against uniform bits",
    "latency": "Latency limit",
    "speedup": "Speed-up asked for",
    "faster_than_uniform8": "Faster than uniform 8 bits",
    "faster_than_fp8": "Faster than uniform FP8",
    "faster_than_float16": "Faster than uniform FP16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """``state``: "passed", "failed", "not decided" or "not measured"."""

    name: str
    title: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One of the large numbers; ``value`` None: not measured."""

    name: str
    value: str | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictSection:
    word: str
    sentence: str
    checks: tuple[CheckRow, ...]
    figures: tuple[Figure, ...]


def verdict_section(inputs: ReportInputs) -> VerdictSection:
    verdict = inputs.verdict
    rows = [
        *(_row(check.name, "passed" if check.passed else "failed", check.detail) for check in verdict.checks),
        *(_row(one.name, "not decided", f"{one.detail}; what would decide: {one.needs}") for one in verdict.undecided),
        *(_row(missing.name, "not measured", missing.reason) for missing in verdict.not_measured),
    ]
    order = {"failed": 0, "not decided": 1, "not measured": 2, "passed": 3}
    return VerdictSection(
        word=WORDS[verdict.outcome],
        sentence=_sentence(verdict),
        checks=tuple(sorted(rows, key=lambda row: order[row.state])),
        figures=(_accuracy(inputs), _bitops(inputs), _size(inputs), _latency(inputs)),
    )


def _row(name: str, state: str, detail: str) -> CheckRow:
    return CheckRow(name=name, title=TITLES.get(name, name.replace("_", " ").capitalize()), state=state, detail=detail)


def _sentence(verdict: Verdict) -> str:
    failed = [check.name for check in verdict.checks if not check.passed]
    decided = len(verdict.checks)
    open_ends = []
    if verdict.undecided:
        open_ends.append(f"{plural(len(verdict.undecided), 'check')} {_are(len(verdict.undecided))} not decided")
    if verdict.not_measured:
        count = len(verdict.not_measured)
        open_ends.append(f"{plural(count, 'thing')} asked for {_are(count, 'was', 'were')} not measured")
    left = " and ".join(open_ends)
    if failed:
        kept = "The only check failed" if decided == 1 else f"{len(failed)} of {plural(decided, 'check')} failed"
        return f"{kept}, and {left}." if left else f"{kept}."
    kept = "The only check" if decided == 1 else f"All {plural(decided, 'check')}"
    return f"{kept} made passed, but {left}." if left else f"{kept} passed."


def _are(number: int, one: str = "is", many: str = "are") -> str:
    return one if number == 1 else many


def _accuracy(inputs: ReportInputs) -> Figure:
    accuracy = inputs.verdict.accuracy
    if accuracy is None:
        return Figure(name="Accuracy, mixed", value=None, detail="")
    measure = accuracy.mixed.measure
    points = accuracy.mixed.value - accuracy.float.value
    return Figure(
        name=f"{measure.title}, mixed",
        value=accuracy.mixed.shown,
        detail=f"float {accuracy.float.shown}, {signed(points)} {measure.points}",
    )


def _bitops(inputs: ReportInputs) -> Figure:
    mixed = next((entry for entry in inputs.verdict.bitops if entry.name == MIXED), None)
    if mixed is None:
        return Figure(name="BitOps, nominal", value=None, detail="")
    return Figure(
        name="BitOps, nominal",
        value=giga(mixed.nominal_all),
        detail=f"realised on this target: {giga(mixed.realised_all)}",
    )


def _size(inputs: ReportInputs) -> Figure:
    sizes = weight_sizes(inputs)
    mixed, full = sizes[0], sizes[-1]
    return Figure(
        name="Weights, packed",
        value=mixed.text,
        detail=f"float {full.text}, {mixed.ratio:.1f} times as much",
    )


def _latency(inputs: ReportInputs) -> Figure:
    latency = inputs.verdict.latency
    lines = [line for line in latency.lines if line.name == MIXED] if latency is not None else []
    if latency is None or not lines:
        return Figure(name="Latency, p50", value=None, detail="")
    line = min(lines, key=lambda one: (one.threads != "default", one.batch))
    run = (line.threads, line.batch)
    gains = [gain for gain in latency.speedups if gain.over == FLOAT_SERIES and (gain.threads, gain.batch) == run]
    other = float_baseline(line.name for line in latency.lines)
    faster = f"{gains[0].ratio:.2f} times as fast as {other}, " if gains else ""
    return Figure(
        name="Latency, p50",
        value=milliseconds(line.p50_ms),
        detail=f"{faster}{threads_text(line.threads)}, batch {line.batch}{_doubt(line)}",
    )


def _doubt(line: LatencyLine) -> str:
    return "; doubtful" if line.doubts else ""
