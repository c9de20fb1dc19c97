"""Which of several previewed policies to take, as far as so many images can tell them apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from limpq_deploy.importance.preview import Preview
from limpq_deploy.policy.policy import Policy
from limpq_deploy.train.evaluate import Z95


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """How much larger a candidate's mean loss is than the least one, and the ends of its 95 % interval over images that
    might have been drawn instead: mean +- z sd / sqrt(n) of the differences, image by image."""

    loss: float
    low: float
    high: float

    @property
    def told_apart(self) -> bool:
        """Whether the images say that it is worse."""
        return self.low > 0


def behind(other: Preview, best: Preview) -> Behind:
    """Compare two previews on the same images; without losses of images the difference is taken as it is."""
    loss = other.loss - best.loss
    if len(best.losses) < 2 or len(best.losses) != len(other.losses):
        return Behind(loss=loss, low=loss, high=loss)
    differences = np.subtract(other.losses, best.losses)
    half = Z95 * float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return Behind(loss=loss, low=loss - half, high=loss + half)


def simplicity(policy: Policy) -> int:
    """Different pairs of bits in a policy; fewer are simpler."""
    return len(set(policy.pairs().values()))


def chosen(
    previews: Sequence[Preview], policies: Sequence[Policy], *, usual: int | None = None, uniform: int | None = None
) -> int:
    """Place of the one to take. Those that the images do not tell from the best tie: of these the ``usual`` one (its
    place), else the ``uniform`` one, else the simplest, else that with the least loss."""
    best = min(range(len(previews)), key=lambda place: previews[place].loss)
    ties = [place for place, one in enumerate(previews) if not behind(one, previews[best]).told_apart]
    for place in (usual, uniform):
        if place is not None and place in ties:
            return place
    return min(ties, key=lambda place: (simplicity(policies[place]), previews[place].loss))
