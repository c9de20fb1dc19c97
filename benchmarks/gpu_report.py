"""A page of the GPU benchmark's result: tables for people, from the JSON that the benchmark leaves."""

from collections.abc import Iterator
from typing import Any


def page(result: dict[str, Any]) -> str:
    """Markdown."""
    machine = result["environment"]
    gpu = machine.get("gpu") or {}
    lines = [
        "# Engines on a GPU",
        "",
        f"{gpu.get('gpu', 'no GPU')}, compute capability {gpu.get('compute_capability', '?')}, driver "
        f"{gpu.get('driver', '?')}, TensorRT {gpu.get('tensorrt', '?')}, Python {machine['python']}; "
        f"{machine['cpu']}, {machine['cpus']} CPUs. {result['seconds']:.0f} s in all"
        f"{', in ' + str(result['runs']) + ' runs' if result['runs'] > 1 else ''}"
        f"{', a quick run' if result['quick'] else ''}.",
        *_states(result["models"]),
        "",
        "| self-test | passed | |",
        "|---|---|---|",
        *(
            f"| {package}: {one['name']} | {'yes' if one['passed'] else '**no**'} | {one['detail']} |"
            for package, found in result["self_tests"].items()
            for one in found.get("tried", [{"name": "start", "passed": False, "detail": found.get("failed", "")}])
        ),
    ]
    for name, parts in result["models"].items():
        lines += ["", f"## {name}", *_model(parts)]
    return "\n".join(lines) + "\n"


def _states(models: dict[str, Any]) -> Iterator[str]:
    """A line where the parts come of more than one state of the code."""
    states = {part["code"]: None for parts in models.values() for part in parts.values() if "result" in part}
    if len(states) > 1:
        yield f"The parts come of {len(states)} states of the code: {', '.join(states)} (`code` in the result)."


def _model(parts: dict[str, Any]) -> Iterator[str]:
    for name, part in parts.items():
        if "result" not in part:
            yield from ("", f"{name}: {part.get('failed') or part.get('skipped')}")
            continue
        yield ""
        yield from _TABLES[name](part["result"])


def _engines(found: dict[str, Any]) -> Iterator[str]:
    yield "| engine | layers in INT8 / FP16 / FP32 | reformats | plan, MiB | build, s |"
    yield "|---|---|---|---|---|"
    for name, engine in found.items():
        if "failed" in engine:
            yield f"| {name} | {_cell(engine['failed'])} | | | |"
            continue
        kinds = list(engine["layer_precision"].values())
        counts = [sum(kind in words for kind in kinds) for words in (("s8s8", "u8s8"), ("float16",), ("float32",))]
        others = len(kinds) - sum(counts)
        plan = engine.get("plan")
        about = ["?", "?", "?"]
        if plan is not None:
            reformats = sum(layer["reformat"] for layer in plan["layers"])
            about = [
                str(reformats),
                f"{plan['size'] / 2**20:.1f}",
                f"{sum(one['seconds'] for one in plan['builds']):.1f}",
            ]
        unknown = f", {others} of unknown precision" if others else ""
        yield f"| {name} | {' / '.join(map(str, counts))}{unknown} | {' | '.join(about)} |"


def _parity(found: dict[str, Any]) -> Iterator[str]:
    yield "| against the file | codes that differ, layer by layer | largest, LSB | lost bounds | logits, end to end |"
    yield "|---|---|---|---|---|"
    for name, one in found.items():
        if "failed" in one:
            yield f"| {name} | {_cell(one['failed'])} | | | |"
            continue
        logits = one["end_to_end_logits"]
        share = one["mismatches"] / one["codes"]
        yield (
            f"| {name} | {one['mismatches']:,} of {one['codes']:,} ({share:.2e}) | {one['max_lsb']} | "
            f"{len(one['clips']['lost'])} | {logits['max_difference']:.3g} of a range of {logits['range']:.3g}, top-1 "
            f"{'equal' if logits['top1_equal'] else 'differs'} |"
        )


