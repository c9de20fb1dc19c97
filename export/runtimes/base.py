"""What every inference runtime offers: load a model, run it, say what it made of the model, and be watched."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray


class Session(Protocol):
    """A loaded model."""

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the input, batch first; None where it is free."""
        ...

    def run(self, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [batch, classes] of a batch of images."""
        ...

    def environment(self) -> dict[str, Any]:
        """Versions, provider, threads and options under which this session runs; JSON values."""
        ...


class WatchedSession(Protocol):
    """A model whose inner codes can be read while it runs exactly the kernels of the unwatched session."""

    @property
    def watched(self) -> tuple[str, ...]:
        """Tensors of the model's file whose codes come out."""
        ...

    @property
    def unwatched(self) -> dict[str, str]:
        """Code tensors that the runtime does not compute, each with the reason."""
        ...

    def run(self, images_NCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, NDArray[np.generic]]]:
        """Logits, and codes by tensor name, in the layout of the model's file."""
        ...


class Runtime(Protocol):
    """One inference runtime."""

    @property
    def name(self) -> str: ...

    def unavailable(self) -> str | None:
        """Why it cannot be used here, in one sentence that says what to do; None where it can."""
        ...

    def load(self, path: Path, *, threads: int | None = None) -> Session:
        """Load a model file. ``threads`` None: the runtime's own choice. Raises MissingExtra, RuntimeUnavailable or
        ModelError."""
        ...

    def watch(self, path: Path, *, threads: int | None = None) -> WatchedSession:
        """Load a model file with its inner codes as further results."""
        ...

    def optimized_graph(self, path: Path) -> onnx.ModelProto:
        """The graph that the runtime executes, after its optimisations."""
        ...

    def engine(self, path: Path, *, threads: int | None = None) -> "Engine":
        """What the runtime makes of a model file."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What a runtime made of a model.

    ``layer_precision``: for each Conv and Gemm of the file, by layer name, the types that the optimised graph itself
    shows: ``u8s8`` (activations, weights), ``float32`` where the layer stayed float, ``absent`` where no node of it is
    found.
    """

    model_sha256: str
    runtime: str
    version: str
    provider: str
    threads: int | None
    options: dict[str, str]
    layer_precision: dict[str, str]
    format: Literal["limpq.engine/1"] = field(default="limpq.engine/1")

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Layers that the optimised graph does not show to run in integers."""
        return tuple(name for name, precision in self.layer_precision.items() if precision in ("float32", "absent"))
