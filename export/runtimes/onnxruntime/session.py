"""ONNX Runtime on a CPU."""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from limpq_deploy.calibration.errors import MissingExtra, ModelError, RuntimeUnavailable
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.threads import most_threads
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.pixel_input import as_pixels
from limpq_deploy.export.graph.runtime_taps import Watch, file_name, layer_precision, watches, with_outputs
from limpq_deploy.export.graph.written import write_model
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.runtimes.cpu import Cpu, this_cpu
from limpq_deploy.export.runtimes.onnxruntime.package import compute_on, load_onnxruntime
from limpq_deploy.export.runtimes.onnxruntime.written import no_room, read_graph
from limpq_deploy.export.runtimes.trial import Trial, random_feeds, signal_db, takes_indices

PROVIDER = "CPUExecutionProvider"
SATURATION_OPTION = "session.x64quantprecision"
EXACT_PAIR_WEIGHT = 64
"""Largest |weight| for which 2 * 255 * |weight| fits into 16 signed bits: weights of at most 7 bits."""


class OnnxRuntime:
    """ONNX Runtime's CPU provider, at its highest level of graph optimisation."""

    name = "onnxruntime"

    def __init__(self, cpu: Cpu | None = None) -> None:
        """``cpu`` None: the one that this process runs on; another to see what would be chosen there."""
        self._cpu = cpu or this_cpu()

    def unavailable(self) -> str | None:
        try:
            ort = _onnxruntime()
        except (MissingExtra, RuntimeUnavailable) as error:
            return str(error)
        if PROVIDER not in ort.get_available_providers():
            return f"onnxruntime {ort.__version__} has no {PROVIDER}; install a build that has it"
        return None

    def load(self, path: Path, *, threads: int | None = None) -> "OrtSession":
        model = load_model(path)
        options = precision_options(model, self._cpu)
        count = most_threads() if threads is None else threads
        return OrtSession(_open(model.SerializeToString(), options, count), self._cpu, options, count)

    def watch(self, path: Path, *, threads: int | None = None) -> "OrtWatchedSession":
        return OrtWatchedSession(load_model(path), self.optimized_graph(path), threads)

    def watch_as(
        self, form: onnx.ModelProto, optimized: onnx.ModelProto, *, threads: int | None = None
    ) -> "OrtWatchedSession":
        """An optimised graph, watched at the code tensors of ``form``, which means what its file means."""
        return OrtWatchedSession(form, optimized, threads)

    def optimized_graph(self, path: Path) -> onnx.ModelProto:
        model = load_model(path)
        return _optimized(model.SerializeToString(), precision_options(model, self._cpu), optimise=True)

    def trial(self, model: onnx.ModelProto) -> Trial:
        """Load, run once with random numbers, and run again as written."""
        with tempfile.TemporaryDirectory() as folder:
            return self._trial(model, _file_or_bytes(model, Path(folder) / "tried.onnx"))

    def _trial(self, model: onnx.ModelProto, data: bytes | Path) -> Trial:
        try:
            session, optimized, options = _tried(data, precision_options(model, self._cpu))
        except ModelError as error:
            return Trial(refused=str(error), optimized=None, signal_db=None)
        feeds = random_feeds(session)
        if feeds is None:
            return Trial(refused=None, optimized=optimized, signal_db=None)
        try:
            results = session.run(None, feeds)
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            refused = None if takes_indices(session) else " ".join(str(error).split())
            return Trial(refused=refused, optimized=optimized, signal_db=None)
        del session  # each has all weights, in a form of its own
        try:
            as_written = _open(data, options, 1, optimise=False).run(None, feeds)
        except Exception:  # nothing to compare with: the optimised graph is what runs
            return Trial(refused=None, optimized=optimized, signal_db=None)
        return Trial(refused=None, optimized=optimized, signal_db=signal_db(results, as_written))

    def engine(self, path: Path, *, threads: int | None = None) -> Engine:
        model = load_model(path)
        return Engine(
            model_sha256=sha256_of(path),
            runtime=self.name,
            version=_onnxruntime().__version__,
            provider=PROVIDER,
            threads=threads,
            options=precision_options(model, self._cpu),
            layer_precision=layer_precision(model, self.optimized_graph(path)),
        )


