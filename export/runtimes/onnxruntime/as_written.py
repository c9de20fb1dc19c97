"""ONNX Runtime with every optimisation off: the arithmetic that a file itself describes, node by node."""

from pathlib import Path

from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime, OrtSession, open_as_written


class AsWritten(OnnxRuntime):
    """Executes a file of any target as it stands. What the target's own runtime makes of it, and how fast, is not seen
    here."""

    name = "onnxruntime, optimisations off"

    def load(self, path: Path, *, threads: int | None = None) -> OrtSession:
        return open_as_written(load_model(path))
