"""The commands that build: all stages, or those up to one of them. Thin; heavy imports inside."""

import json
import sys
from pathlib import Path
from typing import Any

import click

import limpq_deploy
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.cli.options.grouped_help import GroupedCommand
from limpq_deploy.cli.options.shared import build_options
from limpq_deploy.cli.output.answers import answer
from limpq_deploy.cli.output.exit_codes import FAILED
from limpq_deploy.cli.output.told import Told, stages_kept


@click.command(cls=GroupedCommand, short_help="All stages, from images to a measured bundle.")
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


@click.command(cls=GroupedCommand, short_help="Stages up to the indicators.")
@build_options
def indicators(**options: Any) -> None:
    """Train the indicators (and the float model, without --weights) and stop: DIR/indicators.json."""
    _build("indicators", options)


@click.command(cls=GroupedCommand, short_help="Stages up to fine-tuning.")
@build_options
def finetune(**options: Any) -> None:
    """Stages up to fine-tuning, and stop: DIR/finetuned.safetensors and DIR/finetuned.json."""
    _build("finetune", options)


@click.command(cls=GroupedCommand, short_help="Stages up to the exported model.")
@build_options
def export(**options: Any) -> None:
    """Stages up to export, and stop: DIR/model.qdq.onnx. Needs no runtime."""
    _build("export", options)


@click.command(name="compile", cls=GroupedCommand, short_help="Stages up to the engine.")
@build_options
def compile_(**options: Any) -> None:
    """Stages up to the engine, and stop: DIR/engine.json, the precision in which each layer really runs."""
    if options["engine"] is False:
        raise SettingError("--no-engine leaves nothing to compile; leave it away, or run limpq-deploy export")
    _build("engine", options)


def add_build_commands(group: click.Group) -> None:
    """Add the commands of this file to a group."""
    for command in (build, indicators, finetune, export, compile_):
        group.add_command(command)


def _build(until: str | None, options: dict[str, Any]) -> None:
    """Run the stages up to one of them, print the outcome, and exit with 3 when the verdict failed."""
    file, fresh, as_json = options.pop("config"), options.pop("fresh"), options.pop("as_json")
    plan = options.pop("plan", False)
    with stages_kept():
        if plan:
            _plan(file, fresh=fresh, as_json=as_json, **options)
            return
        outcome = limpq_deploy.build(config=file, until=until, fresh=fresh, progress=Told(), **options).outcome
    if outcome is None:  # a process beside the one that builds, which answers
        return
    from limpq_deploy.cli.output.summary import summary

    answer(json.dumps(outcome.to_json()) if as_json else summary(outcome))
    if outcome.failed:
        sys.exit(FAILED)


def _plan(config: Path | None, *, fresh: bool, as_json: bool, **options: Any) -> None:
    from limpq_deploy.api.builds import plan
    from limpq_deploy.cli.output.plan import plan_lines
    from limpq_deploy.pipeline.stages.plan import plan_to_json

    stages = plan(config=config, fresh=fresh, **options)
    answer(json.dumps(plan_to_json(stages)) if as_json else plan_lines(stages))
