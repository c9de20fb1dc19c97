"""What a picture of a front has across and upwards, and where policies stand in it."""

from dataclasses import dataclass

from limpq_deploy.policy.front import Front, FrontPoint, PointPreview, UniformPoint
from limpq_deploy.report.across import BITOPS, Across

GIGA = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A policy in the picture; ``low`` and ``high``: ends of its interval."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What stands across and upwards."""

    front: Front
    x: Across | None

    @property
    def previewed(self) -> bool:
        return all(point.preview is not None for point in self.front.points)

    @property
    def by_bitops(self) -> bool:
        return self.x is None or self.x.name == BITOPS

    @property
    def proves(self) -> bool:
        """Whether proven bounds can be drawn: they are of objectives within BitOps."""
        return self.by_bitops and not self.previewed

    @property
    def y_name(self) -> str:
        if self.previewed:
            unit = f", {self.front.unit}" if self.front.unit else ""
            return f"{self.front.figure} by preview{unit}"
        return f"importance by {self.front.importance or 'scale'}"

    @property
    def x_title(self) -> str:
        return self.x.title if self.x is not None else "G BitOps, pinned layers included"

    @property
    def x_unit(self) -> str:
        return self.x.unit if self.x is not None else "G BitOps"

    def of_point(self, point: FrontPoint) -> Place:
        across = point.bitops / GIGA if self.x is None else self.x.of(point.policy.pairs())
        return self._place(across, point.policy.objective, point.preview)

    def of_uniform(self, one: UniformPoint) -> Place | None:
        """None where it has no preview and the points have."""
        if self.previewed and one.preview is None:
            return None
        across = one.bitops / GIGA
        if self.x is not None:
            across = self.x.of(dict.fromkeys(self.front.points[0].policy.bits, (one.weight_bits, one.act_bits)))
        return self._place(across, one.objective, one.preview)

    def _place(self, across: float, objective: float, preview: PointPreview | None) -> Place:
        if not self.previewed or preview is None:
            return Place(x=across, y=objective, low=objective, high=objective)
        low, high = (preview.top1 if end is None else end for end in (preview.low, preview.high))
        return Place(x=across, y=preview.top1, low=low, high=high)
