"""A moment at which a search stops, wherever it is, and says what it knows by then."""

import time
from dataclasses import dataclass
from math import inf


class OutOfTime(Exception):
    """The deadline has passed; whoever searches catches it and answers with what was found."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """``at``: seconds of `time.perf_counter`; none by default."""

    at: float = inf

    @classmethod
    def within(cls, seconds: float | None) -> "Deadline":
        """So many seconds from now; None: never."""
        return cls() if seconds is None else cls(time.perf_counter() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self.at - time.perf_counter())

    def share(self, part: float) -> "Deadline":
        """The deadline of a part of the time that is left."""
        return self if self.at == inf else Deadline(time.perf_counter() + part * self.left_s)

    def check(self) -> None:
        """Raises OutOfTime once the moment has passed."""
        if time.perf_counter() > self.at:
            raise OutOfTime


NEVER = Deadline()
