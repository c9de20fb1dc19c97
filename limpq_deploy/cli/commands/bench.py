"""The commands that time models: bench, its merge and compare. Thin; heavy imports inside."""

import json
from pathlib import Path
from typing import Any

import click

import limpq_deploy
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.cli.options.builder import BUILDER_FIELDS, builder_options, engine_batch_option, take_builder
from limpq_deploy.cli.options.idle import refuse_idle
from limpq_deploy.cli.options.shared import FILE, NEW_FILE, IntList, json_option, seconds_option
from limpq_deploy.cli.options.threads import threads_option
from limpq_deploy.cli.output.answers import answer, aside

TIME = "time"

MOST_STREAMS = 64
"""Runs at once; each is a thread, or a context of an engine with buffers of its own."""


class _Bench(click.Group):
    """``bench FILE...`` times files; ``bench merge`` and ``bench compare`` read what it wrote."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in self.commands:
            args = [TIME, *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = ctx.help_option_names
        if args and args[0].startswith("-") and args[0] not in own:
            args = [TIME, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] DIR|MODEL.onnx...")
        formatter.write_usage(ctx.command_path, "merge|compare FILE.json...")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Those of the timing itself; then the two other commands."""
        time = self.commands[TIME]
        time.format_options(click.Context(time, info_name=TIME, parent=ctx), formatter)
        rows = [(name, self.commands[name].get_short_help_str(90)) for name in ("compare", "merge")]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Time(click.Command):
    """The timing itself; its usage line and hints name ``bench``, as it was typed."""

    class context_class(click.Context):  # noqa: N801 - click's name
        @property
        def command_path(self) -> str:
            return self.parent.command_path if self.parent is not None else super().command_path


@click.group(cls=_Bench, short_help="Latency of ONNX models, timed in turns in one run.")
def bench() -> None:
    """Latency of ONNX models, timed in turns in one run; needs no torch. For a build's directory: the mixed model, the
    float one (on TensorRT in FP16, and in FP32 as fp32) and the uniform 8-bit one.

    Every model warms up for 200 ms, then all take turns in random order. Every raw sample is kept (-o, --json), and
    reasons to doubt a figure are printed beside it.

    \b
    limpq-deploy bench limpq-build --batch 1,8 -o here.json
    limpq-deploy bench merge here.json there.json
    limpq-deploy bench compare before.json after.json
    """


@bench.command(name=TIME, cls=_Time, hidden=True)
@click.argument("models", metavar="DIR|MODEL.onnx...", nargs=-1, required=True, type=FILE)
@click.option(
    "--batch", "batches", type=IntList(), default="1", show_default=True, metavar="N,..", help="Images per call."
)
@click.option(
    "--streams",
    type=IntList(most=MOST_STREAMS),
    default="1",
    show_default=True,
    metavar="N,..",
    help="Batches that run at once, each on its own CUDA stream or thread; a call ends when the last one does.",
)
@threads_option("one, then as many as the runtime takes")
@seconds_option(3.0, 0.1, "Seconds of recorded calls, for each model and number of threads; at least 10 calls.")
@click.option(
    "--runtime",
    default="onnxruntime",
    show_default=True,
    metavar="NAME",
    help="Runtime that executes the models; see doctor.",
)
@engine_batch_option
@builder_options
@click.option(
    "--server", metavar="URL", help="Time one model here and on a server: http://HOST:PORT/MODEL or grpc://..."
)
@click.option("-o", "--output", type=NEW_FILE, metavar="FILE", help="Keep all raw samples as JSON.")
@json_option
def time_models(
    models: tuple[Path, ...],
    batches: tuple[int, ...],
    streams: tuple[int, ...],
    threads: int | None,
    seconds: float,
    runtime: str,
    server: str | None,
    output: Path | None,
    as_json: bool,
    **builder: Any,
) -> None:
    """Latency of ONNX models, timed in turns in one run; needs no torch."""
    from limpq_deploy.calibration.records import to_dict, write_record

    if server is not None:
        from limpq_deploy.cli.output.serving import serving_lines
        from limpq_deploy.serving.server_latency import bench_server

        if len(models) != 1 or len(batches) != 1:
            raise SettingError(
                f"--server times one model at one batch size; found {len(models)} models and {len(batches)} "
                "batch sizes, give the one that is served"
            )
        refuse_idle(
            ("streams", "runtime", *BUILDER_FIELDS),
            "with --server, which is timed beside ONNX Runtime here, alone and then with several clients, and for "
            "which no engine is built",
        )
        measured = bench_server(server, models[0], batch=batches[0], threads=threads, seconds=seconds)
        if output is not None:
            write_record(measured, output)
        answer(json.dumps(to_dict(measured)) if as_json else serving_lines(measured))
        return
    report = limpq_deploy.bench(
        models,
        batches=batches,
        streams=streams,
        threads=threads,
        seconds=seconds,
        runtime=runtime,
        engine=take_builder(builder),
    )
    if output is not None:
        write_record(report, output)
        aside(f"written to {output}")
    if as_json:
        answer(json.dumps(to_dict(report)))
        return
    from limpq_deploy.cli.output.latency import latency_table

    answer(latency_table(report))


@bench.command(short_help="Results of many machines as one table for each model and device.")
@click.argument("files", metavar="FILE.json...", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", type=NEW_FILE, metavar="FILE", help="Keep the tables as JSON.")
@json_option
def merge(files: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Gather what `bench -o` wrote on many machines: one table for each model and device, and one of its own for every
    other environment of them, with what differs."""
    from limpq_deploy.calibration.records import load_record, to_dict, write_record
    from limpq_deploy.cli.output.latency import fleet_tables
    from limpq_deploy.export.timing.compare import merge as merged
    from limpq_deploy.export.timing.report import LatencyReport

    fleet = merged({str(file): load_record(LatencyReport, file) for file in files})
    if output is not None:
        write_record(fleet, output)
    answer(json.dumps(to_dict(fleet)) if as_json else fleet_tables(fleet))


@bench.command(short_help="Two results of one environment; others are refused.")
@click.argument("before", metavar="BEFORE.json", type=FILE)
@click.argument("after", metavar="AFTER.json", type=FILE)
@json_option
def compare(before: Path, after: Path, as_json: bool) -> None:
    """How much faster the series of AFTER are than those of the same name, threads, batch and streams in BEFORE.
    Results of different environments are refused, with what differs."""
    from limpq_deploy.calibration.records import load_record, to_dict
    from limpq_deploy.cli.output.latency import change_table
    from limpq_deploy.cli.output.tables import wrapped
    from limpq_deploy.export.timing.compare import compare as compared
    from limpq_deploy.export.timing.compare import unmatched
    from limpq_deploy.export.timing.report import LatencyReport

    reports = load_record(LatencyReport, before), load_record(LatencyReport, after)
    changes = compared(*reports)
    for sentence in unmatched(*reports):
        aside(wrapped(plain(sentence, 2000)))
    answer(json.dumps({"changes": [to_dict(change) for change in changes]}) if as_json else change_table(changes))
