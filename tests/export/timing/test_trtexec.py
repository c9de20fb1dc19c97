"""NVIDIA's stopwatch, played by a script that prints what it prints."""

from collections.abc import Callable
from pathlib import Path

import pytest

from limpq_deploy.export.timing.trtexec import TrtexecFailed, time_plan

SUMMARY = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v8401] # trtexec --loadEngine=resnet50.int8.engine
[07/22/2022-23:37:09] [I] Average on 10 runs - GPU latency: 0.498 ms - Host latency: 0.521 ms (enqueue 0.015 ms)
[07/22/2022-23:37:09] [I] === Performance summary ===
[07/22/2022-23:37:09] [I] Throughput: 1.29477e+08 qps
[07/22/2022-23:37:09] [I] Latency: min = 0.360107 ms, max = 0.677246 ms, mean = 0.521576 ms, median = 0.522217 ms, \
percentile(99%) = 0.615723 ms
[07/22/2022-23:37:09] [I] Enqueue Time: min = 0.0136719 ms, max = 0.0453186 ms, mean = 0.0148635 ms, median = \
0.0142822 ms, percentile(99%) = 0.0231934 ms
[07/22/2022-23:37:09] [I] H2D Latency: min = 0.00708008 ms, max = 0.0322266 ms, mean = 0.0125107 ms, median = \
0.0122681 ms, percentile(99%) = 0.0178833 ms
[07/22/2022-23:37:09] [I] GPU Compute Time: min = 0.338623 ms, max = 0.656982 ms, mean = 0.499129 ms, median = \
0.499756 ms, percentile(99%) = 0.593628 ms
[07/22/2022-23:37:09] [I] D2H Latency: min = 0.00509644 ms, max = 0.0241699 ms, mean = 0.00993502 ms, median = \
9.76562e-03 ms, percentile(99%) = 0.0151367 ms
[07/22/2022-23:37:09] [I] Total Host Walltime: 3.00126 s
[07/22/2022-23:37:09] [I] Total GPU Compute Time: 23.6767 s
[07/22/2022-23:37:09] [W] * GPU compute time is unstable, with coefficient of variance = 7.05215%.
"""
"""A public log of a ResNet-50 in INT8, its first and an "Average" line added; one median is written with an exponent,
as small ones may be."""

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a program of this name on the path that prints a summary and ends well where the plan is there."""

    def write(summary: str) -> None:
        (tmp_path / "summary").write_text(summary)
        program = tmp_path / "trtexec"
        program.write_text(f'#!/bin/sh\ncat {tmp_path}/summary\ntest -f "${{1#--loadEngine=}}"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    return write


@pytest.mark.parametrize("prefixed", [True, False], ids=["with times", "bare lines"])
def test_each_median_is_that_of_its_own_line(install: Install, tmp_path: Path, prefixed: bool) -> None:
    install(SUMMARY if prefixed else SUMMARY.replace("[07/22/2022-23:37:09] [I] ", ""))
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"plan")
    medians, arguments = time_plan(plan, "images", (1, 3, 16, 16), seconds=1)
    assert medians == {
        "Latency": 0.522217,
        "Enqueue Time": 0.0142822,
        "H2D Latency": 0.0122681,
        "GPU Compute Time": 0.499756,
        "D2H Latency": 0.00976562,
    }
    assert "--shapes=images:1x3x16x16" in arguments


def test_where_it_is_missing_fails_or_prints_no_summary_the_reason_is_said(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = tmp_path / "model.plan"
    with pytest.raises(TrtexecFailed, match="trtexec is not installed here"):
        time_plan(plan, "images", (1, 3, 16, 16), seconds=1)
    install(SUMMARY)
    with pytest.raises(TrtexecFailed, match="trtexec ended with 1"):
        time_plan(plan, "images", (1, 3, 16, 16), seconds=1)
    plan.write_bytes(b"plan")
    install("nothing of it")
    with pytest.raises(TrtexecFailed, match="trtexec ended with 0: nothing of it"):
        time_plan(plan, "images", (1, 3, 16, 16), seconds=1)
