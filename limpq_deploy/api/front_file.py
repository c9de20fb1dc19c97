"""A front drawn into a file, beside uniform policies and across another cost. No torch, but for previews."""

from pathlib import Path
from typing import Any

from limpq_deploy.api.question import Readable, question
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.timing.table import LatencyTable
from limpq_deploy.policy.front import Front, parse_range, uniform_points
from limpq_deploy.policy.front import sweep as front_of
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.policy.uniform_optima import joined, limits_of_uniform
from limpq_deploy.progress import progress
from limpq_deploy.report.across import across as across_of
from limpq_deploy.report.front_picture import write_front_picture


def axis_of(indicators: Readable, across: Any, times: Path | None, **same: Any) -> Any:
    """What the picture's axis counts; ``times``: a latency table. Raises SettingError where that cannot be counted."""
    table = None if times is None else load_record(LatencyTable, times)
    return across_of(across, question(indicators, same).read, table)


def draw_front(
    front: Front,
    path: Path,
    indicators: Readable,
    *,
    gbitops: str | None,
    axis: Any,
    gap: float = 0.0,
    solver: Any = None,
    preview: Path | None = None,
    trusted: bool = False,
    **same: Any,
) -> None:
    """Write the picture of a front by the file's ending, ``.svg`` or ``.png``, with the uniform policies and the best
    ones at their budgets; ``same``: as in `sweep`, whose front it is."""
    asked = question(indicators, same)
    budgets = asked.limits if asked.limited else ()
    settings: dict[str, Any] = {**asked.asked, "admit": asked.admit}
    uniform, shown = uniform_points(asked.carried, budgets=budgets, **settings), front
    if gbitops is not None and front.points:
        beside = limits_of_uniform(uniform, parse_range(gbitops))
        solve = PolicySearch(solver=solver or "auto", gap=gap)
        shown = joined(front, front_of(asked.carried, beside, budgets=budgets, solve=solve, **settings))
    if preview is not None:
        from limpq_deploy.pipeline.stages.previewer import open_previewer, uniform_previews, with_previews

        look = open_previewer(preview, asked.carried, trusted=trusted, interval=True)
        with progress("previews of the picture") as report:
            shown, uniform = with_previews(shown, look, report), uniform_previews(shown, uniform, look)
    write_front_picture(shown, path, uniform=uniform, x=axis)
