"""A runtime put to the test on a tiny model of TensorRT's dialect: does an engine compute what the file says?

Everything is made here from a seed, and the expectation is computed by onnx's own reference evaluator in NumPy, so that
a machine needs neither torch nor another runtime to know whether its GPU, driver and TensorRT work together.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.export.graph.split_at_quantizers import cut_model, with_ends
from limpq_deploy.export.reference.engine_parity import Feeds, Reference, check_clips, compare_engine
from limpq_deploy.export.runtimes.base import DeviceTimed, Runtime

CHANNELS, SIZE, CLASSES = 32, 16, 10
"""Of the tiny model; 32 channels are the smallest number that all INT8 convolution kernels take."""

MAX_FLIPS = 0.01
"""Share of codes that float scaling in another order may put one step off, at ties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One thing that was tried; ``detail`` is a sentence with the figures, or the error."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What a runtime did with the tiny model, on which machine."""

    runtime: str
    environment: dict[str, Any]
    tried: tuple[Tried, ...]
    format: Literal["limpq.self-test/1"] = field(default="limpq.self-test/1")

    @property
    def passed(self) -> bool:
        return bool(self.tried) and all(one.passed for one in self.tried)


def self_test(runtime: Runtime) -> SelfTest:
    """Build, run, cut, saturate and time the tiny model. What fails is in the record; nothing is raised for it."""
    tried: list[Tried] = []
    environment: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, cut_path = Path(folder) / "tiny.onnx", Path(folder) / "tiny.cut.onnx"
        model = tiny_model()
        cut, cuts = cut_model(model)
        path.write_bytes(model.SerializeToString())
        cut_path.write_bytes(cut.SerializeToString())
        images = tiny_images(4)
        expected = _expected(model, images)

        def engine() -> str:
            found = runtime.engine(path)
            floats = [
                f"{name} {found.layer_precision[name]}" for name in found.float_layers if not name.startswith("fc")
            ]  # some versions keep a Gemm float
            assert not floats, f"convolutions are not shown to run in integers: {', '.join(floats)}"
            kinds = ", ".join(f"{name} {precision}" for name, precision in found.layer_precision.items())
            return f"every convolution runs in integers: {kinds}"

        def logits() -> str:
            session = runtime.load(path)
            environment.update(session.environment())
            difference = float(np.abs(session.run(images) - expected.ends["logits"]).max())
            allowed = 0.05 * float(np.ptp(expected.ends["logits"]))
            assert difference <= allowed, f"logits differ by {difference:.4g}, at most {allowed:.4g} can come of ties"
            return f"logits differ from the file's by at most {difference:.4g}"

        def layer_by_layer() -> str:
            session: Any = runtime.load(cut_path)
            found = compare_engine(path, cuts, [expected], session.run_feeds, {})
            said = f"{found.mismatches:,} of {found.elements:,} codes differ, by at most {found.max_lsb} LSB"
            assert found.max_lsb <= 1, said
            assert found.mismatches <= MAX_FLIPS * found.elements, said
            return said

        def clips() -> str:
            session: Any = runtime.load(cut_path)
            found = check_clips(model, cuts, session.run_feeds)
            lost = [f"{one.tensor} {one.least}..{one.most} of {one.low}..{one.high}" for one in found.lost]
            assert not lost, f"codes leave their grid: {'; '.join(lost)}"
            assert not found.not_driven, f"not driven to the end of their grid: {', '.join(found.not_driven)}"
            return f"{len(cuts)} quantizers keep their grids for inputs far beyond them"

        def timing() -> str:
            session = runtime.load(path)
            assert isinstance(session, DeviceTimed)
            call = session.timed([images])
            for _ in range(20):
                call()
            parts = call.parts_ms()
            return f"{', '.join(f'{name} {ms:.3f} ms' for name, ms in parts.items())} ({call.mode})"

        _try(tried, "engine", engine)
        _try(tried, "logits", logits)
        _try(tried, "layer by layer", layer_by_layer)
        _try(tried, "saturating inputs", clips)
        if tried[1].passed and isinstance(runtime.load(path), DeviceTimed):
            _try(tried, "timing", timing)
    return SelfTest(runtime=runtime.name, environment=environment, tried=tuple(tried))


