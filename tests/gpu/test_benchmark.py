"""The GPU benchmark on a CPU: files are made, every part runs and the page is written. ONNX Runtime plays the engines;
that the figures are of no GPU is why this is a test and no benchmark."""

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.engine_record import Machine
from limpq_deploy.export.runtimes.base import DeviceTimed, Engine
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime, OrtSession
from limpq_deploy.export.runtimes.tensorrt.inspect import compute_nodes, planned_precision
from limpq_deploy.export.timing.concurrent_runs import RunsAtOnce
from limpq_deploy.export.timing.engine_profile import engine_layer_times

from ..played_engine import NOWHERE, played_engine

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


class Played:
    """A session that also times its parts and layers, by the clock of the host."""

    def __init__(self, session: OrtSession, layers: Sequence[str]) -> None:
        self._session, self._layers = session, layers
        self.run, self.run_feeds, self.input_shape = session.run, session.run_feeds, session.input_shape

    def environment(self) -> dict[str, Any]:
        return {**self._session.environment(), "mode": "enqueue"}

    def timed(self, batches: Sequence[NDArray[np.float32]], *, graph: bool = True, streams: int = 1) -> "Call":
        return Call(RunsAtOnce(self._session.run, batches, streams))

    def layer_times(self, images_NCHW: NDArray[np.float32], runs: int) -> dict[str, tuple[float, ...]]:
        return {name: tuple(0.1 + 0.001 * (run % 3) for run in range(runs)) for name in self._layers}


class Call:
    main_part, mode = "compute", "enqueue"

    def __init__(self, run: RunsAtOnce) -> None:
        self._run, self._ms = run, 0.0

    def __call__(self) -> None:
        start = time.perf_counter()
        self._run()
        self._ms = 1000 * (time.perf_counter() - start)

    def parts_ms(self) -> Mapping[str, float]:
        return {"compute": self._ms, "enqueue": 0.01, "copy_in": 0.02, "copy_out": 0.01}


class PlaysTensorRt(OnnxRuntime):
    """Runs TensorRT's files as the engines of made-up plans, each layer in the precision that the file asks for."""

    name = "tensorrt"

    def __init__(self, options: EngineOptions) -> None:
        super().__init__()
        self.options = options

    def with_options(self, options: EngineOptions) -> "PlaysTensorRt":
        return type(self)(options)

    def machine(self) -> Machine:
        return NOWHERE

    def load(self, path: Path, *, threads: int | None = None) -> Any:
        return Played(super().load(path, threads=1), list(compute_nodes(load_model(path)).values()))

    def engine(self, path: Path, *, threads: int | None = None) -> Engine:
        words = {"s8s8": "int8", "float32": "float16", "float16": "float16"}
        planned = planned_precision(load_model(path))
        return played_engine(path, lambda layer: words[planned[layer]], builds=self.options.builds)


@pytest.fixture(scope="module")
def gpu() -> Iterator[Any]:
    """The benchmark's script as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("gpu")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def files(gpu: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model's files, made as those of the large ones are."""
    found = {"resnet8": tmp_path_factory.mktemp("files") / "resnet8"}
    gpu.make_files(found)
    return found


