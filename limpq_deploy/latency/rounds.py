"""A latency limit met by measuring: solve, time the policy's graph, correct the table, solve again.

No torch here: how a policy is found and how its graph is timed are handed in. The table's figures stay those of the
moment when it was profiled; graphs that were timed then and now show a machine that
has become slower or faster since (`Timed.speed`), so that this is not taken for an error of the table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from limpq_deploy.calibration.errors import InfeasiblePolicy
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.model import Skeleton, fit, from_table, predict, scaled, to_table
from limpq_deploy.export.timing.table import LatencyTable, Observation
from limpq_deploy.policy.policy import Policy

TOLERANCE = 0.05
"""How far the predicted time may be from the measured one."""

SLOWER = 1.05
"""From here on a slower machine is given as a reason."""

ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A policy's graph, timed: p50 of a call in ms with its interval, and how many times as long the machine takes for
    what it took 1 for when the table was profiled."""

    measured_ms: float
    low_ms: float
    high_ms: float
    speed: float = 1.0
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One time round. ``aim_ms``: the limit that was searched with. ``predicted_ms``: by the table before this round,
    at the machine's speed now. ``agrees``: within the tolerance of ``measured_ms``; ``holds``: that is within the
    limit."""

    number: int
    pairs: dict[str, BitPair]
    objective: float
    aim_ms: float
    predicted_ms: float
    measured_ms: float
    low_ms: float
    high_ms: float
    speed: float
    agrees: bool
    holds: bool
    doubts: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """``predicted_ms / measured_ms - 1``."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """All rounds. ``chosen``: number of the one whose policy was taken. ``why``: a sentence on how it ended. ``table``:
    as corrected by all graphs, at the machine's speed in the last round."""

    limit_ms: float
    tolerance: float
    converged: bool
    chosen: int
    why: str
    rounds: tuple[Round, ...]
    table: LatencyTable
    format: Literal["limpq.latency-rounds/1"] = field(default="limpq.latency-rounds/1")

    @property
    def last(self) -> Round:
        """The round whose policy was taken."""
        return self.rounds[self.chosen - 1]


def go_round(
    table: LatencyTable,
    skeleton: Skeleton,
    *,
    limit_ms: float,
    solve: Callable[[LatencyTable, float], Policy],
    time: Callable[[Mapping[str, BitPair]], Timed],
    most: int = ROUNDS,
    tolerance: float = TOLERANCE,
) -> tuple[Policy, Rounds]:
    """Search, time and correct until predicted and measured time agree and the limit holds, at most ``most`` times.

    ``solve``: the policy within a latency by a table. Where a graph is slower than its table said, the next search aims
    as much lower. The policy taken is the last one, or, where the rounds did not converge, the best of those that held
    the limit, else the fastest. Raises InfeasiblePolicy where the first table knows no policy within the limit.
    """
    if most < 1:
        raise ValueError(f"the number of rounds must be at least 1, not {most}")
    found: list[tuple[Round, Policy]] = []
    speed, aim, stopped = 1.0, limit_ms, ""
    while len(found) < most:
        try:
            policy = solve(scaled(table, speed), aim)
        except InfeasiblePolicy:
            if not found:
                raise
            stopped = f"the corrected table knows no policy within {aim:.4g} ms"
            if speed > SLOWER:
                stopped += f", now that the machine takes {speed:.2f} times as long as at its profile"
            break
        pairs = policy.pairs()
        row = skeleton.row(pairs)
        expected = predict({key: guess.ms for key, guess in from_table(skeleton, table).items()}, row)
        timed = time(pairs)
        speed = timed.speed
        predicted = expected * speed
        one = Round(
            number=len(found) + 1,
            pairs=pairs,
            objective=policy.objective,
            aim_ms=aim,
            predicted_ms=predicted,
            measured_ms=timed.measured_ms,
            low_ms=timed.low_ms,
            high_ms=timed.high_ms,
            speed=speed,
            agrees=abs(predicted / timed.measured_ms - 1) <= tolerance,
            holds=timed.measured_ms <= limit_ms,
            doubts=timed.doubts,
        )
        found.append((one, policy))
        table = corrected(table, skeleton, one, expected)
        if one.agrees and one.holds:
            break
        aim = limit_ms if one.holds else limit_ms * min(1.0, predicted / timed.measured_ms)
    rounds = tuple(one for one, _ in found)
    converged = rounds[-1].agrees and rounds[-1].holds
    chosen = rounds[-1] if converged else _best(rounds)
    return found[chosen.number - 1][1], Rounds(
        limit_ms=limit_ms,
        tolerance=tolerance,
        converged=converged,
        chosen=chosen.number,
        why=_why(rounds, chosen, converged, limit_ms, tolerance, stopped),
        rounds=rounds,
        table=scaled(table, speed),
    )


def corrected(table: LatencyTable, skeleton: Skeleton, one: Round, expected_ms: float) -> LatencyTable:
    """The table fitted once more to all graphs that were timed, this round's among them."""
    observation = Observation(
        name=f"round {one.number}",
        pairs=one.pairs,
        measured_ms=one.measured_ms,
        low_ms=one.low_ms,
        high_ms=one.high_ms,
        predicted_ms=expected_ms,
        speed=one.speed,
        doubts=one.doubts,
    )
    observations = (*table.observations, observation)
    figures = fit(
        from_table(skeleton, table),
        [skeleton.row(graph.pairs) for graph in observations],
        [graph.measured_ms / graph.speed for graph in observations],
    )
    return replace(to_table(skeleton, figures, observations, table), observations=observations)


def _best(rounds: tuple[Round, ...]) -> Round:
    held = [one for one in rounds if one.holds]
    if held:
        return min(held, key=lambda one: one.objective)
    return min(rounds, key=lambda one: one.measured_ms)


def _why(
    rounds: tuple[Round, ...], chosen: Round, converged: bool, limit_ms: float, tolerance: float, stopped: str
) -> str:
    error = f"{100 * chosen.error:+.1f} %"
    figures = f"predicted {chosen.predicted_ms:.3f} ms, measured {chosen.measured_ms:.3f} ms ({error})"
    times = "1 round" if len(rounds) == 1 else f"{len(rounds)} rounds"
    if converged:
        return f"{figures}, within {limit_ms:g} ms after {times}"
    reasons = []
    if not chosen.holds:
        reasons.append(f"no policy that was timed keeps {limit_ms:g} ms")
    if not chosen.agrees:
        reasons.append(f"prediction and measurement differ by more than {100 * tolerance:g} %")
    if stopped:
        reasons.append(stopped)
    if not reasons:
        reasons.append("later rounds were no better")
    doubts = f"; doubtful: {'; '.join(chosen.doubts)}" if chosen.doubts else ""
    return f"not settled after {times}: {', and '.join(reasons)}; taken is round {chosen.number}, {figures}{doubts}"