def tiny_model(seed: int = 0) -> onnx.ModelProto:
    """Convolutions with a residual Add, grids of 8, 4 and 3 bits behind ReLUs, behind an Add and behind a Gemm (where
    a bound was once lost), in opset 17 with FP32 weights and their Q/DQ pairs."""
    net = _Net(np.random.default_rng(seed))
    real = net.pair("images", "images", 0.05, -128, 127)
    stem = net.relu(net.layer("stem", "Conv", real, (CHANNELS, 3, 3, 3), pads=[1] * 4))
    hidden = net.layer(
        "conv1", "Conv", net.pair("conv1.in", stem, 0.08, 0, 15), (CHANNELS, CHANNELS, 3, 3), pads=[1] * 4
    )
    branch_in = net.pair("conv2.in", net.relu(hidden), 0.04, 0, 15)
    branch = net.layer("conv2", "Conv", branch_in, (CHANNELS, CHANNELS, 3, 3), pads=[1] * 4)
    total = net.relu(net.add("Add", [branch, net.pair("identity", stem, 0.03, 0, 127)], "sum"))
    last = net.relu(
        net.layer("conv3", "Conv", net.pair("conv3.in", total, 0.15, 0, 7), (CHANNELS, CHANNELS, 1, 1), strides=[2, 2])
    )
    flat = net.add("Flatten", [net.add("GlobalAveragePool", [last], "mean")], "flat", axis=1)
    middle = net.layer("fc1", "Gemm", net.pair("fc1.in", flat, 0.004, 0, 127), (CHANNELS, CHANNELS), transB=1)
    net.layer("fc2", "Gemm", net.pair("fc2.in", middle, 0.02, 0, 15), (CLASSES, CHANNELS), transB=1, result="logits")
    return net.model()


def tiny_images(count: int, seed: int = 1) -> NDArray[np.float32]:
    """Random images for it."""
    return np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


class _Net:
    """Writes TensorRT's dialect node by node."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], result: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [result], name=f"node_{result}", **attributes))
        return result

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def pair(self, name: str, source: str, scale: float, low: int, high: int) -> str:
        """A quantizer: Clip on the floats where the grid is narrower than int8, Q, DQ."""
        step = np.float32(scale)
        grid = [self.constant(f"{name}_scale", np.array(step)), self.constant(f"{name}_zero", np.array(0, np.int8))]
        if (low, high) != (-128, 127):
            ends = [self.constant(f"{name}_{end}", np.array(np.float32(code) * step)) for end, code in _ends(low, high)]
            source = self.add("Clip", [source, *ends], f"{name}_clipped")
        codes = self.add("QuantizeLinear", [source, *grid], f"{name}_codes")
        return self.add("DequantizeLinear", [codes, *grid], f"{name}_real")

    def layer(
        self, name: str, op: str, source: str, shape: tuple[int, ...], result: str = "", **attributes: Any
    ) -> str:
        codes = self.random.integers(-127, 128, shape).astype(np.float32)
        scale = (self.random.uniform(0.8, 1.2, shape[0]) / 127 / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weight = codes * scale.reshape(-1, *[1] * (len(shape) - 1))
        names = [
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.weight_scale", scale),
            self.constant(f"{name}.weight_zero", np.zeros(shape[0], np.int8)),
        ]
        quantized = self.add("QuantizeLinear", names, f"{name}.weight_codes", axis=0)
        real = self.add("DequantizeLinear", [quantized, *names[1:]], f"{name}.weight_real", axis=0)
        bias = self.constant(f"{name}.bias", self.random.normal(0, 0.2, shape[0]).astype(np.float32))
        if op == "Conv":
            attributes["kernel_shape"] = list(shape[2:])  # up to 10.3 the parser finds it nowhere else
        return self.add(op, [source, real, bias], result or name, **attributes)

    def relu(self, source: str) -> str:
        return self.add("Relu", [source], f"{source}_relu")

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 17)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
        onnx.checker.check_model(made, full_check=True)
        return made


def _ends(low: int, high: int) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("low", low), ("high", high)


def _expected(model: onnx.ModelProto, images: NDArray[np.float32]) -> Reference:
    """The file as written, by onnx's reference evaluator, which knows Q and DQ from opset 19 on (and the same ones)."""
    from onnx.reference import ReferenceEvaluator

    shown, cuts = with_ends(model)
    shown.opset_import[0].version = 21
    logits, *reals = ReferenceEvaluator(shown).run(None, {"images": images})
    values: Feeds = {cut.end: np.asarray(real, np.float32) for cut, real in zip(cuts, reals, strict=True)}
    return Reference(
        feeds={"images": images, **{cut.start: values[cut.end] for cut in cuts}},
        ends={"logits": np.asarray(logits, np.float32), **values},
    )


def _try(tried: list[Tried], name: str, what: Callable[[], str]) -> None:
    try:
        tried.append(Tried(name=name, passed=True, detail=what()))
    except (AssertionError, LimpqError) as error:
        tried.append(Tried(name=name, passed=False, detail=str(error)))
    except Exception as error:  # a fault of a library is what is looked for here
        tried.append(Tried(name=name, passed=False, detail=f"{type(error).__name__}: {error}"))
