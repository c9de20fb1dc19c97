"""Latency through a server beside the same model in this process, where the difference goes, and what several clients
get per second."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import every_output, in_rows
from limpq_deploy.export.timing.measure import random_images
from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport
from limpq_deploy.export.timing.timing_loop import measure_interleaved
from limpq_deploy.serving.perf_analyzer import PerfAnalyzed, PerfAnalyzerFailed, find_perf_analyzer, run_perf_analyzer
from limpq_deploy.serving.server import (
    Address,
    ServedModel,
    ServerTimes,
    ServerUnhealthy,
    connected,
    parse_address,
    times_between,
)

IN_PROCESS, THROUGH_SERVER = "in process", "through the server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """``clients`` connections that ask one request after the other: ``images`` answered in ``seconds``; ``failed``
    requests are not among them."""

    clients: int
    batch: int
    images: int
    failed: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingReport:
    """``latency``: raw samples of both, interleaved. ``bit_equal``: both gave the same float32 to the timed images.

    ``inside``: where the server says that a request's time went, warm-up included; ``outside_ms``: the rest of the mean
    time through the server: client, network, server's front end. None where the server keeps no statistics.
    ``perf_analyzer``: one client, then as many as ``throughput`` has; empty where it is not installed, or for the
    reason that ``perf_analyzer_failed`` gives.
    """

    address: str
    latency: LatencyReport
    p50_overhead_ms: float
    bit_equal: bool
    throughput: Throughput
    inside: ServerTimes | None = None
    outside_ms: float | None = None
    perf_analyzer: tuple[PerfAnalyzed, ...] = ()
    perf_analyzer_failed: str = ""
    format: Literal["limpq.serving-bench/1"] = field(default="limpq.serving-bench/1")


def bench_server(
    url: str, model: Path, *, batch: int = 1, threads: int | None = None, seconds: float = 3.0, clients: int = 4
) -> ServingReport:
    """Time one model both ways. ``seconds`` recorded for each way, then as long with ``clients`` at once.

    Raises ServerUnhealthy where the server does not answer a request of the latency measurement.
    """
    address = parse_address(url)
    session = runtime_named("onnxruntime").load(model, threads=threads)
    shape = (batch, *(size or 1 for size in session.input_shape[1:]))
    images = random_images(session, shape, np.random.default_rng(0))
    protocol = LatencyProtocol(batch=batch, threads=threads or "default", min_seconds=seconds)
    with connected(address) as server:
        served = server.describe()
        run = every_output(session)
        equal = bool(np.array_equal(in_rows(run(images)), server.infer(served, images)))
        before = server.counters()
        series = measure_interleaved(
            {IN_PROCESS: lambda: run(images), THROUGH_SERVER: lambda: server.infer(served, images)},
            protocol,
            options={IN_PROCESS: session.environment(), THROUGH_SERVER: {"address": str(address)}},
        )
        inside = times_between(before, server.counters())
    samples_ms = {one.name: np.asarray(one.samples_ms) for one in series}
    throughput = measure_throughput(url, images, clients=clients, seconds=seconds)
    p50 = {name: float(np.median(samples)) for name, samples in samples_ms.items()}
    counts = {1: round(1000 * seconds / p50[THROUGH_SERVER]), clients: throughput.images // batch}
    analyzed, failed = _perf_analyzed(address, served, images, counts)
    return ServingReport(
        address=str(address),
        latency=LatencyReport(environment=read_environment(), protocols=(protocol,), series=tuple(series)),
        p50_overhead_ms=p50[THROUGH_SERVER] - p50[IN_PROCESS],
        bit_equal=equal,
        throughput=throughput,
        inside=inside,
        outside_ms=float(samples_ms[THROUGH_SERVER].mean()) - inside.total_ms if inside else None,
        perf_analyzer=analyzed,
        perf_analyzer_failed=failed,
    )


def _perf_analyzed(
    address: Address, model: ServedModel, images_NCHW: NDArray[np.float32], counts: dict[int, int]
) -> tuple[tuple[PerfAnalyzed, ...], str]:
    """Figures for each number of clients in ``counts`` (clients -> requests), or why there are none."""
    program = find_perf_analyzer()
    if program is None:
        return (), ""
    try:
        return tuple(
            run_perf_analyzer(
                program, address, model, images_NCHW, clients=clients, requests=max(50 * clients, requests)
            )
            for clients, requests in counts.items()
        ), ""
    except PerfAnalyzerFailed as error:
        return (), str(error)


def measure_throughput(url: str, images: NDArray[np.float32], *, clients: int, seconds: float) -> Throughput:
    """Let ``clients`` threads, each with its own connection, ask the same images again and again."""
    counts = [[0, 0] for _ in range(clients)]
    start = time.monotonic()

    def work(count: list[int]) -> None:
        with connected(parse_address(url)) as server:
            model = server.describe()
            while time.monotonic() - start < seconds:
                try:
                    server.infer(model, images)
                    count[0] += 1
                except ServerUnhealthy:
                    count[1] += 1

    workers = [threading.Thread(target=work, args=(count,), daemon=True) for count in counts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return Throughput(
        clients=clients,
        batch=len(images),
        images=len(images) * sum(count[0] for count in counts),
        failed=sum(count[1] for count in counts),
        seconds=time.monotonic() - start,
    )


def serving_details(report: ServingReport) -> list[str]:
    """Sentences on where the server's time goes and on what perf_analyzer saw."""
    lines = []
    if report.inside is not None and report.outside_ms is not None:
        times = report.inside
        lines.append(
            f"mean of a request: {times.queue_ms:.3f} ms waiting, {times.input_ms:.3f} ms inputs, "
            f"{times.infer_ms:.3f} ms backend, {times.output_ms:.3f} ms outputs, {report.outside_ms:.3f} ms client "
            "and network"
        )
    lines += [
        f"{one.program}, {one.clients} client{'s' * (one.clients > 1)}, {one.requests:,} requests: "
        f"{one.images_per_second:,.0f} images/s, p50 {one.p50_ms:.3f}, p90 {one.p90_ms:.3f}, p99 {one.p99_ms:.3f} ms"
        for one in report.perf_analyzer
    ]
    return lines + ([report.perf_analyzer_failed] if report.perf_analyzer_failed else [])
