"""Latency on ONNX Runtime's CPU provider: ResNet-18 and MobileNetV2, batch 1 and 8, one thread, interleaved in one run.

Timed are the float32 file; our graphs of uniform w8a8, w7a8, w7a7 and w4a4 (stand-ins: how long a graph takes does not
depend on its numbers); the static QDQ file of onnxruntime.quantization (u8s8 per channel, MinMax over random images,
else its defaults); and where ``--openvino FOLDER`` names a folder that holds the package, OpenVINO in float32 and with
our w8a8 file and ONNX Runtime's own. Install it apart: pip install --target FOLDER --no-deps openvino

Keys: ``resnet18_speedup_b1``, ``mobilenet_v2_speedup_b1`` (w7a7 over float32; p50), ``ort_static_resnet18_speedup_b1``,
``float_nodes`` (of our w8a8 and w7a7 graphs, after optimisation: layers that stayed in float), ``speedups`` of all over
float32 with 95 % intervals, by model and batch; ``cpu_time_speedups``: the same from CPU time, which a busy machine
disturbs less; ``nodes``: milliseconds by operator, from the profiler, batch 1. ``protocol``: what an
empty call is measured to take, as a share of the integer graph's time (so much the protocol adds to a figure), and how
far medians, lower deciles of CPU time and the medians' ratio differ over five runs.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from latency_bench import SIZE, Model, machine, prepare
from numpy.typing import NDArray

from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.onnxruntime.profile import profile_nodes
from limpq_deploy.export.timing.measure import CPU_TIME, CpuTimedCall, timed_call
from limpq_deploy.export.timing.profile import write_timing_graphs
from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport
from limpq_deploy.export.timing.timing_loop import measure_interleaved
from limpq_deploy.export.timing.timing_statistics import ratio_interval

MODELS = {"resnet18": "torchvision/resnet18", "mobilenet_v2": "torchvision/mobilenet_v2"}
OURS = {"w8a8": (8, 8), "w7a8": (7, 8), "w7a7": (7, 7), "w4a4": (4, 4)}
STATIC, FLOAT = "onnxruntime static", "float32"
INPUTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batch 1 alone, 1 s for each")
    parser.add_argument("--smoke", action="store_true", help="64 px, 20 ms for each: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--openvino", type=Path, metavar="FOLDER", help="where the package lies")
    options = parser.parse_args()
    started = time.perf_counter()
    seconds, batches = (0.02, (1,)) if options.smoke else (1.0, (1,)) if options.quick else (3.0, (1, 8))
    size = 64 if options.smoke else SIZE
    result: dict[str, Any] = {"speedups": {}, "cpu_time_speedups": {}, "p50_ms": {}, "nodes": {}, "doubts": {}}
    result["openvino"], openvino = _openvino(options.openvino)
    with tempfile.TemporaryDirectory() as work:
        for short, name in MODELS.items():
            say(name, started)
            folder = Path(work) / short
            folder.mkdir()
            bench = Bench(prepare(name, folder, size), folder, openvino)
            result["nodes"][short] = {label: bench.nodes(label) for label in (FLOAT, "w8a8", "w7a7")}
            result.setdefault("float_nodes", []).extend(bench.float_layers())
            for batch in batches:
                say(f"{name}, batch {batch}", started)
                report = bench.measure(batch, seconds)
                key = f"{short} batch {batch}"
                result["speedups"][key] = bench.speedups(report)
                result["cpu_time_speedups"][key] = bench.cpu_speedups(report)
                result["p50_ms"][key] = {one.name: round(one.stats.p50_ms, 4) for one in report.series}
                result["doubts"][key] = sorted({doubt for one in report.series for doubt in one.doubts})
            if short == "resnet18":
                say("protocol", started)
                result["protocol"] = bench.protocol(min(seconds, 2.0))
    for key, label in (("resnet18_speedup_b1", "w7a7"), ("ort_static_resnet18_speedup_b1", STATIC)):
        result[key] = result["speedups"]["resnet18 batch 1"][label][0]
    result["mobilenet_v2_speedup_b1"] = result["speedups"]["mobilenet_v2 batch 1"]["w7a7"][0]
    result |= {
        "quick": options.quick,
        "smoke": options.smoke,
        "seconds": round(time.perf_counter() - started),
        **machine(),
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


class Bench:
    """All files of one model."""

    def __init__(self, model: Model, folder: Path, openvino: Any) -> None:
        self.model, self.openvino = model, openvino
        policies = {name: {layer.name: pair for layer in model.placement.searched} for name, pair in OURS.items()}
        self.runtime = runtime_named("onnxruntime")
        self.files = {
            FLOAT: model.float_file,
            **write_timing_graphs(model.template, model.placement, policies, folder),
            STATIC: _static(model.float_file, folder / "static.onnx", model.placement.input_shape),
        }

    def measure(self, batch: int, seconds: float) -> LatencyReport:
        protocol = LatencyProtocol(batch=batch, threads=1, min_seconds=seconds, inputs=INPUTS)
        calls: dict[str, Callable[[], object]] = {
            name: timed_call(self.runtime.load(file, threads=1), protocol) for name, file in self.files.items()
        }
        if self.openvino is not None:
            shape = (batch, *self.model.placement.input_shape)
            for name in (FLOAT, "w8a8", STATIC):
                calls[f"OpenVINO, {name}"] = CpuTimedCall(_openvino_call(self.openvino, self.files[name], shape))
        series = measure_interleaved(calls, protocol)
        return LatencyReport(environment=read_environment(), protocols=(protocol,), series=series)

    def speedups(self, report: LatencyReport) -> dict[str, list[float]]:
        """[ratio, low, high] over float32, by name."""
        batch = report.protocols[0].batch
        gains = [report.speedup(one.name, FLOAT, threads=1, batch=batch) for one in report.series if one.name != FLOAT]
        return {gain.name: [round(value, 3) for value in (gain.ratio, gain.low, gain.high)] for gain in gains}

    def cpu_speedups(self, report: LatencyReport) -> dict[str, list[float]]:
        """The same from the CPU time of the calls."""
        slow = next(one for one in report.series if one.name == FLOAT)
        found = {}
        for one in report.series:
            if one.name == FLOAT:
                continue
            top, bottom = np.asarray(slow.parts_ms[CPU_TIME]), np.asarray(one.parts_ms[CPU_TIME])
            low, high = ratio_interval(top, slow.turns, bottom, one.turns, seed=0)
            found[one.name] = [round(value, 3) for value in (float(np.median(top) / np.median(bottom)), low, high)]
        return found

    def nodes(self, name: str) -> dict[str, float]:
        """Milliseconds by operator: sums of the quickest quarter's bound of each node."""
        found: dict[str, float] = {}
        for node in profile_nodes(self.runtime, self.files[name], threads=1).nodes.values():
            found[node.op] = found.get(node.op, 0.0) + node.low_ms
        return {op: round(ms, 4) for op, ms in sorted(found.items(), key=lambda item: -item[1])}

    def float_layers(self) -> list[str]:
        """Layers of our integer graphs that ONNX Runtime keeps in float."""
        return [
            f"{self.model.name} {name}: {layer}"
            for name in ("w8a8", "w7a7")
            for layer in self.runtime.engine(self.files[name], threads=1).float_layers
        ]

    def protocol(self, seconds: float) -> dict[str, Any]:
        """What the protocol costs, and how far its medians repeat."""
        protocol = LatencyProtocol(threads=1, min_seconds=seconds, inputs=INPUTS)
        calls = {name: timed_call(self.runtime.load(self.files[name], threads=1), protocol) for name in (FLOAT, "w7a7")}
        runs = [measure_interleaved(calls, protocol) for _ in range(5)]
        (empty,) = measure_interleaved(
            {"empty": CpuTimedCall(lambda: None)}, LatencyProtocol(threads=1, min_seconds=0.2)
        )
        ratios = [run[0].stats.p50_ms / run[1].stats.p50_ms for run in runs]
        spread = {
            run.name: max(one[index].stats.p50_ms for one in runs) / min(one[index].stats.p50_ms for one in runs) - 1
            for index, run in enumerate(runs[0])
        }
        return {
            "empty_call_ms": empty.stats.p50_ms,
            "overhead": empty.stats.p50_ms / min(run[1].stats.p50_ms for run in runs),
            "spread_of_medians": spread,
            "spread_of_cpu_deciles": {
                name: max(values) / min(values) - 1
                for name, values in {
                    run.name: [float(np.quantile(one[index].parts_ms[CPU_TIME], 0.1)) for one in runs]
                    for index, run in enumerate(runs[0])
                }.items()
            },
            "spread_of_ratio": max(ratios) / min(ratios) - 1,
            "ratios": ratios,
        }


