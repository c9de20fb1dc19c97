"""Commands between the machine that trains and the one that serves: finish, sign. Thin; heavy imports inside."""

import json
import sys
from pathlib import Path

import click

from limpq_deploy.cli.commands.ship import key_option, sign_option
from limpq_deploy.cli.options.shared import FILE, json_option
from limpq_deploy.cli.options.threads import threads_option
from limpq_deploy.cli.output.answers import answer
from limpq_deploy.cli.output.exit_codes import FAILED
from limpq_deploy.cli.output.told import Told, stages_kept


@click.command(short_help="On the GPU: a bundle made without one becomes an engine.")
@click.argument("bundle", metavar="BUNDLE", type=FILE)
@click.option("--out", type=FILE, default="limpq-finish", show_default=True, metavar="DIR", help="Output folder.")
@click.option("--fresh", is_flag=True, help="Do all stages again.")
@sign_option
@key_option
@threads_option()
@json_option
def finish(bundle: Path, out: Path, fresh: bool, sign: Path | None, key: Path | None, as_json: bool) -> None:
    """Finish a build that was made without a GPU (build --target tensorrt --no-engine), on the machine with the GPU.

    Every hash, and with --key the signature, is checked first. Then engine, parity layer by layer, saturated grids,
    latency, audit, verdict, report and a bundle with the plan. Needs no torch, no data and no weights. A finished stage
    is not run again. Exit code 3: done, but a check of the verdict failed.

    \b
    limpq-deploy finish bundle --key release.key.pub --sign server.key
    limpq-deploy ship limpq-finish models --backend tensorrt
    """
    from limpq_deploy.cli.output.summary import summary
    from limpq_deploy.pipeline.stages.finish import finish as finish_bundle

    told = Told()
    with stages_kept():
        outcome = finish_bundle(
            bundle, out, public_key=key, private_key=sign, fresh=fresh, say=told.on_stage, note=told.on_note
        )
    answer(json.dumps(outcome.to_json()) if as_json else summary(outcome))
    if outcome.failed:
        sys.exit(FAILED)


@click.command(short_help="Sign a bundle.")
@click.argument("bundle", metavar="BUNDLE", type=FILE)
@click.argument("key", metavar="KEY", type=FILE)
@json_option
def sign(bundle: Path, key: Path, as_json: bool) -> None:
    """Sign a bundle's manifest with a private key of `limpq-deploy keygen`, before it travels. Its files are checked
    against the manifest first; the signature is a file beside it, manifest.sig."""
    from limpq_deploy.export.ship.signature import sign_bundle
    from limpq_deploy.export.ship.verify import verify_bundle

    files = verify_bundle(bundle).files
    sign_bundle(bundle, key)
    answer(json.dumps({"bundle": str(bundle), "files": files, "signed": True}) if as_json else f"{bundle}: signed")


def add_finish_commands(group: click.Group) -> None:
    """Add the commands of this file to a group."""
    for command in (finish, sign):
        group.add_command(command)
