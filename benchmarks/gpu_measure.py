"""What the GPU benchmark measures of one model: engines, parity, saturated grids, latency, audit, profile, study.

An engine that cannot be built, or does not run, costs its own figures and no others. No torch.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from gpu_files import FLOAT_FILE, PAIRS, load_edges, load_placement, load_reference

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.markers import with_markers
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.reference.engine_parity import check_clips, compare_engine
from limpq_deploy.export.runtimes.base import DeviceTimed, Engine, KeepsPlans, Runtime, Session
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import BY_NUMBER
from limpq_deploy.export.runtimes.tensorrt_rtx.runtime import TensorRtRtx
from limpq_deploy.export.timing.engine_audit import audit
from limpq_deploy.export.timing.measure import measure_models
from limpq_deploy.export.timing.profile import ProfileSettings, mixed_policies, profile, uniform
from limpq_deploy.export.timing.trtexec import time_plan
from limpq_deploy.latency.study import NATIVE_SWEEP, narrow_policies
from limpq_deploy.latency.study_times import time_study

MakeRuntime = Callable[[EngineOptions], Runtime]

ENGINES: dict[str, tuple[str, EngineOptions]] = {
    "fp32": (FLOAT_FILE, EngineOptions(float_type="float32", tf32=False)),
    "tf32": (FLOAT_FILE, EngineOptions(float_type="float32")),
    "fp16": (FLOAT_FILE, EngineOptions()),
    "int8": ("int8.onnx", EngineOptions()),
    "mixed": ("mixed.onnx", EngineOptions()),
}
"""Engines by name: file and settings. FP16 of the float file is the builder's flag, or written (TensorRT 11)."""

STUDY_MIXED, STUDY_BITS = 3, (2, 4, 8)
"""Mixed graphs of the study, beside those of INT8 and FP16 throughout, and bits of its narrow sweep."""

Part = Callable[["Bench"], Any]


