"""The command line: thin commands over the library. Nothing heavy is imported before a command needs it."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from limpq_deploy import __version__
from limpq_deploy.calibration.errors import LimpqError

VERDICT_FAILED = 3

Command = Callable[..., Any]


class _Group(click.Group):
    """Turns errors that a user can act on into one sentence and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LimpqError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except KeyboardInterrupt as stop:
            click.echo("\nStopped. Finished stages are kept; the same command goes on from there.", err=True)
            raise click.exceptions.Exit(130) from stop


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="limpq-deploy")
def main() -> None:
    """From a trained PyTorch CNN to a mixed-precision engine, proved in integers.

    \b
    Try it:          limpq-deploy build
    Your own model:  limpq-deploy build --model package.module:factory --weights w.safetensors \\
                         --data imagefolder:PATH --like w4a4 --out my-build
    What works here: limpq-deploy doctor
    """


def _json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, all else on stderr.")(
        command
    )


def _budget_options(command: Command) -> Command:
    options = (
        click.option("--like", metavar="wNaM", help="BitOps of a uniform policy over the searched layers, e.g. w4a4."),
        click.option("--max-gbitops", type=float, metavar="G", help="BitOps of all layers; 1 G = 1e9."),
        click.option(
            "--compression-ratio", type=float, metavar="R", help="32-bit size of all weights / quantized size."
        ),
        click.option("--max-mib", type=float, metavar="M", help="Size of all weights in MiB (2^20 bytes)."),
        click.option("--alpha", type=float, metavar="A", help="Weight of weight indicators.  [default: 2.0]"),
        click.option(
            "--outliers",
            type=click.Choice(["forbid", "repair", "keep"]),
            help="Indicators that grow with the bits: forbid the entry, smooth it, or keep it.  [default: forbid]",
        ),
    )
    return _with(options, command)


def _build_options(command: Command) -> Command:
    options = (
        click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Settings; options win."),
        click.option(
            "--model", metavar="NAME", help="resnet8, resnet20/32/44/56, or module:factory.  [default: resnet8]"
        ),
        click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Float weights, safetensors."),
        click.option(
            "--data",
            metavar="SPEC",
            help="digits, imagefolder:PATH, cifar10:PATH or module:factory.  [default: digits]",
        ),
        click.option("--classes", type=click.Path(path_type=Path), metavar="FILE", help="Folder names in class order."),
        click.option(
            "--target",
            type=click.Choice(["onnxruntime", "tensorrt", "reference"]),
            help="What executes the model.  [default: what this machine can run]",
        ),
        click.option("--bits", type=_Bits(), metavar="2,3,..", help="Candidate bit-widths.  [default: 2,3,4,5,6]"),
        _budget_options,
        click.option("--max-latency-ms", type=float, metavar="T", help="Check: p50 of one image, default threads."),
        click.option("--min-speedup", type=float, metavar="X", help="Check: times as fast as the float model."),
        click.option(
            "--max-accuracy-drop", type=float, metavar="P", help="Check: points of top-1 below float.  [default: 1.0]"
        ),
        click.option("--pinned-bits", type=int, metavar="B", help="Bits of the first and last layer.  [default: 8]"),
        click.option("--no-engine", "engine", flag_value=False, default=None, help="Stop after export."),
        click.option("--seed", type=int, metavar="N", help="Of training and of data order.  [default: 0]"),
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="[default: limpq-build]"),
        click.option("--fresh", is_flag=True, help="Do all stages again."),
        _json_option,
    )
    return _with(options, command)


def _with(options: tuple[Any, ...], command: Command) -> Command:
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


class _Bits(click.ParamType):
    """``2,3,4`` -> (2, 3, 4)."""

    name = "bits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of bit-widths; expected something like 2,3,4,5,6", param, ctx)


def _build(until: str | None, options: dict[str, Any]) -> None:
    """Run the stages up to one of them, print the outcome, and exit with 3 when the verdict failed."""
    from limpq_deploy.config import make_config

    file, fresh, as_json = options.pop("config"), options.pop("fresh"), options.pop("as_json")
    config = make_config(options, file)
    from limpq_deploy.build import run_build

    outcome = run_build(config, until=until, fresh=fresh)
    click.echo(json.dumps(outcome.to_json()) if as_json else outcome.summary())
    if outcome.failed:
        sys.exit(VERDICT_FAILED)


@main.command()
@_build_options
def build(**options: Any) -> None:
    """All stages: float model, indicators, policy, fine-tuning, export, parity, latency, verdict, report, bundle.

    With no option: scikit-learn's digits, a small ResNet, the BitOps of uniform 4 bits. A finished stage whose inputs
    are unchanged is not run again. Exit code 3: done, but a check of the verdict failed.

    \b
    limpq-deploy build
    limpq-deploy build --like w3a3 --compression-ratio 10
    limpq-deploy build --model resnet20 --weights resnet20.safetensors --data imagefolder:cifar10
    """
    _build(None, options)


@main.command()
@_build_options
def indicators(**options: Any) -> None:
    """Train the indicators (and the float model, without --weights) and stop: DIR/indicators.json."""
    _build("indicators", options)


@main.command()
@_build_options
def finetune(**options: Any) -> None:
    """Stages up to fine-tuning, and stop: DIR/finetuned.safetensors and DIR/finetuned.json."""
    _build("finetune", options)


@main.command()
@_build_options
def export(**options: Any) -> None:
    """Stages up to export, and stop: DIR/model.qdq.onnx."""
    _build("export", options)


