"""The command line: thin commands over the library. Nothing heavy is imported before a command needs it."""

import errno
import logging
import os
import sys
import traceback
from typing import Any

import click

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.files import NO_TEMPORARY_FOLDER
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.cli.commands.bench import bench
from limpq_deploy.cli.commands.build import add_build_commands
from limpq_deploy.cli.commands.checks import add_check_commands
from limpq_deploy.cli.commands.finish import add_finish_commands
from limpq_deploy.cli.commands.inspect import inspect
from limpq_deploy.cli.commands.policy import add_policy_commands
from limpq_deploy.cli.commands.profile import profile
from limpq_deploy.cli.commands.report import report
from limpq_deploy.cli.commands.search import preview, search
from limpq_deploy.cli.commands.ship import add_ship_commands
from limpq_deploy.cli.commands.storage import unpack
from limpq_deploy.cli.output import answers
from limpq_deploy.cli.output.answers import answer, aside
from limpq_deploy.cli.output.exit_codes import INTERRUPTED, TERMINATED
from limpq_deploy.cli.output.told import LONGEST_SENTENCE
from limpq_deploy.progress import speak
from limpq_deploy.termination import Terminated, listen

MACHINE_ERRORS = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE),
    )
)
"""What a disk or a system says no with. Any other OSError is a mistake of ours and keeps its traceback."""

DEBUG = "--debug"
ANYWHERE = (DEBUG, "-v", "--verbose", "-q", "--quiet")
"""Options of every command, wherever they stand in it."""


class _Group(click.Group):
    """Turns errors that a user can act on into one sentence and exit code 1; with ``--debug``, wherever that stands,
    their traceback comes before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = args[: args.index("--")] if "--" in args else args
        first = [word for word in options if word in ANYWHERE]
        return super().parse_args(
            ctx, [*first, *(word for word in options if word not in ANYWHERE), *args[len(options) :]]
        )

    def main(self, *arguments: Any, **settings: Any) -> Any:
        if settings.get("standalone_mode", True) and sys.stdout is sys.__stdout__:
            listen()
        try:
            return super().main(*arguments, **settings)
        finally:
            if settings.get("standalone_mode", True) and sys.stdout is sys.__stdout__:
                answers.leave()

    def make_context(self, info_name: Any, args: list[str], *arguments: Any, **settings: Any) -> click.Context:
        answers.expect(as_json="--json" in args)
        with answers.failures_told():
            return super().make_context(info_name, args, *arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        with answers.failures_told():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        logging.getLogger("limpq_deploy").addHandler(logging.NullHandler())  # commands print warnings themselves
        try:
            return super().invoke(ctx)
        except LimpqError as error:
            _show_traceback(ctx)
            raise click.ClickException(plain(" ".join(str(error).split()), LONGEST_SENTENCE)) from error
        except OSError as error:
            if error.errno not in MACHINE_ERRORS:
                if isinstance(error, FileNotFoundError) and "temporary directory" in str(error.strerror):  # of tempfile
                    _show_traceback(ctx)
                    raise click.ClickException(NO_TEMPORARY_FOLDER) from error
                raise
            _show_traceback(ctx)
            where = f" ({error.filename})" if error.filename else ""
            raise click.ClickException(
                f"the system refused: {error.strerror}{where}; files that were whole still are, make room or choose "
                "another folder, and give the same command again"
            ) from error
        except (RuntimeError, ImportError) as error:
            if os.strerror(errno.EMFILE) not in str(error):  # as libraries pass it on
                raise
            _show_traceback(ctx)
            raise click.ClickException(
                f"the system refused: {os.strerror(errno.EMFILE)}; raise the limit (ulimit -n), and give the same "
                "command again"
            ) from error
        except KeyboardInterrupt:
            aside("\nStopped.")
            ctx.exit(INTERRUPTED)
        except Terminated:
            aside("\nStopped by SIGTERM.")
            ctx.exit(TERMINATED)
        except SystemExit as end:
            if answers.given() or end.code in (INTERRUPTED, TERMINATED):
                raise
            raise click.ClickException(
                f"code that was called here ended the program with sys.exit({end.code!r}); expected it to return: take "
                "that out of your module"
            ) from end


def _show_traceback(ctx: click.Context) -> None:
    if ctx.params.get("debug"):
        aside(traceback.format_exc())


def _show_version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from limpq_deploy.cli.output.version import version_lines

        answer(version_lines())
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show it, with libraries.",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="Of any command: progress every 5 s, why stages run, what they cost."
)
@click.option("-q", "--quiet", is_flag=True, help="Of any command: nothing but the answer and errors.")
@click.option(DEBUG, is_flag=True, help="Of any command: show the traceback of an error.")
def main(verbose: bool, quiet: bool, debug: bool) -> None:
    """From a trained PyTorch CNN to a mixed-precision engine, checked integer by integer.

    \b
    Try it:          limpq-deploy build
    Look at yours:   limpq-deploy inspect package.module:factory --input-shape 3,224,224
    Your own model:  limpq-deploy build --model package.module:factory \\
                         --weights FILE.safetensors --data imagefolder:PATH
    What works here: limpq-deploy doctor
    """
    if verbose and quiet:
        raise click.UsageError("-v tells more and -q nothing; give one of them")
    speak("quiet" if quiet else "verbose" if verbose else "usual")


for add_commands in (
    *(add_build_commands, add_check_commands),
    *(add_policy_commands, add_finish_commands, add_ship_commands),
):
    add_commands(main)
for one in (inspect, search, preview, bench, profile, unpack, report):
    main.add_command(one)


def _guard(group: click.Group) -> None:
    """Keep standard output for the answer, in every command."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            _guard(command)
        elif command.callback is not None:
            command.callback = answers.guarded(command.callback)


_guard(main)  # the last line: all commands are there

if __name__ == "__main__":
    main()