class Bench:
    """One model's files and the runtimes of its engines, by the engines' names."""

    def __init__(self, folder: Path, make: MakeRuntime, *, quick: bool) -> None:
        self.folder, self.quick, self.make = folder, quick, make
        self.paths = {name: folder / file for name, (file, _) in ENGINES.items()}
        self.runtimes = {name: make(options) for name, (_, options) in ENGINES.items()}
        self._built: dict[str, Engine | Exception] = {}

    def engine(self, name: str) -> Engine:
        """An engine's record. What could not be built is not tried again: it would take as long to fail."""
        if name not in self._built:
            try:
                self._built[name] = self.runtimes[name].engine(self.paths[name])
            except Exception as error:
                self._built[name] = error
        found = self._built[name]
        if isinstance(found, Exception):
            raise found
        return found

    def engines(self) -> dict[str, Any]:
        """Records of all engines."""
        return each(self.paths, lambda name: to_dict(self.engine(name)))

    def first_parity(self) -> dict[str, Any]:
        """Of one INT8 engine: what nothing but a GPU can tell."""
        return {"int8": self._parity("int8")}

    def first_latency(self) -> dict[str, Any]:
        """Of that engine against FP16, at batch 1."""
        return self._timed(("fp16", "int8"), self.runtimes, batches=(1,), streams=(1,))

    def parity(self) -> dict[str, Any]:
        """Layer by layer against the file as written; and whether saturated grids hold."""
        return each(("int8", "mixed"), self._parity)

    def _parity(self, name: str, runtime: Runtime | None = None) -> dict[str, Any]:
        runtime = runtime or self.runtimes[name]
        cut, cuts, reference = load_reference(self.folder / f"{name}.onnx")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{name}.cut.onnx"
            onnx.save(cut, path)
            session: Any = runtime.load(path)
        report = compare_engine(self.folder / f"{name}.onnx", cuts, [reference], session.run_feeds, {})
        clips = check_clips(load_model(self.folder / f"{name}.onnx"), cuts, session.run_feeds)
        logits = runtime.load(self.paths[name]).run(next(iter(reference.feeds.values())))
        expected = next(iter(reference.ends.values()))
        return {
            "codes": report.elements,
            "mismatches": report.mismatches,
            "max_lsb": report.max_lsb,
            "tensors": [to_dict(one) for one in report.tensors if one.mismatches],
            "clips": to_dict(clips),
            "end_to_end_logits": {
                "max_difference": float(np.abs(logits - expected).max()),
                "range": float(np.ptp(expected)),
                "top1_equal": bool((logits.argmax(1) == expected.argmax(1)).all()),
            },
        }

    def latency(self) -> dict[str, Any]:
        """All engines in turns, at batch 1 and 32, alone and four at once; without those that do not run."""
        batches, streams = ((1,), (1, 2)) if self.quick else ((1, 32), (1, 4))
        return self._timed(self.paths, self.runtimes, batches=batches, streams=streams)

    def rtx(self) -> dict[str, Any]:
        """INT8 and FP16 engines of TensorRT-RTX: parity and latency. Raises NotHere where it serves another GPU."""
        runtime = rtx_runtime(self.runtimes["int8"])
        runtimes = dict.fromkeys(("fp16", "int8"), runtime)
        batches = (1,) if self.quick else (1, 32)
        return {
            "parity": {"int8": self._parity("int8", runtime)},
            "latency": self._timed(runtimes, runtimes, batches=batches, streams=(1,)),
        }

    def _timed(
        self,
        names: Iterable[str],
        runtimes: Mapping[str, Runtime],
        *,
        batches: Sequence[int],
        streams: Sequence[int],
    ) -> dict[str, Any]:
        """Engines in turns, without those that do not run."""
        tried = each(names, lambda name: self._runs(name, runtimes[name]))
        running = {name: self.paths[name] for name in tried if tried[name] is None}
        found = measure_models(
            running,
            settings=("default",),
            seconds=0.3 if self.quick else 2.0,
            runtime=runtimes[next(iter(running))],
            runtimes={name: runtimes[name] for name in running},
            batches=batches,
            streams=streams,
            trtexec=False,  # a part of its own
        )
        return to_dict(found) | {"left_out": {name: why["failed"] for name, why in tried.items() if why is not None}}

    def _runs(self, name: str, runtime: Runtime) -> None:
        """Raises where an engine cannot be built or run."""
        if runtime is self.runtimes[name]:
            self.engine(name)
        session: Any = runtime.load(self.paths[name])
        session.run(np.zeros(self._shape(session), np.float32))
        if hasattr(session, "close"):
            session.close()

    def profile(self) -> dict[str, Any]:
        """The latency table of INT8 and FP16, with what it predicts of graphs that it did not know."""
        graphs, seconds = (2, 0.1) if self.quick else (8, 1.0)
        table = profile(
            with_markers(load_model(self.folder / FLOAT_FILE)),
            load_placement(self.folder),
            load_edges(self.folder),
            self.make(EngineOptions()),
            ProfileSettings(seconds=seconds, mixed=graphs),
            pairs=PAIRS,
        )
        errors = [
            abs(one.predicted_ms / one.measured_ms - 1) for one in table.observations if one.predicted_ms is not None
        ]
        return {
            "table": to_dict(table),
            "median_prediction_error": float(np.median(errors)) if errors else None,
            "worst_prediction_error": max(errors, default=None),
        }

    def study(self) -> dict[str, Any]:
        """How far BitOps predict latency: graphs of INT8 and FP16, those of the profile, whose engines are there then,
        and of 2 to 8 bits."""
        seconds = 0.1 if self.quick else 1.0
        template, placement = with_markers(load_model(self.folder / FLOAT_FILE)), load_placement(self.folder)
        searched = [layer.name for layer in placement.searched]
        native = {
            **{uniform(pair): dict.fromkeys(searched, pair) for pair in PAIRS},
            **mixed_policies(placement, PAIRS, STUDY_MIXED, seed=0),
        }
        policies = {f"{NATIVE_SWEEP}{name}": policy for name, policy in native.items()}
        policies |= narrow_policies(placement, STUDY_BITS)
        return to_dict(
            time_study(template, placement, policies, self.make(EngineOptions()), ProfileSettings(seconds=seconds))
        )

    def audit(self) -> dict[str, Any]:
        """INT8 and mixed against FP16, layer by layer, profiled in runs of their own."""
        plain = each(("fp16",), lambda name: (self.engine(name), self._layer_times(name)), all_may_fail=True)["fp16"]
        floats = dict[str, Any]()
        if isinstance(plain, tuple):
            float_model = load_model(self.paths["fp16"])
            floats = {"float_model": float_model, "float_engine": plain[0], "float_samples": plain[1]}

        def one(name: str) -> dict[str, Any]:
            model, engine = load_model(self.paths[name]), self.engine(name)
            found = to_dict(audit(model, engine, self._layer_times(name), **floats))
            return found | ({} if floats else {"without_float": plain["failed"]})

        return each(("int8", "mixed"), one)

    def trtexec(self) -> dict[str, Any]:
        """NVIDIA's figures for the same plans at batch 1."""
        return each(("fp16", "int8", "mixed"), self._trtexec)

    def _trtexec(self, name: str) -> dict[str, Any]:
        runtime = self.runtimes[name]
        if not isinstance(runtime, KeepsPlans):
            raise OSError("this runtime keeps no plans")
        self.engine(name)
        entry = load_model(self.paths[name]).graph.input[0]
        shape = (1, *(size.dim_value for size in entry.type.tensor_type.shape.dim[1:]))
        plan = runtime.built(self.paths[name])[1]
        medians, arguments = time_plan(plan, entry.name, shape, seconds=1.0 if self.quick else 3.0)
        return {"command": list(arguments), "median_ms": medians}

    def spread(self) -> dict[str, Any]:
        """Three INT8 builds, each timing its kernels anew."""
        options = EngineOptions(builds=2 if self.quick else 3)
        engine = self.make(options).engine(self.paths["int8"])
        assert engine.plan is not None
        return {"builds": [to_dict(one) for one in engine.plan.builds], "spread": engine.plan.spread}

    def _layer_times(self, name: str) -> dict[str, tuple[float, ...]]:
        session = self.runtimes[name].load(self.paths[name])
        assert isinstance(session, DeviceTimed), "this runtime profiles no layers"
        images = np.random.default_rng(0).standard_normal(self._shape(session)).astype(np.float32)
        return session.layer_times(images, 10 if self.quick else 100)

    @staticmethod
    def _shape(session: Session) -> tuple[int, ...]:
        """Of one image."""
        return (1, *(size or 1 for size in session.input_shape[1:]))


