"""What the GPU benchmark measures of one model: engines, parity, saturated grids, latency, profile, audit. No torch."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from gpu_files import FLOAT, PAIRS, load_edges, load_placement, load_reference
from trtexec import time_plan

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.engine_audit import audit
from limpq_deploy.export.engine_options import EngineOptions
from limpq_deploy.export.engine_parity import check_clips, compare_engine
from limpq_deploy.export.loading import load_model
from limpq_deploy.export.markers import with_markers
from limpq_deploy.export.measure import measure_models
from limpq_deploy.export.profile import ProfileSettings, profile
from limpq_deploy.export.runtimes.base import DeviceTimed, Engine, Runtime

MakeRuntime = Callable[[EngineOptions], Runtime]

ENGINES: dict[str, tuple[str, EngineOptions]] = {
    "fp32": (FLOAT, EngineOptions(float_type="float32", tf32=False)),
    "tf32": (FLOAT, EngineOptions(float_type="float32")),
    "fp16": (FLOAT, EngineOptions()),
    "int8": ("int8.onnx", EngineOptions()),
    "mixed": ("mixed.onnx", EngineOptions()),
}
"""Engines by name: file and settings. FP16 of the float file is the builder's flag, or written (TensorRT 11)."""

Part = Callable[["Bench"], Any]


class Bench:
    """One model's files and the runtimes of its engines, by the engines' names."""

    def __init__(self, folder: Path, make: MakeRuntime, *, quick: bool) -> None:
        self.folder, self.quick, self.make = folder, quick, make
        self.paths = {name: folder / file for name, (file, _) in ENGINES.items()}
        self.runtimes = {name: make(options) for name, (_, options) in ENGINES.items()}

    def engines(self) -> dict[str, Any]:
        """Records of all engines."""
        return {name: to_dict(self._engine(name)) for name in ENGINES}

    def parity(self) -> dict[str, Any]:
        """Layer by layer against the file as written; and whether saturated grids hold."""
        found = {}
        for name in ("int8", "mixed"):
            cut, cuts, reference = load_reference(self.folder / f"{name}.onnx")
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / f"{name}.cut.onnx"
                onnx.save(cut, path)
                session: Any = self.runtimes[name].load(path)
            report = compare_engine(self.folder / f"{name}.onnx", cuts, [reference], session.run_feeds, {})
            clips = check_clips(load_model(self.folder / f"{name}.onnx"), cuts, session.run_feeds)
            logits = self.runtimes[name].load(self.paths[name]).run(next(iter(reference.feeds.values())))
            expected = next(iter(reference.ends.values()))
            found[name] = {
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
        return found

    def latency(self) -> dict[str, Any]:
        """All engines in turns, at batch 1 and 32, alone and four at once."""
        batches, streams, seconds = ((1,), (1, 2), 0.3) if self.quick else ((1, 32), (1, 4), 2.0)
        found = measure_models(
            self.paths,
            settings=("default",),
            seconds=seconds,
            runtime=self.runtimes["mixed"],
            runtimes=self.runtimes,
            batches=batches,
            streams=streams,
        )
        return to_dict(found)

    def profile(self) -> dict[str, Any]:
        """The latency table of INT8 and FP16, with what it predicts of graphs that it did not know."""
        graphs, seconds = (2, 0.1) if self.quick else (8, 1.0)
        table = profile(
            with_markers(load_model(self.folder / FLOAT)),
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

    def audit(self) -> dict[str, Any]:
        """INT8 and mixed against FP16, layer by layer, profiled in runs of their own."""
        engines = {name: self._engine(name) for name in ("fp16", "int8", "mixed")}
        samples = {name: self._layer_times(name) for name in engines}
        return {
            name: to_dict(
                audit(
                    load_model(self.paths[name]),
                    engines[name],
                    samples[name],
                    float_model=load_model(self.paths["fp16"]),
                    float_engine=engines["fp16"],
                    float_samples=samples["fp16"],
                )
            )
            for name in ("int8", "mixed")
        }

    def trtexec(self) -> dict[str, Any]:
        """NVIDIA's figures for the same plans at batch 1."""
        found = {}
        for name in ("fp16", "int8", "mixed"):
            built = getattr(self.runtimes[name], "built", None)
            if built is None:
                raise OSError("this runtime keeps no plans")
            entry = load_model(self.paths[name]).graph.input[0]
            shape = (1, *(size.dim_value for size in entry.type.tensor_type.shape.dim[1:]))
            found[name] = time_plan(built(self.paths[name])[1], entry.name, shape, seconds=1.0 if self.quick else 3.0)
        return found

    def spread(self) -> dict[str, Any]:
        """Three INT8 builds, each timing its kernels anew."""
        options = EngineOptions(builds=2 if self.quick else 3)
        engine = self.make(options).engine(self.paths["int8"])
        assert engine.plan is not None
        return {"builds": [to_dict(one) for one in engine.plan.builds], "spread": engine.plan.spread}

    def _engine(self, name: str) -> Engine:
        return self.runtimes[name].engine(self.paths[name])

    def _layer_times(self, name: str) -> dict[str, tuple[float, ...]]:
        session = self.runtimes[name].load(self.paths[name])
        assert isinstance(session, DeviceTimed), "this runtime profiles no layers"
        shape = (1, *(size or 1 for size in session.input_shape[1:]))
        images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        return session.layer_times(images, 10 if self.quick else 100)


PARTS: dict[str, Part] = {
    "engines": Bench.engines,
    "parity": Bench.parity,
    "latency": Bench.latency,
    "trtexec": Bench.trtexec,
    "audit": Bench.audit,
    "profile": Bench.profile,
    "spread": Bench.spread,
}
"""What is measured of each model, in this order; the last ones are left out where time is up."""


def measure(
    folder: Path, make: MakeRuntime, *, quick: bool, deadline: float, say: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each part's result, or what failed; parts behind the deadline (``time.monotonic``) are skipped and say so."""
    bench = Bench(folder, make, quick=quick)
    for name, part in PARTS.items():
        start = time.monotonic()
        if start > deadline:
            yield name, {"skipped": "the time was up"}
            continue
        say(name)
        try:
            result = {"result": part(bench)}
        except (LimpqError, AssertionError) as error:
            result = {"failed": str(error)}
        except Exception as error:  # one part's fault must not take the others' figures with it
            result = {"failed": f"{type(error).__name__}: {error}"}
        yield name, {**result, "seconds": round(time.monotonic() - start, 1)}
