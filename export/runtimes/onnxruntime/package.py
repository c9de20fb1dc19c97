"""The package onnxruntime, imported when it is asked for; onnxruntime-gpu brings the same module."""

import os
from types import ModuleType
from typing import Any

from limpq_deploy.calibration.errors import MissingExtra, RuntimeUnavailable
from limpq_deploy.calibration.threads import most_threads


def load_onnxruntime(package: str, extra: str) -> ModuleType:
    """The module. Raises MissingExtra that names package and extra, RuntimeUnavailable where it does not load.

    It sends nothing to its makers: from 1.32 it would, unless it is told not to before it is loaded.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{package} is not installed; run pip install 'limpq-deploy[{extra}]'") from error
    except (ImportError, OSError) as error:
        raise RuntimeUnavailable(f"onnxruntime is installed but does not load ({error}); install it again") from error
    return onnxruntime


def compute_on(settings: Any, threads: int | None) -> None:
    """Let the session of these SessionOptions have so many threads; None: `most_threads`, or the runtime's choice."""
    count = most_threads() if threads is None else threads
    if count is not None:
        settings.intra_op_num_threads = count
        settings.inter_op_num_threads = 1