class OrtSession:
    """A model loaded into ONNX Runtime. ``takes_pixels``: its images are uint8; they may be given as floats.
    ``results``: outputs that are asked for; None for all."""

    def __init__(
        self, session: Any, cpu: Cpu, options: dict[str, str], threads: int | None, results: list[str] | None = None
    ) -> None:
        self._session, self._cpu, self._options, self._threads = session, cpu, options, threads
        self._results = [output.name for output in session.get_outputs()] if results is None else results
        self._input = session.get_inputs()[0]
        self._output = session.get_outputs()[0].name
        self.takes_pixels: bool = self._input.type == "tensor(uint8)"

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        return tuple(size if isinstance(size, int) else None for size in self._input.shape)

    def run(self, images_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._run([self._output], images_NCHW)[0]
        return logits

    def run_all(self, images_NCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        return tuple(self._run(self._results, images_NCHW))

    def _run(self, names: list[str], images_NCHW: NDArray[np.float32]) -> list[Any]:
        given = as_pixels(images_NCHW) if self.takes_pixels else images_NCHW
        try:
            found: list[Any] = self._session.run(names, {self._input.name: given})
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            raise ModelError(
                f"onnxruntime cannot run the model on images of shape {list(images_NCHW.shape)} "
                f"({str(error).splitlines()[0]}); expected a model of one float32 input NCHW"
            ) from error
        return found

    def run_feeds(self, feeds: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """All results by name, for a model of one or more inputs. Raises ModelError where it cannot be run on them."""
        try:
            return dict(zip(self._results, self._session.run(self._results, dict(feeds)), strict=True))
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
            reason = str(error).splitlines()[0]
            raise ModelError(f"onnxruntime cannot run the model on inputs of shape {shapes} ({reason})") from error

    def environment(self) -> dict[str, Any]:
        return {
            "runtime": "onnxruntime",
            "version": _onnxruntime().__version__,
            "provider": self._session.get_providers()[0],
            "threads": self._threads,
            "cores": os.cpu_count(),
            "cpu": self._cpu.model,
            "vnni": self._cpu.vnni,
            "options": self._options,
        }


class OrtWatchedSession:
    """The graph that ONNX Runtime made of a model, run as it is with its inner codes as outputs.

    The optimised graph is saved, outputs are added to it, and it is loaded again with optimisation off: so the fusions
    are those of the unwatched session. Raises ModelError should the loaded graph nevertheless differ.
    """

    def __init__(self, model: onnx.ModelProto, optimized: onnx.ModelProto, threads: int | None) -> None:
        self._watches: dict[str, Watch]
        self._watches, self._unwatched = watches(model, optimized)
        data = with_outputs(optimized, self._watches.values()).SerializeToString()
        self.optimized = optimized
        self.executed = _optimized(data, {}, optimise=False)
        if _histogram(self.executed) != _histogram(optimized):
            raise ModelError("watching this model changes what ONNX Runtime executes; parity cannot be shown this way")
        self._session = _open(data, {}, threads, optimise=False)
        self._input = self._session.get_inputs()[0].name
        self._logits = self._session.get_outputs()[0].name

    @property
    def watched(self) -> tuple[str, ...]:
        return tuple(self._watches)

    @property
    def unwatched(self) -> dict[str, str]:
        return self._unwatched

    def run(self, images_NCHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, NDArray[np.generic]]]:
        names = [self._logits, *(watch.tensor for watch in self._watches.values())]
        logits, *codes = self._session.run(names, {self._input: images_NCHW})
        found = zip(self._watches.items(), codes, strict=True)
        return logits, {name: watch.in_file_layout(value) for (name, watch), value in found}


def precision_options(model: onnx.ModelProto, cpu: Cpu) -> dict[str, str]:
    """Session options without which a CPU may compute wrong integers for this model.

    On x86 without VNNI, or where the CPU is not known, weights beyond 7 bits need ``session.x64quantprecision``: the
    default kernel adds pairs of u8 * s8 products in 16 bits and saturates.
    """
    if cpu.may_saturate and largest_weight_code(model) > EXACT_PAIR_WEIGHT:
        return {SATURATION_OPTION: "1"}
    return {}


def opened(
    model: onnx.ModelProto, kinds: Mapping[str, str], *, threads: int | None
) -> Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
    """A model of any inputs and outputs as a function from inputs to outputs by name, optimised where that makes of
    its nodes the operators ``kinds`` (by node name), else as it is written."""
    data, options = model.SerializeToString(), precision_options(model, this_cpu())
    made = {file_name(node): node.op_type for node in _optimized(data, options, optimise=True).graph.node}
    optimise = made.items() >= kinds.items()
    session = _open(data, options, threads, optimise=optimise)
    names = [output.name for output in session.get_outputs()]
    return lambda values: dict(zip(names, session.run(names, dict(values)), strict=True))


def open_as_written(model: onnx.ModelProto, outputs: Iterable[str] = ()) -> OrtSession:
    """A session that executes every node as it stands in the file, with further tensors as results.

    ONNX Runtime (1.32) computes FP16 layers in FP32 on a CPU, between two Casts of its own, and takes such a Cast
    together with the file's own behind it, whatever the settings: the layer's result is then never rounded to FP16.
    A Cast of which both ends are outputs of the graph stays.
    """
    own = [output.name for output in model.graph.output]
    results = list(dict.fromkeys([*own, *outputs]))
    given = {value.name for value in (*model.graph.input, *model.graph.initializer)}.union(results)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    cast = dict.fromkeys(name for node in casts for name in (node.input[0], node.output[0]) if name not in given)
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in [*results[len(own) :], *cast]:
                model.graph.output.append(helper.make_empty_tensor_value_info(name))
            data = _file_or_bytes(model, Path(folder) / "shown.onnx")
        finally:
            del model.graph.output[len(own) :]
        return OrtSession(_open(data, {}, None, optimise=False), this_cpu(), {}, None, results)


def _file_or_bytes(model: onnx.ModelProto, path: Path) -> Path | bytes:
    """A file, of which ONNX Runtime holds no copy; bytes, where there is no room for one."""
    try:
        write_model(path, model)
    except OSError:
        return bytes(model.SerializeToString())
    return path


def largest_weight_code(model: onnx.ModelProto) -> int:
    """Largest |code| among the int8 initializers; 0 where there is none."""
    tensors = [entry for entry in model.graph.initializer if entry.data_type == onnx.TensorProto.INT8]
    return max(
        (int(np.abs(numpy_helper.to_array(entry).astype(np.int16)).max(initial=0)) for entry in tensors), default=0
    )


def _onnxruntime() -> ModuleType:
    return load_onnxruntime("onnxruntime", "cpu")


def _open(
    data: bytes | Path,
    options: dict[str, str],
    threads: int | None,
    *,
    optimise: bool = True,
    save: Path | None = None,
) -> Any:
    """``data``: a model, or the file of one, of which no copy is held."""
    ort = _onnxruntime()
    settings = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    settings.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    settings.log_severity_level = 4  # errors are raised; a saved graph draws a warning about other machines
    compute_on(settings, threads)
    if save is not None:
        settings.optimized_model_filepath = str(save)
    for name, value in options.items():
        settings.add_session_config_entry(name, value)
    try:
        session = ort.InferenceSession(str(data) if isinstance(data, Path) else data, settings, providers=[PROVIDER])
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        if save is not None and "serialization failed" in str(error):
            raise no_room(save, "the graph") from error
        raise ModelError(f"onnxruntime refuses the model: {str(error).splitlines()[0]}; export it again") from error
    if session.get_providers() != [PROVIDER]:
        raise RuntimeUnavailable(f"onnxruntime took {session.get_providers()} where {PROVIDER} was asked for")
    return session


def _optimized(data: bytes | Path, options: dict[str, str], *, optimise: bool) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "optimized.onnx"
        _open(data, options, 1, optimise=optimise, save=saved)
        return read_graph(saved)


def _tried(data: bytes | Path, options: dict[str, str]) -> tuple[Any, onnx.ModelProto, dict[str, str]]:
    """A session, the graph that it executes and its options; without options where those make the file unloadable, as
    ``session.x64quantprecision`` does with some files of QLinearConv operators."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "optimized.onnx"
        try:
            return _open(data, options, 1, save=saved), read_graph(saved), options
        except ModelError:
            if not options:
                raise
        return _open(data, {}, 1, save=saved), read_graph(saved), {}


def _histogram(model: onnx.ModelProto) -> dict[tuple[str, str], int]:
    """Operators counted; not DequantizeLinear, which may stand once for several readers or once for each."""
    counts: dict[tuple[str, str], int] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            continue
        key = (node.domain, node.op_type)
        counts[key] = counts.get(key, 0) + 1
    return counts
