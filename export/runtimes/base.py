"""What every inference runtime offers: load a model, run it, say what it made of the model, and be watched."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.engine_record import Plan
from limpq_deploy.export.runtimes.trial import Trial

INTEGER = ("u8s8", "s8s8", "u8u8", "s8u8")
"""Precisions of layers that run in integers, as `Engine.layer_precision` spells them."""

FLOAT8 = "float8"
"""The precision of layers whose products are of FP8 numbers."""

CODED = (*INTEGER, FLOAT8)
"""Precisions of layers whose products are of codes, as a file plans them."""


def keeps_plan(planned: str, found: str) -> bool:
    """Whether a layer that a file plans on codes runs on codes of that kind."""
    return found == FLOAT8 if planned == FLOAT8 else found in INTEGER


class NoGraph(ModelError):
    """A runtime does not show the graph that it executes, or its inner codes."""


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


@runtime_checkable
class SeveralOutputs(Protocol):
    """A session that hands out every output of its model."""

    def run_all(self, images_NCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """All outputs of a batch of images [batch, ...], in the order of the file."""
        ...


def every_output(session: Any) -> Callable[[NDArray[np.float32]], Any]:
    """Images -> all outputs of a session's model; of one that hands out only the first, that."""
    run: Callable[[NDArray[np.float32]], Any] = session.run
    return session.run_all if isinstance(session, SeveralOutputs) else run


def in_rows(outputs: Any) -> NDArray[np.float32]:
    """All numbers that a model gives, one row an image [N, numbers]; logits as they are. Integers (classes of pixels,
    places) become float32, which holds them up to 2^24."""
    each = outputs if isinstance(outputs, tuple) else (outputs,)
    rows = [one.reshape(len(one), -1) for one in each]
    rows = [one if one.dtype.kind == "f" else one.astype(np.float32) for one in rows]
    return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)


class DeviceCall(Protocol):
    """A timed call of a session whose device keeps a clock of its own; a `timing_loop.PartedCall`.

    Parts, in milliseconds of the last call: "compute" (the figure) and "copy_in", "copy_out" by the device's clock,
    "enqueue" by the host's. ``mode``: how work is handed to the device, "enqueue" or "cuda graph"; figures of different
    modes are not compared.
    """

    @property
    def main_part(self) -> str: ...

    @property
    def mode(self) -> str: ...

    def __call__(self) -> object: ...

    def parts_ms(self) -> Mapping[str, float]: ...


@runtime_checkable
class DeviceTimed(Protocol):
    """A session of a device with a clock of its own."""

    def timed(self, batches: Sequence[NDArray[np.float32]], *, graph: bool = True, streams: int = 1) -> DeviceCall:
        """A call that runs these batches (of one size) in turn. ``graph``: capture a CUDA graph where that works;
        ``streams``: run so many batches at once."""
        ...

    def layer_times(self, images_NCHW: NDArray[np.float32], runs: int) -> dict[str, tuple[float, ...]]:
        """Milliseconds of each layer of the engine, by its own name, in each of so many profiled runs."""
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
        """Load a model file. ``threads`` None: `most_threads`, or the runtime's own choice. Raises MissingExtra,
        RuntimeUnavailable or ModelError."""
        ...

    def watch(self, path: Path, *, threads: int | None = None) -> WatchedSession:
        """Load a model file with its inner codes as further results. Raises NoGraph where a runtime hides them."""
        ...

    def optimized_graph(self, path: Path) -> onnx.ModelProto:
        """The graph that the runtime executes, after its optimisations. Raises NoGraph where it shows none."""
        ...

    def engine(self, path: Path, *, threads: int | None = None) -> "Engine":
        """What the runtime makes of a model file."""
        ...


@runtime_checkable
class Tries(Protocol):
    """A runtime that shows on the spot what it makes of a file."""

    def trial(self, model: onnx.ModelProto) -> Trial: ...


@runtime_checkable
class BuildsEngines(Runtime, Protocol):
    """A runtime that compiles models, by settings of its builder."""

    @property
    def options(self) -> EngineOptions: ...

    def with_options(self, options: EngineOptions) -> Runtime:
        """The same runtime with other settings; engines of both can be loaded at once."""
        ...


@runtime_checkable
class KeepsPlans(Protocol):
    """A runtime that compiles a model and keeps what it made."""

    def built(self, path: Path) -> tuple["Engine", Path]:
        """The engine of a model file, and where its plan lies; built now where there is none yet."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A runtime that takes long to make an engine, and tells how far it is."""

    def report_to(self, report: Callable[[int, int, str], None]) -> None:
        """Call ``report`` with steps done, steps in all, and what is being done, from now on."""
        ...


@runtime_checkable
class BuildsElsewhere(Protocol):
    """A runtime whose engines are built on machines that cannot run them."""

    def cannot_build(self) -> str | None:
        """Why it builds no engine here, in one sentence; None where it does. `Runtime.unavailable` is about running."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What a runtime made of a model.

    ``layer_precision``: for each Conv and Gemm of the file, by layer name, the types that the optimised graph itself
    shows: ``u8s8`` (activations, weights), ``float32`` or ``float16`` where the layer stayed float, ``absent`` where no
    node of it is found. ``plan``: of a runtime that compiles, what it made and where; None for one that does not.
    """

    model_sha256: str
    runtime: str
    version: str
    provider: str
    threads: int | None
    options: dict[str, str]
    layer_precision: dict[str, str]
    plan: Plan | None = None
    format: Literal["limpq.engine/1"] = field(default="limpq.engine/1")

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Layers that the optimised graph does not show to run on codes, integers or FP8, planned or not."""
        return tuple(name for name, precision in self.layer_precision.items() if precision not in CODED)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledEngine(Engine):
    """An engine as its compiler's own list of layers shows it, without a run.

    ``compiler``: product and version. ``capabilities``: that it is for, by name. ``layers``: Conv and Gemm layers of
    the file, ``integer_layers``: those whose products are of integers, ``fp8_layers``: of FP8 (None in older files).
    ``kernels``: what one call launches.
    ``moved_bytes``: that they read and write, without weights, for "batch_1" and "batch_8", each by an engine that is
    tuned for that batch; None where this one does not take it. ``moved_by_type``: the same by type. ``weight_bytes``:
    None where the log does not say.
    """

    compiler: str
    capabilities: tuple[str, ...]
    kernels: int
    integer_layers: int
    layers: int
    moved_bytes: dict[str, int | None]
    moved_by_type: dict[str, dict[str, int]]
    weight_bytes: int | None
    fp8_layers: int | None = None