HEAD: dict[str, Part] = {"first_parity": Bench.first_parity, "first_latency": Bench.first_latency}
"""What nothing else can tell, of the first model, before anything else: an hour that ends early has told that."""
FIRST: dict[str, Part] = {"engines": Bench.engines, "parity": Bench.parity, "latency": Bench.latency}
"""What every model is to have before any has more."""
THEN: dict[str, Part] = {
    "audit": Bench.audit,
    "rtx": Bench.rtx,
    "profile": Bench.profile,
    "study": Bench.study,
    "spread": Bench.spread,
    "trtexec": Bench.trtexec,
}
"""Of all models in turn; the last ones are left out where time is up."""


def in_order(models: Iterable[str]) -> list[tuple[str, str]]:
    """Models and parts as they are measured."""
    names = list(models)
    head = [(name, part) for name in names[:1] for part in HEAD]
    return head + [(name, part) for name in names for part in FIRST] + [(name, part) for part in THEN for name in names]


def measure_part(bench: Bench, part: str) -> dict[str, Any]:
    """A part's result, or what failed: one part's fault must not take the others' figures with it."""
    start = time.monotonic()
    try:
        found = {"result": (HEAD | FIRST | THEN)[part](bench)}
    except NotHere as why:
        found = {"skipped": str(why)}
    except Exception as error:
        found = {"failed": reason(error)}
    return {**found, "seconds": round(time.monotonic() - start, 1)}


class NotHere(LimpqError):
    """A part that this machine has nothing for."""


def rtx_runtime(beside: Runtime) -> Runtime:
    """TensorRT-RTX for the GPU that a runtime of TensorRT is on. Raises NotHere where it does not serve that one, or is
    not installed."""
    machine = beside.machine()  # type: ignore[attr-defined]
    capability = BY_NUMBER.get(machine.compute_capability)
    if capability is None:
        raise NotHere(
            f"{machine.gpu} has compute capability {machine.compute_capability}, and TensorRT-RTX builds for "
            f"{', '.join(BY_NUMBER)} only: no RTX engine was built"
        )
    runtime = TensorRtRtx(EngineOptions(gpus=(capability.name,)))
    if (why := runtime.unavailable()) is not None:
        raise NotHere(why)
    return runtime


def each(names: Iterable[str], work: Callable[[str], Any], *, all_may_fail: bool = False) -> dict[str, Any]:
    """The work on each, or ``{"failed": why}``. Raises what the last one raised where all fail, unless they may."""
    found: dict[str, Any] = {}
    errors: list[Exception] = []
    for name in names:
        try:
            found[name] = work(name)
        except Exception as error:
            found[name] = {"failed": reason(error)}
            errors.append(error)
    if errors and len(errors) == len(found) and not all_may_fail:
        raise errors[-1]
    return found


def reason(error: Exception) -> str:
    """An error of ours is a sentence; another's kind says more than its text."""
    return str(error) if isinstance(error, LimpqError | AssertionError) else f"{type(error).__name__}: {error}"
