"""The command that measures a model's parts. Thin; heavy imports inside."""

import json
from pathlib import Path
from typing import Any

import click

from limpq_deploy.cli.options.builder import BUILDER_FIELDS, builder_options, engine_batch_option, take_builder
from limpq_deploy.cli.options.idle import refuse_idle
from limpq_deploy.cli.options.shared import FILE, NEW_FILE, json_option, seconds_option
from limpq_deploy.cli.options.threads import threads_option
from limpq_deploy.cli.output.answers import answer


@click.command(short_help="Time each layer on this device, at each precision that it has.")
@click.argument("build", metavar="DIR", type=FILE)
@threads_option("as many as the runtime takes, as in a build")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Images per call.")
@seconds_option(1.0, 0.05, "Seconds of recorded calls of each graph.")
@click.option(
    "--graphs",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Mixed-precision graphs beside the uniform ones; each also checks a table made without it.  [default: 8 to "
    "time, 64 to price each precision after the first]",
)
@click.option(
    "--runtime", metavar="NAME", help="Runtime that executes the graphs.  [default: that of the build's target]"
)
@engine_batch_option
@builder_options
@click.option(
    "--gpus",
    metavar="sm86,sm89,..",
    help="With --runtime tensorrt_rtx: compute capabilities that the priced engines are for.  [default: sm89]",
)
@click.option(
    "--near",
    type=FILE,
    multiple=True,
    metavar="POLICY.json",
    help="With --runtime tensorrt_rtx: build this policy too, and some that differ from it in one layer, say how far "
    "off their prices were, and mend the table there. Again for more policies.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Random seed of the mixed graphs.")
@click.option("-o", "--output", type=NEW_FILE, metavar="FILE", help="[default: latency-table.json, cost-table.json]")
@json_option
def profile(
    build: Path,
    threads: int | None,
    batch: int,
    seconds: float,
    graphs: int | None,
    runtime: str | None,
    gpus: str | None,
    near: tuple[Path, ...],
    seed: int,
    output: Path | None,
    as_json: bool,
    **builder: Any,
) -> None:
    """Time every layer of a build's model on this device, at each precision that the device executes, and what
    conversions between them take: a table for --latency-table. Needs no torch, so it runs on the target.

    The timed graphs have the build's structure and made-up scales: the numbers in a graph do not change how long it
    takes.

    With --runtime tensorrt_rtx nothing is timed and no GPU is needed: NVIDIA's compiler builds engines, and its own
    list of their kernels says what each layer moves for a call of --batch images and how many kernels it takes, at each
    precision and beside neighbours of other ones: a table for --cost-table. Engines are kept, so that a run that was
    stopped goes on where it was. The table says how far off it is; --near POLICY.json holds it to what a search found,
    after which the search is asked again.

    \b
    limpq-deploy profile limpq-build -o here.json
    limpq-deploy search limpq-build/indicators.json --latency-table here.json --max-latency-ms 2
    limpq-deploy profile limpq-build --runtime tensorrt_rtx --batch 8 -o moved.json
    limpq-deploy search limpq-build/indicators.json --space native:tensorrt_rtx --cost-table moved.json \\
      --max-moved-mib 120
    limpq-deploy profile limpq-build --runtime tensorrt_rtx --batch 8 --near policy.json -o moved.json
    """
    from limpq_deploy.calibration.records import to_dict, write_record
    from limpq_deploy.export.records.targets import runtime_record
    from limpq_deploy.latency.profiling import profile_build

    if runtime is not None and runtime_record(runtime).prices:
        refuse_idle(
            ("threads", "seconds", *BUILDER_FIELDS),
            f"with --runtime {runtime}, whose compiler prices kernels for calls of --batch images and times nothing",
        )
        _price(build, batch, gpus, graphs, near, seed, output, as_json)
        return
    refuse_idle(("gpus", "near"), "where parts are timed, on the device that is here, and none is priced")
    table = profile_build(
        build,
        threads=threads or "default",
        batch=batch,
        seconds=seconds,
        graphs=8 if graphs is None else graphs,
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


def _price(
    build: Path,
    batch: int,
    gpus: str | None,
    graphs: int | None,
    near: tuple[Path, ...],
    seed: int,
    output: Path | None,
    as_json: bool,
) -> None:
    from limpq_deploy.calibration.records import load_record, to_dict, write_record
    from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import split
    from limpq_deploy.export.timing.pricing import PricingSettings
    from limpq_deploy.latency.pricing import price_build
    from limpq_deploy.policy.policy import Policy

    policies = [load_record(Policy, file) for file in near]
    named = PricingSettings().gpus if gpus is None else split(gpus)
    table = price_build(build, PricingSettings(batch=batch, gpus=named, graphs=graphs, seed=seed), policies)
    file = output or Path("cost-table.json")
    write_record(table, file)
    if as_json:
        answer(json.dumps(to_dict(table)))
        return
    from limpq_deploy.cli.output.prices import price_table

    answer(f"{price_table(table)}\nwritten to {file}")
