"""The files that a build could ship, with everything that is known of each, and how they compare in pairs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

CandidateName = Literal["mixed", "uniform", "int8", "fp8", "float"]

SIMPLEST: tuple[CandidateName, ...] = ("float", "int8", "fp8", "uniform", "mixed")
"""From the simplest kind of file on: nothing is quantized, one format everywhere (int8 runs on more devices than FP8),
one pair of bits, a pair a layer."""

SERIES: dict[str, CandidateName] = {
    "mixed": "mixed",
    "uniform": "uniform",
    "uniform8": "int8",
    "fp8": "fp8",
    "float": "float",
}
"""Candidates by what records of accuracy, latency and BitOps call them."""

SAME_SIZE = 0.01
"""Share of a size within which two are one."""

SIGNIFICANCE = 0.025
"""A candidate is worse where chance alone would make it look so with a smaller probability than this."""


BATCHES = (1, 8)
"""Batches whose answers are told apart where a build is for none of its own."""


def batch_key(batch: int) -> str:
    """``batch_8``, as records of engines have it."""
    return f"batch_{batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateParity:
    """The integer reference against the runtime on ``images`` images: ``mismatches`` of ``codes`` integers."""

    images: int
    codes: int
    mismatches: int
    logits_equal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A file that could be shipped. ``file`` relative to the build's folder; ``bits``: such as "w8a8"; ``how``: how it
    came to its scales.

    ``accuracy``: the task's figure with the ends of its 95 % interval. ``bytes`` on disk; BitOps of all layers, nominal
    and executed. ``latency_ms``: p50 at the smallest batch with default threads, None where none can be measured here;
    ``moved_bytes`` (without weights), ``weight_bytes``, ``kernels``: of a call of ``batch`` images, which the engine is
    for, from the compiler's record; ``moved_by_batch``: of others too, such as "batch_8".
    ``stored_file``, ``stored_bytes``: a twin with true low-bit weights, where there is one. ``parity``: None where it
    was not shown.
    """

    name: CandidateName
    file: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    bytes: int
    bitops_nominal: int
    bitops_realised: int
    latency_ms: float | None
    moved_bytes: int | None
    batch: int = 1
    moved_by_batch: dict[str, int | None] | None = None
    weight_bytes: int | None = None
    kernels: int | None = None
    stored_file: str | None = None
    stored_bytes: int | None = None
    bits: str = ""
    how: str = ""
    parity: CandidateParity | None = None

    @property
    def moved(self) -> int | None:
        """Bytes that kernels read and write for a call of ``batch``, weights too; None where no compiler says so."""
        return None if self.moved_bytes is None else self.moved_bytes + (self.weight_bytes or 0)

    def at(self, batch: int) -> "Candidate":
        """The same by what it moves for another batch."""
        return replace(self, batch=batch, moved_bytes=(self.moved_by_batch or {}).get(batch_key(batch)))

    @property
    def size(self) -> int:
        """Bytes that it competes with: stored ones where there is a file of those, and it is smaller."""
        return self.bytes if self.stored_bytes is None else min(self.bytes, self.stored_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyPair:
    """Two candidates on the same images. ``points``: how much better the first is, with the ends of its 95 % interval;
    ``p_first_worse``: probability that chance alone makes it look so much worse."""

    first: CandidateName
    second: CandidateName
    points: float
    low: float
    high: float
    p_first_worse: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPair:
    """``ratio``: how many times as fast the first is as the second, with the ends of its 95 % interval."""

    first: CandidateName
    second: CandidateName
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Candidates with their comparisons; both orders of every pair. ``own_compiler``: whether bytes moved are the word
    of the compiler that builds the target's engines, and not of a relative."""

    candidates: Sequence[Candidate]
    accuracies: Sequence[AccuracyPair]
    speeds: Sequence[SpeedPair] = ()
    points: str = "points"
    own_compiler: bool = False

    def at(self, batch: int) -> "Compared":
        """The same by what they move for another batch."""
        return replace(self, candidates=tuple(one.at(batch) for one in self.candidates))

    def named(self, name: str) -> Candidate:
        return next(one for one in self.candidates if one.name == name)

    def accuracy(self, first: Candidate, second: Candidate) -> AccuracyPair:
        for pair in self.accuracies:
            if (pair.first, pair.second) == (first.name, second.name):
                return pair
        return AccuracyPair(first=first.name, second=second.name, points=0, low=0, high=0, p_first_worse=1.0)

    def speed(self, first: Candidate, second: Candidate) -> SpeedPair | None:
        """Measured, or, where nothing can be, the ratio of the bytes that they move; None where neither is known."""
        for pair in self.speeds:
            if (pair.first, pair.second) == (first.name, second.name):
                return pair
        if first.file == second.file:
            return SpeedPair(first=first.name, second=second.name, ratio=1.0, low=1.0, high=1.0)
        if first.latency_ms is not None or not first.moved or not second.moved:
            return None
        ratio = second.moved / first.moved
        same = abs(ratio - 1) <= SAME_SIZE
        return SpeedPair(
            first=first.name,
            second=second.name,
            ratio=ratio,
            low=1.0 if same else ratio,
            high=1.0 if same else ratio,
        )

    def worse(self, first: Candidate, second: Candidate) -> bool:
        """Whether the first is less accurate beyond noise."""
        pair = self.accuracy(first, second)
        return pair.points < 0 and pair.p_first_worse < SIGNIFICANCE

    def plain_moving_less(self, one: Candidate) -> Candidate | None:
        """The float candidate, where nothing is timed and the target's own compiler has it move fewer bytes than this
        quantized one."""
        plain = next((other for other in self.candidates if other.name == "float"), None)
        if plain is None or plain is one or not self.own_compiler or one.latency_ms is not None:
            return None
        if plain.moved is None or one.moved is None:
            return None
        return plain if plain.moved < one.moved * (1 - SAME_SIZE) else None

    def larger(self, first: Candidate, second: Candidate) -> bool:
        return first.size > second.size * (1 + SAME_SIZE)

    def slower(self, first: Candidate, second: Candidate) -> bool:
        """Whether the first is slower beyond noise."""
        pair = self.speed(first, second)
        return pair is not None and pair.high < 1