def _latency(found: dict[str, Any]) -> Iterator[str]:
    yield "| engine | batch | at once | p50, ms (95 %) | p99 | FP16 / this | enqueue | copies in, out | mode | doubts |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    halves = {_setting(one): one["stats"]["p50_ms"] for one in found["series"] if one["name"] == "fp16"}
    for one in found["series"]:
        stats, parts = one["stats"], one.get("parts_ms", {})
        middle = {name: f"{sorted(values)[len(values) // 2]:.3f}" for name, values in parts.items()}
        ratio = f"{halves[_setting(one)] / stats['p50_ms']:.2f}" if _setting(one) in halves else ""
        yield (
            f"| {one['name']} | {one['batch']} | {one['streams']} | {stats['p50_ms']:.3f} ({stats['p50_low_ms']:.3f}-"
            f"{stats['p50_high_ms']:.3f}) | {stats['p99_ms']:.3f} | {ratio} | {middle.get('enqueue', '')} | "
            f"{middle.get('copy_in', '')}, {middle.get('copy_out', '')} | {one['options'].get('mode') or ''} | "
            f"{'; '.join(one['doubts'])} |"
        )

    for name, why in found["left_out"].items():
        yield f"| {name} | | | {_cell(why)} | | | | | | |"


def _cell(text: str) -> str:
    """A reason in a table: one line, no bars."""
    return " ".join(text.split()).replace("|", "/")


def _setting(series: dict[str, Any]) -> tuple[int, int]:
    return series["batch"], series["streams"]


def _trtexec(found: dict[str, Any]) -> Iterator[str]:
    for name, one in found.items():
        if "failed" in one:
            yield f"trtexec on {name}: {one['failed']}."
            continue
        medians = ", ".join(f"{what} {ms:.3f} ms" for what, ms in one["median_ms"].items())
        yield f"trtexec on {name}, batch 1, medians: {medians}."


def _audit(found: dict[str, Any]) -> Iterator[str]:
    for name, one in found.items():
        said = one["failed"] if "failed" in one else " ".join(one["notes"]) or "every layer runs as planned."
        if "without_float" in one:
            said += f" Not compared with FP16: {one['without_float']}."
        yield f"Audit of {name}: {said}"


def _profile(found: dict[str, Any]) -> Iterator[str]:
    error = found["median_prediction_error"]
    said = (
        "no graph was predicted"
        if error is None
        else f"predicted to {100 * error:.1f} % (median), {100 * found['worst_prediction_error']:.1f} % (worst)"
    )
    yield f"Latency table of {len(found['table']['times'])} part times; graphs that it did not know: {said}."
    yield from (f"{name} is left out: {why}." for name, why in found["table"].get("refused", {}).items())


def _study(found: dict[str, Any]) -> Iterator[str]:
    native = [point for point in found["points"] if point["sweep"] == "native"]
    worst = max((abs(point["residual_ms"]) / point["ms"] for point in native), default=0.0)
    yield (
        f"BitOps and latency of {len(native)} graphs of INT8 and FP16: rank correlation {_rank(found['nominal'])} "
        f"nominal, {_rank(found['realised'])} executed; line {found['base_ms']:.3f} ms + "
        f"{found['ms_per_gbitops']:.4g} ms per executed G BitOps (R squared {found['explained']:.2f}), off by up to "
        f"{100 * worst:.1f} %; over 2 to 8 bits latency differs by {100 * found['narrow_spread']:.1f} %."
    )
    yield ""
    yield found["sentence"]
    yield from (f"{name} is left out: {why}." for name, why in found["refused"].items())


def _rank(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "undefined"
    return f"{found['value']:.2f} (95 % {found['low']:.2f} to {found['high']:.2f})"


def _spread(found: dict[str, Any]) -> Iterator[str]:
    times = ", ".join(f"{one['ms']:.3f}" for one in found["builds"] if one.get("ms") is not None)
    spread = found["spread"]
    yield f"Builds that timed their kernels anew: {times} ms" + (
        f", {100 * spread:.1f} % apart." if spread is not None else "."
    )


def _rtx(found: dict[str, Any]) -> Iterator[str]:
    yield "Engines of TensorRT-RTX:"
    for name, table in (("parity", _parity), ("latency", _latency)):
        yield ""
        yield from table(found[name])


_TABLES = {
    "first_parity": _parity,
    "first_latency": _latency,
    "rtx": _rtx,
    "engines": _engines,
    "parity": _parity,
    "latency": _latency,
    "trtexec": _trtexec,
    "audit": _audit,
    "profile": _profile,
    "study": _study,
    "spread": _spread,
}
