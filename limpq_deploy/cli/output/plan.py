"""How a build's plan is printed for people."""

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from limpq_deploy.cli.output.tables import width
from limpq_deploy.progress import lasting

if TYPE_CHECKING:
    from limpq_deploy.pipeline.stages.plan import Planned


def plan_lines(stages: "Iterable[Planned]") -> str:
    """Every stage with what it depends on; first how many run."""
    stages = tuple(stages)
    running = sum(stage.runs for stage in stages)
    known = [stage.seconds for stage in stages if stage.runs and stage.seconds is not None]
    total = f", in about {lasting(sum(known))} (by a short trial of the network here)" if known else ""
    lines = [f"{running} of {len(stages)} stages would run{total}"]
    for stage in stages:
        mark = click.style("+" if stage.runs else "=", fg="green" if stage.runs else "cyan", bold=True)
        took = f" [about {lasting(stage.seconds)}]" if stage.runs and stage.seconds is not None else ""
        lines.append(f"{mark} {click.style(stage.title, bold=True)}: {stage.why}{took}")
        every = ("every setting",) if "command" in stage.facts else stage.settings
        parts = {"settings": every, "facts": stage.facts, "reads": stage.reads, "writes": stage.writes}
        for name, named in parts.items():
            text = f"{name}: {', '.join(named)}"
            lines += textwrap.wrap(text, width(), initial_indent="    ", subsequent_indent="      ") if named else []
    return "\n".join(lines)
