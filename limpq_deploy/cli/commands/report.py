"""The command that draws one page of several builds. Thin; heavy imports inside."""

import json
from pathlib import Path

import click

from limpq_deploy.cli.options.shared import FILE, NEW_FILE, json_option
from limpq_deploy.cli.output.answers import answer


@click.command(short_help="One page of several builds, side by side.")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", type=NEW_FILE, metavar="FILE", help="[default: report.html]")
@json_option
def report(folders: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Write one self-contained page of finished builds: what each would ship and why, every file, the fronts in one
    picture, bits layer by layer. Of one build, its own page.

    \b
    limpq-deploy report build-w3 build-w4 -o page.html
    """
    from limpq_deploy.calibration.files import write_text
    from limpq_deploy.pipeline.read_builds import compared_builds, report_of
    from limpq_deploy.report.comparison import write_comparison

    file = output or Path("report.html")
    if len(folders) == 1:
        write_text(file, report_of(folders[0]))
    else:
        write_comparison(file, compared_builds(folders))
    if as_json:
        answer(json.dumps({"output": str(file), "builds": [str(folder) for folder in folders]}))
    else:
        answer(f"written to {file}")
