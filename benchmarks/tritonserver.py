"""The real tritonserver of nvidia-pytriton, set up in a folder of its own, for tests and benchmarks on this machine.

    python benchmarks/tritonserver.py FOLDER
    LIMPQ_TRITON=FOLDER pytest tests/serving
    LIMPQ_TRITON=FOLDER python benchmarks/serving.py

It has the python backend only and serves on CPUs. It is old (2.51) and crashes on large JSON bodies: for loopback
tests, never for operators. Needs Python 3.11 and a package index; about 55 MB, and onnxruntime. Beside it FOLDER gets
NVIDIA's perf_analyzer from the last tritonclient that held it (the package perf-analyzer is empty), with a library
that apt or the machine has; where neither does, the server is set up without it and the reason printed.
"""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("nvidia-pytriton==0.7.0", "onnxruntime")  # pytriton pins numpy<2: an environment of its own

PERF_ANALYZER = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12")
"""2.51 is built against libb64 and links the CUDA runtime, which runs without a GPU; from 2.62 on it is gone."""

START_PERF_ANALYZER = """#!/bin/sh
export LD_LIBRARY_PATH="{libraries}"
exec "{program}" "$@"
"""

START = """#!/bin/sh
export LD_LIBRARY_PATH="{libraries}"
export PATH="{environment}/bin:$PATH"
export VIRTUAL_ENV="{environment}"
export PYTHONPATH="{site}"
exec "{server}" --backend-directory="{folder}/backends" "$@"
"""


def install(folder: Path) -> Path:
    """Make the environment, the backend folder and the start script ``FOLDER/tritonserver``."""
    folder = folder.resolve()
    environment = folder / "environment"
    if not (environment / "bin/python").exists():
        venv.create(environment, with_pip=True)
    subprocess.run([environment / "bin/python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / f"python{version}" / "site-packages"
    unpacked = site / "pytriton/tritonserver"
    backend = folder / "backends/python"
    shutil.copytree(unpacked / "backends/python", backend, dirs_exist_ok=True)
    shutil.copytree(unpacked / "python_backend_stubs" / version, backend, dirs_exist_ok=True)
    for program in (unpacked / "bin/tritonserver", *backend.glob("*stub*")):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    libraries = f"{site / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    start = folder / "tritonserver"
    start.write_text(
        START.format(
            libraries=libraries, environment=environment, site=site, server=unpacked / "bin/tritonserver", folder=folder
        )
    )
    start.chmod(0o755)
    return start


def install_perf_analyzer(folder: Path) -> Path:
    """Set up ``FOLDER/perf_analyzer``. Raises RuntimeError where it does not start."""
    place = folder.resolve() / "perf"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(place)]
    subprocess.run([*pip, *PERF_ANALYZER], check=True)
    _unpack_libb64(place)
    program = place / "bin/perf_analyzer"
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    libraries = f"{place / 'nvidia/cuda_runtime/lib'}:{place / 'libb64'}"
    start = folder.resolve() / "perf_analyzer"
    start.write_text(START_PERF_ANALYZER.format(libraries=libraries, program=program))
    start.chmod(0o755)
    found = subprocess.run([start, "--version"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        start.unlink()
        raise RuntimeError(f"perf_analyzer does not start: {found.stderr.strip()}")
    return start


def _unpack_libb64(place: Path) -> None:
    """Fetch libb64 with apt, where there is one, without installing it; the machine may have it anyway."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return
    with tempfile.TemporaryDirectory() as download:
        subprocess.run(["apt-get", "download", "--quiet", "libb64-0d"], cwd=download, check=False, capture_output=True)
        for package in Path(download).glob("libb64*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, download], check=True)
        (place / "libb64").mkdir(exist_ok=True)
        for library in Path(download).rglob("libb64.so*"):
            shutil.copy(library, place / "libb64")


class TritonServer:
    """A running server. Every socket of it is bound to 127.0.0.1; models are loaded and unloaded on request."""

    def __init__(self, start: Path, repository: Path, log: Path) -> None:
        self._start, self.repository, self._log = start, repository, log
        self._process: subprocess.Popen[bytes] | None = None
        self.http, self.grpc, self.metrics = free_port(), free_port(), free_port()

    def __enter__(self) -> "TritonServer":
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def loopback(self) -> list[str]:
        """Options that bind every socket to 127.0.0.1, at this server's ports."""
        names = ("http", "grpc", "metrics")
        return [f"--{name}-address=127.0.0.1" for name in names] + [
            f"--{name}-port={getattr(self, name)}" for name in names
        ]

    def start(self, *models: str, options: Sequence[str] = (), seconds: float = 90) -> float:
        """Start under explicit control and wait until the models are ready; the seconds that took. Raises RuntimeError
        with the log's end."""
        command = [str(self._start), f"--model-repository={self.repository}", "--model-control-mode=explicit"]
        command += ["--disable-auto-complete-config", "--allow-gpu-metrics=false", "--exit-timeout-secs=5"]
        command += [f"--load-model={model}" for model in models]
        return self.run([*command, *self.loopback, *options], *models, seconds=seconds)

    def run(self, command: Sequence[str], *models: str, seconds: float = 90) -> float:
        """Run a command that becomes a server at this one's ports, and wait as `start` does."""
        begin = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while time.monotonic() - begin < seconds:
            if self._process.poll() is not None:
                raise RuntimeError("the server ended:\n" + "\n".join(self.log.splitlines()[-20:]))
            if all(self._answers(f"v2/models/{model}/ready") for model in models) and self._answers("v2/health/ready"):
                return time.monotonic() - begin
            time.sleep(0.05)
        raise RuntimeError(f"not ready within {seconds} s:\n" + "\n".join(self.log.splitlines()[-20:]))

    def stop(self) -> None:
        """End the server and wait for it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL to the server and its stubs, as when a machine fails."""
        assert self._process is not None
        for pid in (self._process.pid, *self.stubs()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stubs(self) -> list[int]:
        """Processes that the python backend runs models in."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                name, _, rest = (entry / "stat").read_text().rpartition(") ")
                if int(rest.split()[1]) == self.pid and rest.split()[0] != "Z" and "triton_python" in name:
                    found.append(int(entry.name))
        return found

    def listening(self) -> set[str]:
        """Addresses (IPv4 in hex as the kernel writes them, or a path's table name) on which the server listens."""
        own = set()
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                own.add(os.readlink(descriptor))
        addresses = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and f"socket:[{words[9]}]" in own:  # 0A: listening
                    addresses.add(words[1].rpartition(":")[0])
        return addresses

    def _answers(self, path: str) -> bool:
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{self.http}/{path}", timeout=2).status == 200)
        return False


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(install(Path(sys.argv[1])))
    try:
        print(install_perf_analyzer(Path(sys.argv[1])))
    except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
        print(f"without perf_analyzer: {error}", file=sys.stderr)
