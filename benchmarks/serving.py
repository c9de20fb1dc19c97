"""A model behind a real Triton server (CPU twin, loopback) beside the same model in this process.

    LIMPQ_TRITON=FOLDER python benchmarks/serving.py [DIR] [--quick] [--json]

FOLDER: made by benchmarks/tritonserver.py; DIR: a finished build (default: one of the digits, made first). Counts
wrong answers and failed requests of 2,000 requests over HTTP and as many over gRPC; times both ways interleaved, and
with perf_analyzer where FOLDER has it; swaps versions under 4 clients; kills the server. Every answer is compared bit
for bit with ONNX Runtime in this process.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
from tritonserver import TritonServer

from limpq_deploy.calibration.records import to_dict
from limpq_deploy.cli.output.tables import stage_line
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.ship.triton.config import ServingOptions
from limpq_deploy.pipeline.config import Config, Training
from limpq_deploy.pipeline.stages.run import run_build
from limpq_deploy.serving.health import check_health
from limpq_deploy.serving.server import ServerUnhealthy, connected, parse_address
from limpq_deploy.serving.server_latency import bench_server
from limpq_deploy.serving.ship import ship

NAME = "served"
TWIN = ServingOptions(backend="python", threads=1)
"""One thread in the server and one in this process: both share the machine with the client."""


def count_requests(url: str, images: Any, expected: Any, requests: int) -> dict[str, int]:
    """Ask one image after the other; how many failed, and how many answers were not the expected ones."""
    failed = wrong = 0
    with connected(parse_address(url)) as server:
        model = server.describe()
        for number in range(requests):
            at = number % len(images)
            try:
                wrong += not np.array_equal(server.infer(model, images[at : at + 1]), expected[at : at + 1])
            except ServerUnhealthy:
                failed += 1
    return {"requests": requests, "failed": failed, "wrong": wrong}


def swap(
    server: TritonServer, build: Path, repository: Path, image: Any, expected: Any, seconds: float
) -> dict[str, Any]:
    """Ship and load new versions for ``seconds`` under 4 clients."""
    counts = [[0, 0, 0] for _ in range(4)]
    stop = threading.Event()

    def ask(count: list[int]) -> None:
        with connected(parse_address(f"grpc://127.0.0.1:{server.grpc}/{NAME}")) as connection:
            model = connection.describe()
            while not stop.is_set():
                count[0] += 1
                try:
                    count[2] += not np.array_equal(connection.infer(model, image), expected)
                except ServerUnhealthy:
                    count[1] += 1

    clients = [threading.Thread(target=ask, args=(count,), daemon=True) for count in counts]
    for client in clients:
        client.start()
    start, swaps = time.monotonic(), 0
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") as control:
        while time.monotonic() - start < seconds:
            ship(build, repository, TWIN, name=NAME, force=True)
            control.load_model(NAME)
            swaps += 1
    took = time.monotonic() - start
    stop.set()
    for client in clients:
        client.join()
    asked, failed, wrong = (sum(column) for column in zip(*counts, strict=True))
    return {"swaps": swaps, "swap_seconds": took, "swap_requests": asked, "swap_failed": failed, "swap_wrong": wrong}


def server_folder() -> Path:
    """Where the server is; ends the program with a sentence where none was set up."""
    folder = Path(os.environ.get("LIMPQ_TRITON", "no-folder")).resolve()
    if not (folder / "tritonserver").is_file():
        sys.exit(
            "no Triton server: set LIMPQ_TRITON to the folder that `python benchmarks/tritonserver.py FOLDER` makes "
            f"({folder / 'tritonserver'} does not exist)"
        )
    return folder


def built(folder: Path) -> Path:
    """A build of the digits with a short training; answers are compared, not judged."""
    config = Config(
        out=folder / "build",
        latency_seconds=0.05,
        max_accuracy_drop=100.0,
        training=Training(float_steps=60, joint_steps=5, finetune_steps=5),
    )
    run_build(config, say=lambda passed: print(stage_line(passed), file=sys.stderr))
    return config.out


def measure(folder_of_server: Path, build: Path, requests: int, seconds: float, swap_seconds: float) -> dict[str, Any]:
    """All figures, as one JSON object."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        ship(build, repository, TWIN, name=NAME, force=True)
        model = repository / NAME / "1/model.onnx"
        session = runtime_named("onnxruntime").load(model, threads=1)
        images = np.random.default_rng(0).standard_normal((256, *session.input_shape[1:])).astype(np.float32)  # type: ignore[arg-type]
        expected = session.run(images)
        os.environ["PATH"] = f"{folder_of_server}:{os.environ['PATH']}"  # perf_analyzer
        start = folder_of_server / "tritonserver"
        with TritonServer(start, repository, Path(folder) / "log") as server:
            started = server.start(NAME)
            http, grpc = f"http://127.0.0.1:{server.http}/{NAME}", f"grpc://127.0.0.1:{server.grpc}/{NAME}"
            counted = {
                name: count_requests(url, images, expected, requests) for name, url in (("http", http), ("grpc", grpc))
            }
            timed = {
                name: bench_server(url, model, threads=1, seconds=seconds)
                for name, url in (("http", http), ("grpc", grpc))
            }
            print(json.dumps(counted), {name: one.p50_overhead_ms for name, one in timed.items()}, file=sys.stderr)
            swapped = swap(server, build, repository, images[:1], expected[:1], swap_seconds)
            print(json.dumps(swapped), file=sys.stderr)
            server.kill()
            back = server.start(NAME)
            healthy = check_health(grpc, bundle=repository / NAME).passed
    return {
        "requests": sum(one["requests"] for one in counted.values()),
        "failed": sum(one["failed"] for one in counted.values()),
        "wrong": sum(one["wrong"] for one in counted.values()),
        "p50_overhead_ms": max(one.p50_overhead_ms for one in timed.values()),
        "p50_overhead_ms_by_protocol": {name: one.p50_overhead_ms for name, one in timed.items()},
        "p50_ms": {
            name: {series.name: float(np.median(series.samples_ms)) for series in one.latency.series}
            for name, one in timed.items()
        },
        "inside_ms": {name: to_dict(one.inside) if one.inside else None for name, one in timed.items()},
        "perf_analyzer": {name: [to_dict(figures) for figures in one.perf_analyzer] for name, one in timed.items()},
        "images_per_second_4_clients": {name: one.throughput.images_per_second for name, one in timed.items()},
        **swapped,
        "start_seconds": started,
        "back_after_kill_seconds": back,
        "right_after_kill": healthy,
        "doubts": sorted({doubt for one in timed.values() for series in one.latency.series for doubt in series.doubts}),
        "cpu": read_environment().cpu,
        "load_average": read_environment().load_average,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, metavar="DIR", nargs="?", help="a finished build")
    parser.add_argument("--quick", action="store_true", help="500 requests each, 1 s of latency each")
    parser.add_argument("--smoke", action="store_true", help="20 requests each: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    server = server_folder()
    requests, seconds = (20, 0.05) if options.smoke else (500, 1.0) if options.quick else (2000, 3.0)
    with tempfile.TemporaryDirectory() as folder:
        build = options.build or built(Path(folder))
        found = measure(server, build, requests, seconds, 1.0 if options.smoke else 10.0)
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
