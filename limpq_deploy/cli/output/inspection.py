"""How `inspect` tells people what would become of a network."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from limpq_deploy.calibration.plain_text import plain_record
from limpq_deploy.cli.output.tables import table, wrapped

if TYPE_CHECKING:
    from limpq_deploy.pipeline.inspection import InspectedLayer, Inspection


def inspection_lines(found: "Inspection") -> str:
    """The verdict, then layers, what stays float, uniform policies and training time."""
    found = plain_record(found)
    shape = "x".join(map(str, found.input_shape))
    lines = [
        f"{found.model}, {shape}, {found.target}: {'accepted' if found.accepted else 'refused'} ({found.seconds:.1f} s)"
    ]
    lines += [wrapped(f"note: {note}") for note in found.notes]
    lines += [wrapped(f"- {reason}") for reason in found.why]
    if found.layers:
        rows = [_row(layer) for layer in found.layers]
        heads = ("layer", "kind", "MACs", "weights", "bits", "runs in")
        lines += ["", table(heads, rows, right=(2, 3))]
    return "\n".join([*lines, *(_accepted(found) if found.accepted else ())])


def _row(layer: "InspectedLayer") -> tuple[str, ...]:
    bits = f"w{layer.weight_bits}a{layer.input_bits or '?'}" if layer.weight_bits is not None else "searched"
    return (
        *(layer.name, layer.kind, f"{layer.macs:,}", f"{layer.num_weights:,}"),
        *(bits if layer.runs_in == "integer" else "-", layer.runs_in),
    )


def _accepted(found: "Inspection") -> Iterator[str]:
    macs, weights = (sum(getattr(layer, each) for layer in found.layers) for each in ("macs", "num_weights"))
    yield ""
    yield wrapped(
        f"{len(found.layers)} layers, {macs:,} MACs an image, {weights:,} weights; {found.quantizers} activation "
        f"quantizers; {100 * found.integer_macs_share:.1f} % of the MACs run in integers"
    )
    if found.float_operators:
        yield ""
        operators = [(one.name, one.operator, one.why) for one in found.float_operators]
        yield table(("in float", "operator", "why"), operators)
    yield ""
    rows = [
        (f"--like w{one.bits}a{one.bits}", f"{one.gbitops:.4g}", f"{one.mib:.4g}", f"{one.compression_ratio:.2f}")
        for one in found.uniform
    ]
    yield table(("uniform policy", "G BitOps", "MiB", "times smaller than 32 bits"), rows, right=(1, 2, 3))
    if found.training is not None:
        one = found.training
        yield ""
        yield wrapped(
            f"training on {one.images:,} images takes about {_time(one.joint)} for all bit-widths at once and "
            f"{_time(one.finetune)} for a policy here ({_time(one.float_model)} for a float model, where none is "
            f"given): an estimate, from MACs at {one.gmacs_per_second:.3g} G a second on this {one.device}; --ptq "
            "trains nothing"
        )


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
