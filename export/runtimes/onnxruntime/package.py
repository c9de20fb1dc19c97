"""The package onnxruntime, imported when it is asked for; onnxruntime-gpu brings the same module."""

import os
from types import ModuleType

from limpq_deploy.calibration.errors import MissingExtra, RuntimeUnavailable


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