def test_every_part_runs_and_the_page_tells_what_came_of_it(gpu: Any, files: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    result = gpu.run(files, PlaysTensorRt, minutes=5, quick=True, output=output)
    assert json.loads(output.read_text()) == json.loads(json.dumps(result))
    parts = result["models"]["resnet8"]
    head, rest = ["first_parity", "first_latency"], ["profile", "study", "spread", "trtexec"]
    assert list(parts) == [*head, "engines", "parity", "latency", "audit", "rtx", *rest]
    assert parts["first_parity"]["result"] == {"int8": parts["parity"]["result"]["int8"]}
    assert [one["name"] for one in parts["first_latency"]["result"]["series"]] == ["fp16", "int8"]
    assert {name: part["failed"] for name, part in parts.items() if "result" not in part and name != "rtx"} == {
        "trtexec": "OSError: this runtime keeps no plans"
    }
    for name in ("int8", "mixed"):
        assert parts["parity"]["result"][name]["max_lsb"] <= 1
        assert parts["parity"]["result"][name]["clips"]["lost"] == []
    assert {one["name"] for one in parts["latency"]["result"]["series"]} == {"fp32", "tf32", "fp16", "int8", "mixed"}
    assert {one["figure"] for one in parts["latency"]["result"]["series"]} == {"compute"}
    for name in ("int8", "mixed"):  # the float file's operators have the exporter's names
        assert [line["layers"] for line in parts["audit"]["result"][name]["lines"] if "float_time" not in line] == []
    study = parts["study"]["result"]
    assert [point["sweep"] for point in study["points"]] == ["native"] * 5 + ["narrow"] * 3
    assert {point["realised"] for point in study["points"][5:]} == {study["points"][0]["realised"]}
    assert len({point["realised"] for point in study["points"][:5]}) == 5
    assert (study["device"], study["realised"]["policies"], study["refused"]) == ("none", 5, {})
    assert parts["spread"]["result"]["spread"] == pytest.approx(0.1)
    page = gpu.page(result)
    assert output.with_suffix(".md").read_text() == page
    assert "| int8 | 10 / 0 / 0 |" in page
    assert "BitOps and latency of 5 graphs of INT8 and FP16: rank correlation " in page
    assert study["sentence"] in page
    assert "Builds that timed their kernels anew: 1.000, 1.100 ms, 10.0 % apart." in page
    assert "TensorRT is not available here" in page or "| pycuda: " in page


def test_an_engine_that_is_not_built_or_does_not_run_costs_its_own_figures_alone(
    gpu: Any, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = importlib.import_module("gpu_measure")
    monkeypatch.setattr(measured, "FIRST", {name: measured.FIRST[name] for name in ("engines", "latency")})
    monkeypatch.setattr(measured, "THEN", {"audit": measured.THEN["audit"]})
    monkeypatch.setattr(gpu, "attempt", lambda package: {"failed": "not tried here"})
    builds: list[str] = []

    class Broken(PlaysTensorRt):
        def engine(self, path: Path, *, threads: int | None = None) -> Engine:
            if path.name == "mixed.onnx":
                builds.append(path.name)
                raise OSError("no | memory")
            return super().engine(path)

        def load(self, path: Path, *, threads: int | None = None) -> Any:
            if not self.options.tf32:
                raise ModelError("it does not load")
            return super().load(path)

    result = gpu.run(files, Broken, minutes=5, quick=True, output=None)
    found = {name: part["result"] for name, part in result["models"]["resnet8"].items() if "result" in part}
    assert found["engines"]["mixed"] == {"failed": "OSError: no | memory"}
    assert "layer_precision" in found["engines"]["int8"]
    assert {one["name"] for one in found["latency"]["series"]} == {"tf32", "fp16", "int8"}
    assert found["latency"]["left_out"] == {"fp32": "it does not load", "mixed": "OSError: no | memory"}
    assert found["audit"]["mixed"] == {"failed": "OSError: no | memory"}
    assert found["audit"]["int8"]["lines"]
    assert builds == ["mixed.onnx"]
    page = gpu.page(result)
    assert "| mixed | OSError: no / memory | | | |" in page
    assert "| fp32 | | | it does not load | | | | | | |" in page
    assert "Audit of mixed: OSError: no | memory" in page


def test_without_the_fp16_engine_the_audit_says_that_it_compared_nothing(gpu: Any, files: dict[str, Path]) -> None:
    class Broken(PlaysTensorRt):
        def engine(self, path: Path, *, threads: int | None = None) -> Engine:
            if path.name == "float.onnx":
                raise ModelError("refused")
            return super().engine(path)

    measure = importlib.import_module("gpu_measure")
    found = measure.measure_part(measure.Bench(files["resnet8"], Broken, quick=True), "audit")
    assert found["result"]["int8"]["without_float"] == "refused"
    assert not any("float_time" in line for line in found["result"]["int8"]["lines"])


def test_a_part_of_which_nothing_came_has_failed() -> None:
    measure = importlib.import_module("gpu_measure")

    def fail(name: str) -> None:
        raise ModelError(f"{name} is refused")

    with pytest.raises(ModelError, match="b is refused"):
        measure.each(("a", "b"), fail)
    order = measure.in_order(["x", "y"])
    assert order[:2] == [("x", "first_parity"), ("x", "first_latency")]
    assert order[2:6] == [("x", "engines"), ("x", "parity"), ("x", "latency"), ("y", "engines")]
    assert order[8:12] == [("x", "audit"), ("y", "audit"), ("x", "rtx"), ("y", "rtx")]


def test_the_reference_is_the_file_as_written(gpu: Any, files: dict[str, Path]) -> None:
    gpu_files = importlib.import_module("gpu_files")
    path = files["resnet8"] / "mixed.onnx"
    _, cuts, reference = gpu_files.load_reference(path)
    [fresh] = list(gpu_files.references(path, [reference.feeds["images"]]))
    assert set(fresh.ends) == set(reference.ends)
    for cut in cuts:
        np.testing.assert_array_equal(cut.codes(fresh.ends[cut.end]), cut.codes(reference.ends[cut.end]))


WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "onnxruntime", "sklearn", "safetensors", "pytest", "PIL"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
sys.argv = ["gpu.py", "--files", sys.argv[2], "--models", "resnet8"]
import limpq_deploy.export.runtimes.tensorrt.runtime, limpq_deploy.export.reference.self_test
import gpu
gpu.main()
"""


def test_measuring_needs_neither_torch_nor_onnxruntime(files: dict[str, Path]) -> None:
    command = [sys.executable, "-c", WITHOUT, str(BENCHMARKS), str(files["resnet8"].parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("TensorRT is not available here"), done.stderr


def test_the_one_script_leaves_its_results(files: dict[str, Path], tmp_path: Path) -> None:
    """Here it gets as far as to say that there is no GPU."""
    script = Path(__file__).with_name("run.py")
    where = [str(tmp_path / "out"), "--files", str(files["resnet8"].parent)]
    command = [sys.executable, str(script), *where, "--models", "resnet8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "TensorRT is not available here" in done.stderr, done.stderr
    assert done.returncode == 1
    log = (tmp_path / "out/tests.log").read_text()
    assert "TensorRT is not available here" in log
    assert " skipped" in log


def test_layers_of_an_engine_are_profiled_by_their_names_in_the_file(files: dict[str, Path]) -> None:
    path = files["resnet8"] / "int8.onnx"
    found = engine_layer_times(PlaysTensorRt(EngineOptions()), path, calls=6)
    assert set(found) == set(compute_nodes(load_model(path)))
    assert all(one.ms == pytest.approx(0.101) for one in found.values())
    assert {one.calls for one in found.values()} == {6}


def test_the_player_keeps_the_protocol_of_a_device(files: dict[str, Path]) -> None:
    session = PlaysTensorRt(EngineOptions()).load(files["resnet8"] / "int8.onnx")
    assert isinstance(session, DeviceTimed)


def test_the_study_finds_the_profiles_engines_and_leaves_out_what_is_not_built(files: dict[str, Path]) -> None:
    measure = importlib.import_module("gpu_measure")
    built: dict[str, list[bytes]] = {"profile": [], "study": []}
    part = "profile"

    class Broken(PlaysTensorRt):
        def engine(self, path: Path, *, threads: int | None = None) -> Engine:
            built[part].append(path.read_bytes())
            if part == "study" and len(built[part]) == 3:
                raise ModelError("no kernel")
            return super().engine(path)

        def load(self, path: Path, *, threads: int | None = None) -> Any:
            if part == "profile":
                built[part].append(path.read_bytes())
            return super().load(path)

    bench = measure.Bench(files["resnet8"], Broken, quick=True)
    measure.measure_part(bench, "profile")
    part = "study"
    found = measure.measure_part(bench, "study")["result"]
    assert set(built["study"][:4]) <= set(built["profile"])  # quick profiles have two mixed graphs
    assert found["refused"] == {"native mixed 1": "no kernel"}
    assert found["realised"]["policies"] == 4
    assert "No engine is built of native mixed 1." in found["sentence"]


def test_engines_of_rtx_are_refused_in_one_sentence_on_a_gpu_that_they_do_not_serve(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = importlib.import_module("gpu_measure")
    hopper = replace(NOWHERE, gpu="NVIDIA H200", compute_capability="9.0")
    monkeypatch.setattr(PlaysTensorRt, "machine", lambda runtime: hopper)
    found = measure.measure_part(measure.Bench(files["resnet8"], PlaysTensorRt, quick=True), "rtx")
    assert found["skipped"].startswith("NVIDIA H200 has compute capability 9.0, and TensorRT-RTX builds for 7.5, 8.6")
    assert found["skipped"].endswith("no RTX engine was built")


def test_engines_of_rtx_are_compared_and_timed_on_a_gpu_that_they_serve(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = importlib.import_module("gpu_measure")
    monkeypatch.setattr(measure, "rtx_runtime", lambda beside: PlaysTensorRt(EngineOptions()))
    part = measure.measure_part(measure.Bench(files["resnet8"], PlaysTensorRt, quick=True), "rtx")
    found = part["result"]
    assert found["parity"]["int8"]["max_lsb"] <= 1
    assert [one["name"] for one in found["latency"]["series"]] == ["fp16", "int8"]
    text = "\n".join(importlib.import_module("gpu_report")._model({"rtx": part}))
    assert "Engines of TensorRT-RTX:" in text
    assert "| int8 | 1 | 1 |" in text
