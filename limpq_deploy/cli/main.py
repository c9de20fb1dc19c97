"""The command line: thin commands over the library. Nothing heavy is imported before a command needs it."""

import errno
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

import limpq_deploy
from limpq_deploy.calibration.errors import LimpqError, SettingError
from limpq_deploy.calibration.files import NO_TEMPORARY_FOLDER
from limpq_deploy.calibration.plain_text import plain, plain_record
from limpq_deploy.callbacks import Callback
from limpq_deploy.cli.commands.bench import bench
from limpq_deploy.cli.commands.finish import add_finish_commands
from limpq_deploy.cli.commands.inspect import inspect
from limpq_deploy.cli.commands.policy import add_policy_commands
from limpq_deploy.cli.commands.profile import profile
from limpq_deploy.cli.commands.report import report
from limpq_deploy.cli.commands.search import preview, search
from limpq_deploy.cli.commands.ship import add_ship_commands, key_option
from limpq_deploy.cli.commands.storage import unpack
from limpq_deploy.cli.options.choice import OneOf
from limpq_deploy.cli.options.grouped_help import GroupedCommand
from limpq_deploy.cli.options.shared import (
    DATA_HELP,
    FILE,
    build_options,
    json_option,
    trust_option,
)
from limpq_deploy.cli.output import answers
from limpq_deploy.cli.output.answers import answer, aside
from limpq_deploy.export.records.targets import BUILDERS, EXPORTED, TENSORRT
from limpq_deploy.progress import speak
from limpq_deploy.tasks.names import DEFAULT_TASK
from limpq_deploy.tasks.names import FORMS as TASK_FORMS
from limpq_deploy.termination import Terminated, listen

VERDICT_FAILED = 3