def _static(float_file: Path, file: Path, shape: tuple[int, ...]) -> Path:
    """onnxruntime.quantization's own file, as its documentation makes it."""
    logging.disable(logging.WARNING)  # it asks for a pre-processing that folds what is folded here already
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            random = np.random.default_rng(0)
            self.left = [random.standard_normal((1, *shape), np.float32) for _ in range(4)]

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return {"images": self.left.pop()} if self.left else None

    quantize_static(
        float_file,
        file,
        Images(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return file


def _openvino(folder: Path | None) -> tuple[str, Any]:
    """Its version, or why it was not timed; and its core."""
    if folder is None:
        return "not timed: no --openvino FOLDER was given", None
    sys.path.append(str(folder))
    try:
        import openvino
    except ImportError as error:
        return f"not timed: {error}", None
    return str(openvino.__version__), openvino.Core()


def _openvino_call(core: Any, file: Path, shape: tuple[int, ...]) -> Callable[[], object]:
    """One call on one thread; float layers in float32, which it would otherwise compute in bfloat16 here."""
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    model = core.read_model(str(file))
    model.reshape(list(shape))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    return lambda: request.infer([images], share_inputs=True, share_outputs=True)


def say(what: str, started: float) -> None:
    print(f"{time.perf_counter() - started:6.0f} s  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
