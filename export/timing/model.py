"""Latency as a sum: parts at their precisions, conversions between neighbours, and a rest; fitted to whole graphs.

    t(policy) = other + sum over parts of time[part, precision] + sum over edges of conversion[before, after, elements]

What the times of single nodes say is a first guess (`Guess`), with a doubt. Whole graphs that were timed correct it:
the figures are the least squares of both, each by its standard deviation, none below 0 (a ridge regression towards the
guess). So a figure that no graph tells apart keeps its guess, and every further graph makes the table truer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.table import Conversion, LatencyTable, Observation, PartTime, narrowest

Kind = Literal["integer"] | int
"""What conversions depend on: integers of any width, or floats by their bits."""

Key = tuple[object, ...]
"""A figure of the sum: ("part", layer, pair), ("fixed" or "element", kind before, kind after), or ("other",)."""

GUESS_DOUBT = 0.15
"""Relative standard deviation of a part's time as a profiler gives it."""

TABLE_DOUBT = 0.1
"""The same of a table that is corrected."""

GRAPH_DOUBT = 0.01
"""Relative standard deviation of a whole graph's p50."""

CONVERSION_GUESS: Mapping[str, tuple[float, float]] = {"fixed": (0.002, 0.02), "element": (0.5e-6, 2e-6)}
"""Guess and standard deviation: ms of a conversion, and ms of each of its elements (half a nanosecond: memory)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """What a model's sum is made of.

    ``searched``: layers whose pair a policy gives; ``pinned``: the others with the pair at which they run;
    ``measured``: pairs that are timed, of searched layers; ``edges``: (producer, consumer, elements).
    """

    searched: tuple[str, ...]
    pinned: Mapping[str, BitPair]
    measured: tuple[BitPair, ...]
    edges: tuple[tuple[str, str, int], ...]

    def runs_at(self, layer: str, policy: Mapping[str, BitPair]) -> BitPair:
        """The timed precision at which a layer runs. Raises KeyError where the policy does not name it, ValueError
        where its bits are wider than all that is timed."""
        if layer in self.pinned:
            return self.pinned[layer]
        found = narrowest(self.measured, policy[layer])
        if found is None:
            raise ValueError(
                f"layer {layer!r} has bits {policy[layer]}; the widest that is timed is {self.measured[-1]}"
            )
        return found

    def row(self, policy: Mapping[str, BitPair]) -> dict[Key, float]:
        """How often each figure stands in the sum of a policy."""
        row: dict[Key, float] = {("other",): 1.0}
        at = {layer: self.runs_at(layer, policy) for layer in (*self.searched, *self.pinned)}
        for layer, pair in at.items():
            row["part", layer, pair] = 1.0
        for producer, consumer, elements in self.edges:
            before, after = kind(at[producer]), kind(at[consumer])
            if before != after:
                for name, amount in (("fixed", 1.0), ("element", float(elements))):
                    row[name, before, after] = row.get((name, before, after), 0.0) + amount
        return row

    def figures(self) -> list[Key]:
        """All figures, in one order."""
        kinds = sorted({kind(pair) for pair in (*self.measured, *self.pinned.values())}, key=str)
        changes = [(one, other) for one in kinds for other in kinds if one != other]
        return [
            ("other",),
            *(("part", layer, pair) for layer in self.searched for pair in self.measured),
            *(("part", layer, pair) for layer, pair in self.pinned.items()),
            *((name, *change) for change in changes for name in ("fixed", "element")),
        ]


@dataclass(frozen=True, slots=True)
class Guess:
    """A figure in ms and its standard deviation."""

    ms: float
    doubt: float


def kind(pair: BitPair) -> Kind:
    """What a layer's neighbours see of its precision."""
    return "integer" if max(pair) <= 8 else max(pair)


def fit(
    guesses: Mapping[Key, Guess], rows: Sequence[Mapping[Key, float]], measured_ms: Sequence[float]
) -> dict[Key, float]:
    """Figures of least squares: (sum - measured) / (1 % of measured) over the graphs, (figure - guess) / doubt over the
    figures; those that would be negative are 0."""
    keys = list(guesses)
    doubt = np.array([guesses[key].doubt for key in keys])
    guess = np.array([guesses[key].ms for key in keys])
    times = np.asarray(measured_ms, np.float64)
    graphs = np.array([[row.get(key, 0.0) for key in keys] for row in rows]).reshape(len(rows), len(keys))
    weight = 1 / (GRAPH_DOUBT * np.maximum(times, 1e-9))
    free = np.ones(len(keys), bool)
    while True:
        # In units of each figure's doubt, so that the system is well scaled: x = guess + doubt * z.
        start = np.where(free, guess, 0.0)
        left = np.vstack([graphs * weight[:, None] * (doubt * free), np.eye(len(keys))])
        right = np.concatenate([(times - graphs @ start) * weight, np.zeros(len(keys))])
        solved = np.linalg.lstsq(left, right, rcond=None)[0]
        found = start + doubt * solved * free
        if (found >= 0).all():
            return dict(zip(keys, found.tolist(), strict=True))
        free &= found >= 0


