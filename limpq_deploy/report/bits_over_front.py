"""Bits per layer that follow the slider: drawn for one policy, each bar with the bits of all the others, by which the
page's script redraws it."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from limpq_deploy.calibration.numbers.formats import width_name
from limpq_deploy.export.records.placement import BitPair, LayerPlacement, Placement
from limpq_deploy.policy.policy import Policy
from limpq_deploy.report import svg
from limpq_deploy.report.columns import AxisLabel, Column, ColumnChart, column_chart
from limpq_deploy.report.inputs import pair_of
from limpq_deploy.report.layers import BIT_PX, GAP, SIDE, TOP, drawn_bits


def bits_chart(
    layers: Sequence[LayerPlacement], shown: Sequence[BitPair], choices: Sequence[Sequence[BitPair]] = ()
) -> ColumnChart:
    """``shown``: pairs of all layers in the placement's order; ``choices``: the same for every stop of the slider."""
    top_bits = max(drawn_bits(bits) for one in (shown, *choices) for pair in one for bits in pair)
    floor = TOP + BIT_PX * top_bits
    ceiling = floor + GAP
    lines, axis = [], []
    for bits in range(0, top_bits + 1, 2):
        for y in (floor - BIT_PX * bits, ceiling + BIT_PX * bits):
            lines.append(svg.horizontal(y, "grid"))
            if bits and bits % 4 == 0:
                axis.append(AxisLabel(y=y, text=f"{bits} bit"))
    axis.append(AxisLabel(y=floor - 1.7 * BIT_PX, text="weight", class_="tick w-ink"))
    axis.append(AxisLabel(y=ceiling + 1.7 * BIT_PX, text="act.", class_="tick a-ink"))

    def column(place: int, name: str, pinned: bool) -> Column:
        pair = shown[place]
        kind, text = (" pinned", " pinned-text") if pinned else ("", "")
        return Column(
            name=name,
            hover=name,
            marks=svg.group(
                *_bar("w", pair[0], [one[place][0] for one in choices], floor, kind, text),
                *_bar("a", pair[1], [one[place][1] for one in choices], ceiling, kind, text),
            ),
        )

    label = "Weight and activation bits of each layer; the table below holds the numbers."
    columns = [column(place, layer.name, layer.pinned_bits is not None) for place, layer in enumerate(layers)]
    return column_chart(label, columns, ceiling + BIT_PX * top_bits, axis=axis, behind=svg.group(*lines))


def pairs_of_all(placement: Placement, policy: Policy, pairs: Mapping[str, BitPair]) -> tuple[BitPair, ...]:
    """Pairs of all layers in the placement's order; those that ``pairs`` does not list are the policy's, or pinned."""
    return tuple(pairs.get(layer.name) or pair_of(placement, policy, layer.name) for layer in placement.layers)


def _bar(tensor: str, bits: int, choices: Sequence[int], base: float, kind: str, text: str) -> tuple[Markup, Markup]:
    """A bar and its number; the script knows them by ``data-base`` (where bars begin) and ``data-bits``."""
    height = BIT_PX * drawn_bits(bits)
    up = tensor == "w"
    more: dict[str, svg.Attribute] = {}
    if choices:
        follows = ",".join(str(drawn_bits(one)) for one in choices)
        kind, text = f"{kind} follows", f"{text} follows"
        more = {"data_base": base, "data_up": "1" if up else "0", "data_bits": follows}
    bar = svg.box(
        SIDE,
        base - height if up else base,
        1 - 2 * SIDE,
        height,
        f"bar-{tensor}{kind}",
        **more,
    )
    at = base - height + 11 if up else base + height - 3
    number = svg.tag(
        "text",
        width_name(bits),
        x="50%",
        y=at,
        class_=f"in-bar{text}",
        text_anchor="middle",
        **more,
        **({"data_said": ",".join(map(width_name, choices))} if choices else {}),
    )
    return bar, number
