"""The best policies beside uniform ones: at the BitOps that each of them takes, so that a picture compares like with
like."""

from collections.abc import Sequence
from dataclasses import replace

from limpq_deploy.policy.costs import G
from limpq_deploy.policy.front import Front, UniformPoint, drop_dominated


def limits_of_uniform(uniform: Sequence[UniformPoint], limits: Sequence[float]) -> tuple[float, ...]:
    """Limits in G BitOps that set each uniform policy between the first and the last of ``limits`` beside the best one
    within its own BitOps; one BitOp more than it takes: at exactly these a build's own uniform bits would stand."""
    within = {round((one.bitops + 1) / G, 9) for one in uniform}
    return tuple(sorted(limit for limit in within if min(limits) <= limit <= max(limits) and limit not in limits))


def joined(front: Front, other: Front) -> Front:
    """The points of two fronts of one measure, those left away that another dominates."""
    return replace(front, points=drop_dominated((*front.points, *other.points))[0])