@main.command()
@click.argument("indicators_file", metavar="INDICATORS.json", type=click.Path(path_type=Path))
@_budget_options
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="[default: policy.json]")
@_json_option
def search(indicators_file: Path, output: Path | None, as_json: bool, **options: Any) -> None:
    """One certified policy from an indicators file, in milliseconds; needs neither torch nor a runtime.

    \b
    limpq-deploy search indicators.json --like w4a4
    limpq-deploy search indicators.json --max-gbitops 30 --max-mib 5 -o policy.json
    """
    from limpq_deploy.calibration.records import load_record, to_dict, write_record
    from limpq_deploy.costs import budgets_from_options
    from limpq_deploy.indicators import Indicators
    from limpq_deploy.search import search_policy
    from limpq_deploy.tables import policy_table

    found = load_record(Indicators, indicators_file)
    settings = {key: options.pop(key) for key in ("alpha", "outliers") if options.get(key) is not None}
    budgets = budgets_from_options(
        found, **{key: value for key, value in options.items() if key not in ("alpha", "outliers")}
    )
    policy = search_policy(found, budgets, **settings)
    write_record(policy, output or Path("policy.json"))
    click.echo(json.dumps(to_dict(policy)) if as_json else policy_table(policy, found))


@main.command()
@click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="SPEC", help="digits, imagefolder:PATH, cifar10:PATH, module:factory.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--classes", type=click.Path(path_type=Path), metavar="FILE.json", help="Folder names in class order.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@_json_option
def evaluate(model: Path, data: str, split: str, classes: Path | None, batch: int, as_json: bool) -> None:
    """Top-1 and top-5 of an exported model on a data set; needs no torch."""
    from limpq_deploy.calibration.records import to_dict
    from limpq_deploy.inspect_model import evaluate_model

    accuracy = evaluate_model(model, data, split=split, classes=classes, batch=batch)
    if as_json:
        click.echo(json.dumps(to_dict(accuracy)))
        return
    top5 = f", top-5 {accuracy.top5:.2f} %" if accuracy.top5 is not None else ""
    click.echo(f"top-1 {accuracy.top1:.2f} % ({accuracy.correct} of {accuracy.images} images of {split}){top5}")


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@_json_option
def parity(folder: Path, as_json: bool) -> None:
    """Compare a build's integer reference, runtime and trained model again, code by code."""
    from limpq_deploy.build import repeat_parity
    from limpq_deploy.calibration.records import to_dict
    from limpq_deploy.tables import parity_table

    report = repeat_parity(folder)
    click.echo(json.dumps(to_dict(report)) if as_json else parity_table(report))
    if not report.exact:
        sys.exit(VERDICT_FAILED)


@main.command()
@click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(["onnxruntime", "tensorrt"]), required=True)
@_json_option
def lint(model: Path, target: str, as_json: bool) -> None:
    """Check an ONNX file against a target's placement rules. Exit code 3 when a rule is broken."""
    from limpq_deploy.calibration.records import to_dict
    from limpq_deploy.export.lint import lint as check
    from limpq_deploy.export.targets import target_named
    from limpq_deploy.tables import lint_table

    report = check(model, target_named(target))
    click.echo(json.dumps(to_dict(report)) if as_json else lint_table(report))
    if not report.passed:
        sys.exit(VERDICT_FAILED)


@main.command()
@click.argument("models", metavar="MODEL.onnx...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="[default: one thread, then the runtime's own choice]")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="Per model and setting."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Keep all raw samples as JSON.")
@_json_option
def bench(
    models: tuple[Path, ...], batch: int, threads: int | None, seconds: float, output: Path | None, as_json: bool
) -> None:
    """Latency of ONNX models on ONNX Runtime, interleaved in one run; needs no torch."""
    from limpq_deploy.calibration.records import to_dict, write_record
    from limpq_deploy.inspect_model import bench_models
    from limpq_deploy.tables import latency_table

    report = bench_models(models, batch=batch, threads=threads, seconds=seconds)
    if output is not None:
        write_record(report, output)
    click.echo(json.dumps(to_dict(report)) if as_json else latency_table(report))


@main.command()
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--no-replay", is_flag=True, help="Check the files only; run nothing.")
@_json_option
def verify(bundle: Path, no_replay: bool, as_json: bool) -> None:
    """Check every file of a bundle, then run its canaries and compare the answers bit for bit.

    Nothing is loaded before every hash is right. Exit code 1: the bundle is refused; 3: another answer came out.
    """
    from limpq_deploy.calibration.records import to_dict
    from limpq_deploy.inspect_model import verify_and_replay

    report = verify_and_replay(bundle, replay=not no_replay)
    canaries = report.canaries
    if as_json:
        click.echo(json.dumps(to_dict(report)))
    else:
        click.echo(f"{report.files} files, {report.bytes / 2**20:.2f} MiB: all as the manifest says")
        if canaries is not None:
            result = "bit-equal" if canaries.bit_equal else f"{canaries.differing} of {canaries.logits} logits differ"
            click.echo(f"{canaries.images} canaries: {result}. {canaries.note}".rstrip())
    if canaries is not None and not canaries.bit_equal:
        sys.exit(VERDICT_FAILED)


@main.command()
@_json_option
def doctor(as_json: bool) -> None:
    """Which runtimes, devices and extras are usable here, and in a sentence why not."""
    from limpq_deploy.calibration.records import to_dict
    from limpq_deploy.doctor import examine
    from limpq_deploy.tables import doctor_table

    diagnosis = examine()
    click.echo(json.dumps(to_dict(diagnosis)) if as_json else doctor_table(diagnosis))


if __name__ == "__main__":
    main()
