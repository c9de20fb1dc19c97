"""Latency through a server beside the same model in this process, and what several clients get per second."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.export.environment import read_environment
from limpq_deploy.export.latency import LatencyProtocol, LatencyReport, measure_interleaved
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.server import ServerUnhealthy, connected, parse_address

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
    """``latency``: raw samples of both, interleaved. ``bit_equal``: both gave the same float32 to the timed images."""

    address: str
    latency: LatencyReport
    p50_overhead_ms: float
    bit_equal: bool
    throughput: Throughput
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
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    protocol = LatencyProtocol(batch=batch, threads=threads or "default", min_seconds=seconds)
    with connected(address) as server:
        served = server.describe()
        equal = bool(np.array_equal(session.run(images), server.infer(served, images)))
        series = measure_interleaved(
            {IN_PROCESS: lambda: session.run(images), THROUGH_SERVER: lambda: server.infer(served, images)},
            protocol,
            options={IN_PROCESS: session.environment(), THROUGH_SERVER: {"address": str(address)}},
        )
    p50 = {one.name: float(np.median(one.samples_ms)) for one in series}
    return ServingReport(
        address=str(address),
        latency=LatencyReport(environment=read_environment(), protocols=(protocol,), series=tuple(series)),
        p50_overhead_ms=p50[THROUGH_SERVER] - p50[IN_PROCESS],
        bit_equal=equal,
        throughput=measure_throughput(url, images, clients=clients, seconds=seconds),
    )


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
