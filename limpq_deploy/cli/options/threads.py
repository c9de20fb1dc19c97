"""``--threads``: one number for every library in the process."""

import os
from collections.abc import Callable

import click

from limpq_deploy.calibration.threads import holding_threads
from limpq_deploy.cli.options.builder import Command

COMPUTE = "Threads of every library that computes, the runtime's among them.  [default: each one's own choice]"


def threads_option(default: str | None = None) -> Callable[[Command], Command]:
    """``--threads`` of a command that computes. ``default``: what is taken without it by a command that times models,
    which is given the number too."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        is_eager=True,
        expose_value=default is not None,
        callback=_held,
        help=COMPUTE if default is None else f"[default: {default}]",
    )


def _held(ctx: click.Context, param: click.Parameter, count: int | None) -> int | None:
    """Held until the command ends. Eager, so that no other option has loaded a library by then. More than the machine
    has are refused: a runtime would spend hours on switching between them."""
    cores = os.cpu_count() or 1
    if count is not None and count > cores:
        raise click.BadParameter(
            f"{count} is more than the {cores} CPUs of this machine; give {cores} or fewer", ctx, param
        )
    if count is not None and not ctx.resilient_parsing:
        ctx.with_resource(holding_threads(count))
    return count
