import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limpq_deploy.export.records.environment import CpuMeter, differences, parse_cpuinfo, read_environment

X86 = """processor\t: 0
model name\t: AMD EPYC 7763 64-Core Processor
flags\t\t: fpu sse2 avx avx2 fma
processor\t: 1
model name\t: another
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


def test_model_and_flags_are_those_of_the_first_cpu() -> None:
    model, flags = parse_cpuinfo(X86)
    assert model == "AMD EPYC 7763 64-Core Processor"
    assert {"avx2", "fma"} <= flags


def test_arm_features_are_read_and_the_missing_model_is_empty() -> None:
    assert parse_cpuinfo(ARM) == ("", frozenset({"fp", "asimd", "asimddp", "i8mm"}))


def test_environment_describes_this_machine_and_leaves_out_what_is_not_installed() -> None:
    here = read_environment(("numpy", "surely-not-installed"))
    assert here.cpu
    assert here.architecture == platform.machine()
    assert 1 <= here.usable_cpus <= here.logical_cpus
    assert list(here.libraries) == ["numpy"]
    assert here.same_cpu_kind(here)


def test_equal_machines_differ_in_nothing_however_busy_they_are() -> None:
    here = read_environment()
    assert differences(here, replace(here, load_average=(9.0, 9.0, 9.0))) == ()
    assert differences(here, replace(here, libraries={**here.libraries, "torch": "1.0", "onnx": "1.0"})) == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cpu": "another"}, "cpu: "),
        ({"usable_cpus": 99}, "usable_cpus: "),
        ({"instruction_sets": ("avx9",)}, "instruction sets: "),
        ({"libraries": {"onnxruntime": "0.1"}}, "onnxruntime: "),
        ({"accelerator": {"name": "a GPU", "driver": "1"}}, "accelerator driver: none, not 1"),
    ],
)
def test_what_differs_is_named(changed: dict[str, Any], said: str) -> None:
    here = read_environment()
    found = differences(here, replace(here, **changed))
    assert any(one.startswith(said) for one in found), found


def _spin(seconds: float) -> None:
    """Compute for so many seconds of this process's own time, however busy the machine is."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def _busy_seconds() -> float:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:8]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc/stat")
def test_this_process_is_not_counted_as_another() -> None:
    busy, own, start, meter = _busy_seconds(), time.process_time(), time.monotonic(), CpuMeter()
    _spin(0.5)
    use = meter.read()
    busy, own, seconds = _busy_seconds() - busy, time.process_time() - own, time.monotonic() - start
    assert use is not None
    assert use.other_cpus == pytest.approx(max(0, busy - own) / seconds, abs=0.1)  # ticks are 10 ms
    assert own > 0.1


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc/stat")
def test_another_process_is_seen() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()  # it runs now
            meter = CpuMeter()
            time.sleep(0.5)
            use = meter.read()
        finally:
            other.kill()
    assert use is not None
    assert use.other_cpus > 0.25  # it may share its CPU with others
