"""The commands that check: evaluate, parity, lint, verify, doctor. Thin; heavy imports inside."""

import json
import sys
from pathlib import Path

import click

import limpq_deploy
from limpq_deploy.cli.commands.ship import key_option
from limpq_deploy.cli.options.choice import OneOf
from limpq_deploy.cli.options.shared import DATA_HELP, FILE, json_option, trust_option
from limpq_deploy.cli.options.threads import threads_option
from limpq_deploy.cli.output.answers import answer
from limpq_deploy.cli.output.exit_codes import FAILED
from limpq_deploy.cli.output.told import Told
from limpq_deploy.export.records.targets import BUILDERS, EXPORTED, TENSORRT
from limpq_deploy.tasks.names import DEFAULT_TASK
from limpq_deploy.tasks.names import FORMS as TASK_FORMS


@click.command(short_help="Accuracy of an exported model on a data set.")
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
@threads_option()
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


@click.command(short_help="Compare the integers of a build or an ONNX file with the runtime's.")
@click.argument("subject", metavar="DIR_or_FILE.onnx", type=FILE)
@click.option("--data", metavar="SPEC", help=f"Images for a file: {DATA_HELP}  [default: random images]")
@click.option("--images", type=click.IntRange(min=1), metavar="N", help="Number of images for a file.  [default: 32]")
@threads_option()
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
    found = limpq_deploy.parity(subject, data=data, images=images, trusted=trusted, progress=Told())
    if as_json:
        answer(json.dumps(to_dict(found)))
    else:
        from limpq_deploy.cli.output.tables import file_parity_lines, parity_table

        answer(file_parity_lines(found) if subject.is_file() else parity_table(found))  # type: ignore[arg-type]
    if not found.exact:
        sys.exit(FAILED)


@click.command(short_help="Check an ONNX file against a target's rules.")
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
        sys.exit(FAILED)


@click.command(short_help="Check a bundle's files and repeat its recorded answers.")
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
        sys.exit(FAILED)


@click.command(short_help="Which runtimes and extras are usable here, and why not.")
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
            sys.exit(FAILED)
        return
    diagnosis = examine()
    if as_json:
        answer(json.dumps(to_dict(diagnosis)))
        return
    from limpq_deploy.cli.output.tables import doctor_table

    answer(doctor_table(diagnosis))


def add_check_commands(group: click.Group) -> None:
    """Add the commands of this file to a group."""
    for command in (evaluate, parity, lint, verify, doctor):
        group.add_command(command)
