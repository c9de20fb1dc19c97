"""One contract for both adapters to device memory, each on the stand-in driver in a process of its own.

The package itself is real: a test is skipped where it is not installed. On a GPU `tests/gpu` holds the same against the
real driver.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from limpq_deploy.export.runtimes.cuda.memory import PACKAGES, _installed

PROGRAM = """
import ctypes, json, sys
import numpy as np
from limpq_deploy.export.runtimes.cuda.memory import CudaGraph, open_memory

memory = open_memory(sys.argv[1])
stream = memory.stream()
address = memory.alloc(64)
host, back = memory.pinned(64), memory.pinned(64)
host[:] = np.arange(64)
back[:] = 0
first, second = memory.event(), memory.event()
memory.record(first, stream)
memory.to_device(address, host[:48], stream)
memory.to_host(back[:32], address, stream)
memory.record(second, stream)
other = memory.stream()
memory.follow(other, second)
memory.wait(other)
memory.wait(stream)
graph = CudaGraph.capture(stream, lambda: True)
graph.launch()
library = ctypes.CDLL("libcuda.so.1")
of_driver = lambda name: ctypes.c_int.in_dll(library, name).value
view = memory.pinned(16)[4:]
kept = of_driver("destroyed")
elapsed_ms = memory.elapsed_ms(first, second)
memory.reach(second)
found = {
    "package": memory.package,
    "back": back.tolist(),
    "elapsed_ms": elapsed_ms,
    "followed": of_driver("followed"),
    "streams": other != stream,
    "integers": [type(stream).__name__, type(address).__name__],
}
memory.free(address)
before = of_driver("destroyed")
del graph, first, view
memory.end_stream(other)
found["given_back"] = [kept, before, of_driver("destroyed")]
print(json.dumps(found))
"""


def linked(package: str) -> list[str]:
    """Functions of the driver that a package must find when it is loaded."""
    spec = find_spec(package) if package == "pycuda" else None
    if spec is None or spec.origin is None:
        return []  # cuda-python asks for each function when it is called
    [library] = Path(spec.origin).parent.glob("_driver*.so")
    listed = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    return [name for name in names if name.startswith("cu") and "@" not in name]


@pytest.mark.parametrize("package", PACKAGES)
def test_bytes_go_to_the_device_and_back_between_two_events(
    package: str, driver: Callable[..., str], tmp_path: Path
) -> None:
    if not _installed(package):
        pytest.skip(f"{package} is not installed")
    folder = tmp_path / "driver"
    folder.mkdir()
    Path(driver(besides=linked(package))).rename(folder / "libcuda.so.1")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-c", PROGRAM, package]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["package"].startswith(package)
    assert found["back"] == [*range(32), *[0] * 32]
    assert found["elapsed_ms"] > 0
    assert found["integers"] == ["int", "int"]
    assert (found["followed"], found["streams"]) == (1, True)
    assert found["given_back"] == [0, 0, 4], "graph, event, page-locked memory and stream, when nobody has them"
