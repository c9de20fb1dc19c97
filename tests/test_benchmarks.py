"""Every benchmark starts: its imports hold and its help says what it measures."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted(
    path
    for path in (Path(__file__).resolve().parents[1] / "benchmarks").glob("*.py")
    if "argparse" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.name)
def test_a_benchmark_starts_and_explains_itself(script: Path) -> None:
    found = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "--quick" in found.stdout
    assert "--json" in found.stdout
