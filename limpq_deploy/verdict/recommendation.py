"""Which of a build's files to ship, and why. Pure; the rules stand in docs/recommendation.md."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from limpq_deploy.verdict.candidates import BATCHES, SAME_SIZE, SIMPLEST, Candidate, CandidateName, Compared

Objective = Literal["accuracy", "size", "latency", "balanced"]

POINT = 1.0
"""Points of accuracy that weigh as much as half the time of a call, where no drop is allowed that could say so."""

SIZE_WEIGHT = 0.5
"""Weight of a halving of bytes beside that of a halving of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dominated:
    """A candidate that another one is at least as good as in everything, and better in something, or simpler."""

    candidate: CandidateName
    by: CandidateName
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The file to ship. ``why``: a sentence; ``own``: the candidate whose file is the policy's own; ``own_on_front``:
    whether nothing dominates it; ``objective``: what was weighed; ``note``: what else to know, empty for nothing."""

    candidate: CandidateName
    file: str
    why: str
    dominated: tuple[Dominated, ...]
    objective: Objective
    own: CandidateName
    own_on_front: bool
    note: str = ""

    @property
    def ships_own(self) -> bool:
        return self.candidate == self.own


def recommend(
    compared: Compared,
    *,
    own_file: str,
    objective: Objective = "balanced",
    max_drop: float = POINT,
) -> Recommendation:
    """The best candidate that nothing dominates. ``own_file``: the policy's; ``max_drop``: points that may be lost
    against float, beyond which no candidate is taken."""
    dominated = _dominated(compared)
    names = {one.candidate for one in dominated}
    front = [one for one in compared.candidates if one.name not in names] or list(compared.candidates)
    kept = [one for one in front if not _loses_more(compared, one, max_drop)] or front
    if objective != "size":
        kept = [one for one in kept if compared.plain_moving_less(one) is None] or kept
    best = _best(compared, kept, objective, max_drop)
    own = min(
        (one for one in compared.candidates if one.file == own_file),
        key=lambda one: (one.name in names, SIMPLEST.index(one.name)),
    )
    return Recommendation(
        candidate=best.name,
        file=best.file,
        why=_why(compared, best, own),
        dominated=dominated,
        objective=objective,
        own=own.name,
        own_on_front=own.name not in names,
        note=_note(compared, best, own),
    )


def recommend_by_batch(
    compared: Compared,
    *,
    own_file: str,
    objective: Objective = "balanced",
    max_drop: float = POINT,
    asked: bool = False,
) -> Recommendation:
    """As `recommend`, for the batch that the candidates' bytes are of. Where none was ``asked`` for, the note says what
    the answer would be at the other one of `BATCHES`, if that is another."""
    found = recommend(compared, own_file=own_file, objective=objective, max_drop=max_drop)
    if asked or any(one.latency_ms is not None or one.moved is None for one in compared.candidates):
        return found
    own = compared.candidates[0].batch
    for batch in (one for one in BATCHES if one != own):
        there = compared.at(batch)
        if any(one.moved is None for one in there.candidates):
            continue
        other = recommend(there, own_file=own_file, objective=objective, max_drop=max_drop)
        if other.candidate != found.candidate:
            note = (
                f"that is for batch {own}; at batch {batch} it would be {other.candidate} (bytes moved at {own} and "
                f"{batch}: {_bytes_at(compared, there, other)}, {_bytes_at(compared, there, found)}): give --batch"
            )
            return replace(found, note="; ".join(filter(None, (found.note, note))))
    return found


def _bytes_at(compared: Compared, there: Compared, of: Recommendation) -> str:
    here, other = compared.named(of.candidate).moved, there.named(of.candidate).moved
    return f"{of.candidate} {here:,} and {other:,}"


def _dominated(compared: Compared) -> tuple[Dominated, ...]:
    found = []
    for one in compared.candidates:
        rivals = [other for other in compared.candidates if other is not one and _dominates(compared, other, one)]
        undominated = [
            other for other in rivals if not any(_dominates(compared, third, other) for third in compared.candidates)
        ]
        if rivals:
            by = min(undominated or rivals, key=lambda other: (-other.accuracy, other.size))
            found.append(Dominated(candidate=one.name, by=by.name, reason=against(compared, by, one)))
    return tuple(found)


def _dominates(compared: Compared, first: Candidate, second: Candidate) -> bool:
    """At least as good in everything as far as the figures tell, and better in something, or else simpler."""
    if first is second:
        return False
    tests: Sequence[Callable[[Candidate, Candidate], bool]] = (compared.worse, compared.larger, compared.slower)
    if any(loses(first, second) for loses in tests):
        return False
    wins = any(loses(second, first) for loses in tests)
    return wins or SIMPLEST.index(first.name) < SIMPLEST.index(second.name)


def _loses_more(compared: Compared, one: Candidate, most: float) -> bool:
    """Whether a candidate certainly loses more points against float than are allowed."""
    plain = next((other for other in compared.candidates if other.name == "float"), None)
    return plain is not None and compared.accuracy(one, plain).high < -most


def _best(compared: Compared, kept: Sequence[Candidate], objective: Objective, max_drop: float) -> Candidate:
    def score(one: Candidate) -> float:
        return balanced(compared, one, max_drop)

    if objective == "accuracy":
        top = max(kept, key=lambda one: one.accuracy)
        return min((one for one in kept if not compared.worse(one, top)), key=score)
    if objective == "size":
        least = min(kept, key=lambda one: one.size)
        return min((one for one in kept if not compared.larger(one, least)), key=score)
    if objective == "latency":
        fastest = [one for one in kept if not any(compared.slower(one, other) for other in kept)]
        return min(fastest or kept, key=score)
    return min(kept, key=score)


def balanced(compared: Compared, one: Candidate, max_drop: float) -> float:
    """Points behind the most accurate candidate (0 inside noise) per allowed drop, log2 of the time over the least, and
    half of log2 of the bytes over the least: all lower is better, and one allowed drop is worth half the time."""
    others = compared.candidates
    top = max(others, key=lambda other: other.accuracy)
    behind = -compared.accuracy(one, top).points if compared.worse(one, top) else 0.0
    times = [_time(other) for other in others]
    known = [time for time in times if time is not None]
    own = _time(one)
    time = math.log2(own / min(known)) if own is not None and len(known) == len(times) else 0.0
    size = math.log2(one.size / min(other.size for other in others))
    return behind / (max_drop if max_drop > 0 else POINT) + time + SIZE_WEIGHT * size


def _time(one: Candidate) -> float | None:
    return one.latency_ms if one.latency_ms is not None else one.moved


def against(compared: Compared, first: Candidate, second: Candidate) -> str:
    """How the first compares with the second: ``1.60 points better, 2 % smaller, 1.24 times as fast``."""
    if first.file == second.file:
        return f"the same file: {'the policy is' if 'mixed' in (first.name, second.name) else 'of'} these uniform bits"
    pair, parts = compared.accuracy(first, second), []
    if compared.worse(second, first) or compared.worse(first, second):
        word = "better" if pair.points > 0 else "worse"
        parts.append(f"{abs(pair.points):.2f} {compared.points} {word} (95 % {pair.low:+.2f} to {pair.high:+.2f})")
    else:
        parts.append(
            f"as accurate within noise ({pair.points:+.2f} {compared.points}, 95 % {pair.low:+.2f} to {pair.high:+.2f})"
        )
    parts.append(_size_words(first.size, second.size))
    speed = compared.speed(first, second)
    if speed is not None and first.latency_ms is None:
        parts.append(f"moves {first.moved:,} bytes against {second.moved:,} at batch {first.batch}")
    elif speed is not None:
        noise = "" if speed.low > 1 or speed.high < 1 else " (within noise)"
        parts.append(f"{speed.ratio:.2f} times as fast here{noise}")
    return ", ".join(parts)


def _size_words(first: int, second: int) -> str:
    if abs(first - second) <= SAME_BYTES * second:
        return "as large"
    smaller, larger = min(first, second), max(first, second)
    word = "smaller" if first < second else "larger"
    if larger >= 2 * smaller:
        return f"{larger / smaller:.1f} times {word}"
    return f"{100 * abs(first - second) / second:.0f} % {word}"


SAME_BYTES = 0.005
"""Share of a size that is not worth a word."""


def _why(compared: Compared, best: Candidate, own: Candidate) -> str:
    if best.name != own.name:
        return f"beside the policy's own file ({own.name}, {own.bits}) {against(compared, best, own)}"
    plain = next((one for one in compared.candidates if one.name == "float" and one is not best), None)
    if plain is None:
        return "nothing else that was built is better in anything that counts"
    return f"beside float {against(compared, best, plain)}"


def _note(compared: Compared, best: Candidate, own: Candidate) -> str:
    """That floats move less than integers, where they do; what bits below 8 are good for, and what unpacks a stored
    file."""
    return "; ".join(filter(None, (_moved_note(compared, own), _narrow_note(compared, best, own))))


def _moved_note(compared: Compared, own: Candidate) -> str:
    plain = compared.plain_moving_less(own)
    if plain is None:
        return ""
    images = "one image" if own.batch == 1 else f"a batch of {own.batch}"
    return (
        f"nothing was timed, and by the compiler's record float ({plain.bits}) moves fewer bytes for {images} than "
        f"the policy's own file ({plain.moved:,} against {own.moved:,}), of which no gain in time is "
        "expected"
    )


def _narrow_note(compared: Compared, best: Candidate, own: Candidate) -> str:
    eight = next((one for one in compared.candidates if one.name == "int8"), None)
    packed = best if best.stored_file is not None else own
    stored = (
        f"{packed.stored_file} has {packed.stored_bytes:,} bytes, and `limpq-deploy unpack` makes {packed.file} of it"
        if packed.stored_file is not None
        else "this build stores none: --storage int4 packs them"
    )
    narrow = eight is not None and own.bitops_nominal < eight.bitops_nominal
    if eight is None or not narrow or own.bitops_realised != eight.bitops_realised:
        return stored if best.stored_file is not None else ""
    if best is own and best.stored_file is None:
        return ""
    return f"bits below 8 win {_wins(compared, own, eight)}; {stored}"


def _wins(compared: Compared, own: Candidate, eight: Candidate) -> str:
    """What a policy of narrow layers is better in than int8, where both execute the same BitOps: stored bytes, and
    bytes moved where the compiler's record shows fewer, as where weights are loaded packed."""
    floats = any(one.name == "float" and one.bitops_realised == eight.bitops_realised for one in compared.candidates)
    how = "which computes in floats" if floats else "which executes them as 8-bit integers"
    if own.moved is not None and eight.moved is not None and own.moved < eight.moved * (1 - SAME_SIZE):
        return f"stored bytes and bytes moved ({own.moved:,} against {eight.moved:,}) on this target, {how}"
    return f"stored bytes alone on this target, {how}"


def sentence(found: Recommendation, outcome: str) -> str:
    """In one line: which file, and why."""
    kept = "kept its promises, but ship" if outcome == "passed" and not found.ships_own else "ship"
    note = f"; {found.note}" if found.note else ""
    return f"{kept} {found.candidate} ({found.file}): {found.why}{note}"