def predict(figures: Mapping[Key, float], row: Mapping[Key, float]) -> float:
    """The sum in ms."""
    return sum(amount * figures[key] for key, amount in row.items())


def left_out(
    guesses: Mapping[Key, Guess], rows: Sequence[Mapping[Key, float]], measured_ms: Sequence[float], number: int
) -> float:
    """What a table without one graph predicts for that graph, in ms."""
    others = [index for index in range(len(rows)) if index != number]
    figures = fit(guesses, [rows[index] for index in others], [measured_ms[index] for index in others])
    return predict(figures, rows[number])


def to_table(
    skeleton: Skeleton,
    figures: Mapping[Key, float],
    observations: tuple[Observation, ...],
    base: LatencyTable,
) -> LatencyTable:
    """The figures as a table; all but times, conversions and observations as in ``base``, quartiles in proportion."""
    spread = {(time.layers, time.weight_bits, time.act_bits): time for time in base.times}

    def part(layer: str, pair: BitPair) -> PartTime:
        ms, old = figures["part", layer, pair], spread.get(((layer,), *pair))
        scale = ms / old.ms if old is not None and old.ms else 1.0
        return PartTime(
            layers=(layer,),
            weight_bits=pair[0],
            act_bits=pair[1],
            ms=ms,
            low_ms=None if old is None or old.low_ms is None else old.low_ms * scale,
            high_ms=None if old is None or old.high_ms is None else old.high_ms * scale,
        )

    pairs = tuple(dict.fromkeys((*skeleton.measured, *skeleton.pinned.values())))
    return replace(
        base,
        times=(
            *(part(layer, pair) for layer in skeleton.searched for pair in skeleton.measured),
            *(part(layer, pair) for layer, pair in skeleton.pinned.items()),
        ),
        other_ms=figures["other",],
        conversions=tuple(
            Conversion(
                before=before,
                after=after,
                ms=figures["fixed", kind(before), kind(after)],
                ns_per_element=1e6 * figures["element", kind(before), kind(after)],
            )
            for before in pairs
            for after in pairs
            if kind(before) != kind(after)
        ),
        observations=observations,
    )


def from_table(skeleton: Skeleton, table: LatencyTable) -> dict[Key, Guess]:
    """A table's figures as guesses for its correction. Raises KeyError where it lacks one."""
    parts = {(time.layers[0], (time.weight_bits, time.act_bits)): time.ms for time in table.times}
    changes = {(kind(one.before), kind(one.after)): one for one in table.conversions if one.producer is None}
    found: dict[Key, Guess] = {}
    for key in skeleton.figures():
        if key[0] == "part":
            ms = parts[key[1], key[2]]  # type: ignore[index]
            found[key] = Guess(ms, TABLE_DOUBT * ms + 1e-6)
        elif key == ("other",):
            found[key] = Guess(table.other_ms, TABLE_DOUBT * table.other_ms + 1e-6)
        else:
            one = changes.get((key[1], key[2]))  # type: ignore[arg-type]
            ms = 0.0 if one is None else (one.ms if key[0] == "fixed" else one.ns_per_element / 1e6)
            found[key] = Guess(ms, 0.5 * ms + 0.1 * CONVERSION_GUESS[str(key[0])][1])
    return found


def scaled(table: LatencyTable, factor: float) -> LatencyTable:
    """The table of a machine that takes ``factor`` times as long for everything."""

    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    return replace(
        table,
        times=tuple(
            replace(time, ms=time.ms * factor, low_ms=times(time.low_ms), high_ms=times(time.high_ms))
            for time in table.times
        ),
        other_ms=table.other_ms * factor,
        conversions=tuple(
            replace(one, ms=one.ms * factor, ns_per_element=one.ns_per_element * factor) for one in table.conversions
        ),
    )
