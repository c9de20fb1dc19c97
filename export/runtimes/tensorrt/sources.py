"""Which code built an engine: a digest of this program's version and of the files that decide what is built.

A version alone would not do: in a development checkout it stays while the code changes, and a plan kept from other code
would be measured as if it were of this.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from limpq_deploy.calibration.version import __version__

FOLDER = Path(__file__).resolve().parents[2]

SOURCES = (
    "graph/graph_rules.py",
    "graph/loading.py",
    "graph/onnx_files.py",
    "graph/tensor_data.py",
    "graph/to_float16.py",
    "records/engine_options.py",
    "records/engine_record.py",
    "records/targets/base.py",
    "records/targets/tensorrt.py",
    "records/tensorrt_versions.py",
    "runtimes/tensorrt/bindings.py",
    "runtimes/tensorrt/build.py",
    "runtimes/tensorrt/inspect.py",
    "runtimes/tensorrt/precision.py",
    "runtimes/tensorrt/runtime.py",
)
"""Files of `export` that read a model, set the builder, write floats as FP16, choose among builds, and describe what
came out. Logs, device memory and timed calls are no part of an engine."""


@cache
def builder_digest() -> str:
    """Of the code as it is when it is first asked for; a few milliseconds, once in a process."""
    return digest_of(__version__, (FOLDER / name for name in SOURCES))


def digest_of(version: str, sources: Iterable[Path]) -> str:
    """SHA-256 of a version and of files, names and bytes. A file that is not there, as where only compiled modules
    are installed, counts by its name: the version tells such installations apart."""
    found = hashlib.sha256(version.encode())
    for source in sources:
        data = source.read_bytes() if source.is_file() else b""
        found.update(f"\n{source.name} {len(data)}\n".encode() + data)
    return found.hexdigest()
