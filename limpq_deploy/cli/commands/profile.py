"""The command that measures a model's parts. Thin; heavy imports inside."""

import json
from pathlib import Path
from typing import Any

import click

from limpq_deploy.cli.options.builder import builder_options, engine_batch_option, take_builder
from limpq_deploy.cli.options.shared import FILE, NEW_FILE, json_option, seconds_option, threads_option
from limpq_deploy.cli.output.answers import answer


@click.command(short_help="Time each layer on this device, at each precision that it has.")
@click.argument("build", metavar="DIR", type=FILE)
@threads_option("as many as the runtime takes, as in a build")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Images per call.")
@seconds_option(1.0, 0.05, "Seconds of recorded calls of each graph.")
@click.option(
    "--graphs",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    metavar="N",
    help="Mixed-precision graphs to time beside the uniform ones; each also checks a table made without it.",
)
@click.option(
    "--runtime", metavar="NAME", help="Runtime that executes the graphs.  [default: that of the build's target]"
)
@engine_batch_option
@builder_options
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Random seed of the mixed graphs.")
@click.option("-o", "--output", type=NEW_FILE, metavar="FILE", help="[default: latency-table.json]")
@json_option
def profile(
    build: Path,
    threads: int | None,
    batch: int,
    seconds: float,
    graphs: int,
    runtime: str | None,
    seed: int,
    output: Path | None,
    as_json: bool,
    **builder: Any,
) -> None:
    """Time every layer of a build's model on this device, at each precision that the device executes, and what
    conversions between them take: a table for --latency-table. Needs no torch, so it runs on the target.

    The timed graphs have the build's structure and made-up scales: the numbers in a graph do not change how long it
    takes.

    \b
    limpq-deploy profile limpq-build -o here.json
    limpq-deploy search limpq-build/indicators.json --latency-table here.json --max-latency-ms 2
    """
    from limpq_deploy.calibration.records import to_dict, write_record
    from limpq_deploy.latency.profiling import profile_build

    table = profile_build(
        build,
        threads=threads or "default",
        batch=batch,
        seconds=seconds,
        graphs=graphs,
        runtime=runtime,
        seed=seed,
        options=take_builder(builder),
    )
    file = output or Path("latency-table.json")
    write_record(table, file)
    if as_json:
        answer(json.dumps(to_dict(table)))
        return
    from limpq_deploy.cli.output.latency import profile_table

    answer(f"{profile_table(table)}\nwritten to {file}")