LONGEST_ERROR = 4000
"""Characters of a sentence; what it cites of files is cut far shorter where it is made."""

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and after SIGTERM, which training answers at the end of a step."""

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
            raise click.ClickException(plain(" ".join(str(error).split()), LONGEST_ERROR)) from error
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


def _build(until: str | None, options: dict[str, Any]) -> None:
    """Run the stages up to one of them, print the outcome, and exit with 3 when the verdict failed."""
    file, fresh, as_json = options.pop("config"), options.pop("fresh"), options.pop("as_json")
    plan = options.pop("plan", False)
    try:
        if plan:
            _plan(file, fresh=fresh, as_json=as_json, **options)
            return
        outcome = limpq_deploy.build(config=file, until=until, fresh=fresh, progress=_Told(), **options).outcome
    except (KeyboardInterrupt, SystemExit, Terminated) as end:
        code = end.code if isinstance(end, SystemExit) else TERMINATED if isinstance(end, Terminated) else INTERRUPTED
        if code in (INTERRUPTED, TERMINATED):
            by = "" if code == INTERRUPTED else " by SIGTERM"
            aside(f"\nStopped{by}. Finished stages are kept; the same command goes on from there.")
        sys.exit(code)
    if outcome is None:  # a process beside the one that builds, which answers
        return
    from limpq_deploy.cli.output.summary import summary

    answer(json.dumps(outcome.to_json()) if as_json else summary(outcome))
    if outcome.failed:
        sys.exit(VERDICT_FAILED)


def _plan(config: Path | None, *, fresh: bool, as_json: bool, **options: Any) -> None:
    from limpq_deploy.api.builds import plan
    from limpq_deploy.cli.output.plan import plan_lines
    from limpq_deploy.pipeline.stages.plan import plan_to_json

    stages = plan(config=config, fresh=fresh, **options)
    answer(json.dumps(plan_to_json(stages)) if as_json else plan_lines(stages))


class _Told(Callback):
    """Stages and notes on stderr; steps are a bar of their own."""

    def on_note(self, sentence: str) -> None:
        aside(f"note: {plain(sentence, LONGEST_ERROR)}")

    def on_stage(self, stage: Any) -> None:
        from limpq_deploy.cli.output.tables import stage_line

        aside(stage_line(plain_record(stage, LONGEST_ERROR)))


@main.command(cls=GroupedCommand, short_help="All stages, from images to a measured bundle.")
@click.option("--plan", is_flag=True, help="Say which stages would run now, why, and for about how long; do nothing.")
@build_options
def build(**options: Any) -> None:
    """All stages: float model, indicators, policy, fine-tuning, export, engine, parity, accuracy, latency, verdict,
    report, bundle.

    Indicators say how much each layer loses at each bit-width; the policy gives every layer the bits of its weights and
    of its input that lose least within the budgets (--like, --max-..., --compression-ratio).

    With no option: scikit-learn's digits, a small ResNet, the BitOps of uniform 4 bits. A finished stage whose inputs
    are unchanged is not run again. Exit code 3: done, but a check of the verdict failed.

    \b
    limpq-deploy build
    limpq-deploy build --like w3a3 --compression-ratio 10
    limpq-deploy build --model resnet20 --weights FILE --data imagefolder:PATH
    """
    _build(None, options)


@main.command(cls=GroupedCommand, short_help="Stages up to the indicators.")
@build_options
def indicators(**options: Any) -> None:
    """Train the indicators (and the float model, without --weights) and stop: DIR/indicators.json."""
    _build("indicators", options)


@main.command(cls=GroupedCommand, short_help="Stages up to fine-tuning.")
@build_options
def finetune(**options: Any) -> None:
    """Stages up to fine-tuning, and stop: DIR/finetuned.safetensors and DIR/finetuned.json."""
    _build("finetune", options)


@main.command(cls=GroupedCommand, short_help="Stages up to the exported model.")
@build_options
def export(**options: Any) -> None:
    """Stages up to export, and stop: DIR/model.qdq.onnx. Needs no runtime."""
    _build("export", options)


@main.command(name="compile", cls=GroupedCommand, short_help="Stages up to the engine.")
@build_options
def compile_(**options: Any) -> None:
    """Stages up to the engine, and stop: DIR/engine.json, the precision in which each layer really runs."""
    if options["engine"] is False:
        raise SettingError("--no-engine leaves nothing to compile; leave it away, or run limpq-deploy export")
    _build("engine", options)


main.add_command(inspect)
main.add_command(search)
main.add_command(preview)
main.add_command(bench)
main.add_command(profile)
add_policy_commands(main)
add_finish_commands(main)
add_ship_commands(main)
main.add_command(unpack)
main.add_command(report)


@main.command(short_help="Accuracy of an exported model on a data set.")
@click.argument("model", metavar="MODEL.onnx", type=FILE)
@click.option("--data", required=True, metavar="SPEC", help=DATA_HELP)
@click.option("--split", type=OneOf(["train", "val", "test"]), default="test", show_default=True)
@click.option("--classes", type=FILE, metavar="FILE.json", help="Folder names in the model's class order.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=64, show_default=True, metavar="N", help="Images per call."
)
@click.option(
    "--task", metavar="NAME", default=DEFAULT_TASK, help=f"Whose figure: {TASK_FORMS}.  [default: {DEFAULT_TASK}]"
)
@click.option("--reference", type=FILE, metavar="FLOAT.onnx", help="With --task none: the float model's file.")
@json_option
def evaluate(
    model: Path,
    data: str,
    split: str,
    classes: Path | None,
    batch: int,
    task: str,
    reference: Path | None,
    as_json: bool,
) -> None:
    """Top-1 and top-5 of an exported model on a data set, or the figure of another task; needs no torch."""
    from limpq_deploy.calibration.records import to_dict
    from limpq_deploy.pipeline.inspect_model import evaluate_model
    from limpq_deploy.tasks.score import Score

    accuracy = evaluate_model(model, data, split=split, classes=classes, batch=batch, task=task, reference=reference)
    if as_json:
        answer(json.dumps({**to_dict(accuracy), "model": str(model), "runtime": "onnxruntime", "split": split}))
        return
    if isinstance(accuracy, Score):
        details = "".join(f", {name} {value:.4g}" for name, value in accuracy.details.items())
        said = accuracy.measure.said(accuracy.value)
        answer(f"{said} ({accuracy.images:,} images of {split}){details}; {model} on onnxruntime")
        return
    top5 = f", top-5 {accuracy.top5:.2f} %" if accuracy.top5 is not None else ""
    right = f"{accuracy.correct:,} of {accuracy.images:,} images of {split}"
    answer(f"top-1 {accuracy.top1:.2f} % ({right}){top5}; {model} on onnxruntime")


@main.command(short_help="Compare the integers of a build or an ONNX file with the runtime's.")
@click.argument("subject", metavar="DIR_or_FILE.onnx", type=FILE)
@click.option("--data", metavar="SPEC", help=f"Images for a file: {DATA_HELP}  [default: random images]")
@click.option("--images", type=click.IntRange(min=1), metavar="N", help="Number of images for a file.  [default: 32]")
@trust_option
@json_option
def parity(subject: Path, data: str | None, images: int | None, trusted: bool, as_json: bool) -> None:
    """Compare integers with those of ONNX Runtime's optimised graph, code by code.

    For a build directory, its parity stage is repeated: integer reference, runtime and trained model. An ONNX file may
    be quantized by any tool; the reference computes the integers that the file describes. Layers that run in float
    are executed by the runtime and compared separately.

    Exit code 3: the runtime's integers differ from the reference's.
    """
    from limpq_deploy.calibration.records import to_dict

    if not subject.is_file() and (data is not None or images is not None):
        raise click.UsageError("--data and --images are for a file; a build is compared on its own test images")
    found = limpq_deploy.parity(subject, data=data, images=images, trusted=trusted, progress=_Told())
    if as_json:
        answer(json.dumps(to_dict(found)))
    else:
        from limpq_deploy.cli.output.tables import file_parity_lines, parity_table

        answer(file_parity_lines(found) if subject.is_file() else parity_table(found))  # type: ignore[arg-type]
    if not found.exact:
        sys.exit(VERDICT_FAILED)


@main.command(short_help="Check an ONNX file against a target's rules.")
@click.argument("model", metavar="MODEL.onnx", type=FILE)
@click.option("--target", type=OneOf(EXPORTED), help="Whose rules to check.  [default: the target that the file names]")
@click.option(
    "--tensorrt",
    "version",
    type=OneOf(TENSORRT.versions),
    help="Check the rules of this version.  [default: that of the file, else the newest]",
)
@json_option
def lint(model: Path, target: str | None, version: str | None, as_json: bool) -> None:
    """Check an ONNX file against a target: what the target refuses, what it runs in float, where its results differ
    from the file's, and what is only slower. Exit code 3 when something is worse than slower.

    For ONNX Runtime, where it is installed, the file is really loaded and run; for TensorRT, NVIDIA's compiler
    TensorRT-RTX builds an engine of it where that is installed (extra rtx), without a GPU. A file that was exported
    here names its target; for others, and for float models, give --target.
    """
    from limpq_deploy.api.checks import NoTarget
    from limpq_deploy.calibration.records import to_dict

    try:
        report = limpq_deploy.lint(model, target, tensorrt=version)
    except NoTarget as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        answer(json.dumps(to_dict(report)))
    else:
        from limpq_deploy.cli.output.tables import lint_table

        answer(lint_table(report))
    if not report.passed:
        sys.exit(VERDICT_FAILED)


@main.command(short_help="Check a bundle's files and repeat its recorded answers.")
@click.argument("bundle", metavar="BUNDLE", type=FILE)
@click.option(
    "--replay/--no-replay", default=True, help="Run the canaries, or check the files only.  [default: replay]"
)
@key_option
@json_option
def verify(bundle: Path, replay: bool, key: Path | None, as_json: bool) -> None:
    """Check every file of a bundle, then run its canaries (recorded images) and compare the answers bit for bit.

    BUNDLE may also be a model's folder in a repository, REPOSITORY/NAME. Nothing is loaded before every hash (and with
    --key the signature) is right. Exit code 1: the bundle is refused; 3: an answer differs from the recorded one.
    """
    from limpq_deploy.calibration.records import to_dict

    report = limpq_deploy.verify(bundle, replay=replay, key=key)
    canaries = report.canaries
    if as_json:
        answer(json.dumps(to_dict(report)))
    else:
        from limpq_deploy.cli.output.tables import verify_lines

        answer(verify_lines(report))
    if canaries is not None and not canaries.bit_equal:
        sys.exit(VERDICT_FAILED)


@main.command(short_help="Which runtimes and extras are usable here, and why not.")
@click.option(
    "--self-test",
    type=OneOf(BUILDERS),
    help="Try a runtime (and its GPU) on a tiny model: engine, values, saturated grids, timing.",
)
@json_option
def doctor(self_test: str | None, as_json: bool) -> None:
    """Which runtimes, devices and extras are usable here, with a sentence for each that is not.

    Exit code 3: the runtime of --self-test does not compute what the file says.
    """
    from limpq_deploy.calibration.records import to_dict
    from limpq_deploy.doctor import examine

    if self_test is not None:
        from limpq_deploy.export.reference.self_test import self_test as try_out
        from limpq_deploy.latency.bench import available

        found = try_out(available(self_test))
        lines = (f"{'ok    ' if one.passed else 'FAILED'} {one.name}: {one.detail}" for one in found.tried)
        answer(json.dumps(to_dict(found)) if as_json else "\n".join(lines))
        if not found.passed:
            sys.exit(VERDICT_FAILED)
        return
    diagnosis = examine()
    if as_json:
        answer(json.dumps(to_dict(diagnosis)))
        return
    from limpq_deploy.cli.output.tables import doctor_table

    answer(doctor_table(diagnosis))


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
