"""Where the server's time goes, and perf_analyzer, on a real server. Skipped where LIMPQ_TRITON is not set."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.ship.triton.config import ServingOptions
from limpq_deploy.serving.perf_analyzer import PerfAnalyzerFailed, find_perf_analyzer, run_perf_analyzer
from limpq_deploy.serving.server import ServedModel, connected, parse_address, times_between
from limpq_deploy.serving.server_latency import ServingReport, bench_server, serving_details
from limpq_deploy.serving.ship import ship

IMAGE = np.ones((1, 3, 4, 4), np.float32)


@pytest.fixture(scope="module")
def server(
    write_tiny: Callable[..., Path], triton_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("analyzed")
    ship(write_tiny(root / "bundle"), root / "models", ServingOptions(backend="python"))
    with triton_server(root / "models", root / "server.log") as running:
        running.start("tiny")
        yield running


@pytest.fixture
def urls(server: Any) -> tuple[str, str]:
    return f"http://127.0.0.1:{server.http}/tiny", f"grpc://127.0.0.1:{server.grpc}/tiny/versions/1"


@pytest.fixture
def perf_analyzer(server: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program that benchmarks/tritonserver.py set up, on the PATH."""
    if not (Path(os.environ["LIMPQ_TRITON"]) / "perf_analyzer").exists():
        pytest.skip("no perf_analyzer: benchmarks/tritonserver.py said why it could not set it up")
    monkeypatch.setenv("PATH", f"{Path(os.environ['LIMPQ_TRITON']).resolve()}:{os.environ['PATH']}")
    found = find_perf_analyzer()
    assert found is not None
    return found


def test_the_server_counts_every_request_and_says_where_its_time_went(urls: tuple[str, str]) -> None:
    for url in urls:
        with connected(parse_address(url)) as connection:
            model, before = connection.describe(), connection.counters()
            for _ in range(20):
                connection.infer(model, IMAGE)
            times = times_between(before, connection.counters())
            assert times is not None
            assert times.requests == 20
            assert 0 < times.infer_ms < times.total_ms
            assert times_between(before, before) is None


def test_bench_takes_perf_analyzer_where_it_is_installed(
    urls: tuple[str, str], perf_analyzer: Path, server: Any
) -> None:
    model = server.repository / "tiny/1/model.onnx"
    for url in urls:
        report = bench_server(url, model, threads=1, seconds=0.2)
        assert report.perf_analyzer_failed == ""
        assert [one.clients for one in report.perf_analyzer] == [1, 4]
        for one in report.perf_analyzer:
            assert one.program == "perf_analyzer 2.51.0"
            assert one.requests >= 50 * one.clients
            assert 0 < one.p50_ms <= one.p90_ms <= one.p99_ms
            assert one.images_per_second > 0
        assert report.inside is not None
        assert report.outside_ms is not None
        assert from_json(ServingReport, to_json(report), "report") == report
        said = "\n".join(serving_details(report))
        assert "ms backend" in said
        assert "perf_analyzer 2.51.0, 4 clients" in said


def test_perf_analyzer_sends_the_batch_that_is_asked_for(urls: tuple[str, str], perf_analyzer: Path) -> None:
    address = parse_address(urls[1])
    with connected(address) as connection:
        model, before = connection.describe(), connection.counters()
        images = np.ones((4, 3, 4, 4), np.float32)
        run_perf_analyzer(perf_analyzer, address, model, images, clients=2, requests=60)
        times = times_between(before, connection.counters())
    assert times is not None
    assert times.requests >= 60
    with pytest.raises(PerfAnalyzerFailed, match="batch-size must be <= 8"):
        run_perf_analyzer(perf_analyzer, address, model, np.ones((9, 3, 4, 4), np.float32), clients=1, requests=50)


def test_a_perf_analyzer_that_gives_no_figures_says_why(tmp_path: Path) -> None:
    model = ServedModel(input="images", shape=(-1, 3, 4, 4), outputs=("logits",), max_batch=8)
    address = parse_address("grpc://127.0.0.1:9/tiny")
    program = tmp_path / "perf_analyzer"
    for text, reason in (
        ("#!/bin/sh\necho lib.so.1: cannot open shared object file >&2; exit 127\n", "lib.so.1: cannot open"),
        ("#!/bin/sh\necho Perf Analyzer Version 9\n", "perf_analyzer 9 wrote no table"),
    ):
        program.write_text(text)
        program.chmod(0o755)
        with pytest.raises(PerfAnalyzerFailed, match=reason):
            run_perf_analyzer(program, address, model, IMAGE, clients=1, requests=1)
    with pytest.raises(PerfAnalyzerFailed, match="take it off the PATH"):
        run_perf_analyzer(tmp_path / "missing", address, model, IMAGE, clients=1, requests=1)
