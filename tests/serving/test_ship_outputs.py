"""Shipping networks whose outputs are not one tensor of logits."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from limpq_deploy.cli.main import main
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import every_output, in_rows
from limpq_deploy.export.ship.triton.config import ServingOptions, make_config
from limpq_deploy.export.ship.triton.config_check import check_config
from limpq_deploy.export.ship.triton.served_io import ConfigRefused, read_io
from limpq_deploy.export.ship.triton.twin import TritonPythonModel
from limpq_deploy.serving.health import ask
from limpq_deploy.serving.server import Server, ServerUnhealthy, parse_address

IMAGES = np.random.default_rng(3).normal(size=(5, 3, 4, 4)).astype(np.float32)
PARTS: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "map": ("Relu", {}, [3, 4, 4]),
    "vector": ("Flatten", {}, [48]),
    "class": ("ArgMax", {"axis": 1, "keepdims": 0}, [4, 4]),
    "number": ("ReduceMax", {"axes": [1, 2, 3], "keepdims": 0}, []),
}
"""Outputs of a model: operator, attributes, sizes without the batch."""


def model_of(*names: str) -> onnx.ModelProto:
    """Images [batch, 3, 4, 4] -> these of `PARTS`."""
    kinds = {name: TensorProto.INT64 if name == "class" else TensorProto.FLOAT for name in names}
    graph = helper.make_graph(
        [helper.make_node(PARTS[name][0], ["images"], [name], **PARTS[name][1]) for name in names],
        "parts",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info(name, kinds[name], ["batch", *PARTS[name][2]]) for name in names],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def bundle_of(make_bundle: Any, tmp_path: Path) -> Callable[..., Path]:
    """Write the bundle of a model of these `PARTS`: (names, labels) -> folder."""

    def make(*names: str, labels: str = "") -> Path:
        path = tmp_path / f"{'_'.join(names)}.onnx"
        onnx.save(model_of(*names), path)
        rows = in_rows(every_output(runtime_named("onnxruntime").load(path))(IMAGES))
        given = {"canary_inputs_NCHW": IMAGES, "canary_outputs": rows, "model_path": path, "labels": labels}
        return Path(make_bundle("-".join(names), **given))

    return make


def limpq_deploy(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def parsed(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize(
    "names", [("map",), ("vector",), ("number",), ("map", "vector"), ("number", "vector", "map"), ("class", "map")]
)
def test_every_output_is_configured_and_replayed(
    names: tuple[str, ...], bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    done = limpq_deploy("ship", bundle_of(*names), tmp_path / "models")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "models" / "tiny"
    outputs = parsed(folder).output
    assert [output.name for output in outputs] == list(names)
    assert [list(output.dims) for output in outputs] == [PARTS[name][2] or [1] for name in names]
    assert [output.HasField("reshape") for output in outputs] == [not PARTS[name][2] for name in names]
    kinds = [model_config_pb2.TYPE_INT64 if name == "class" else model_config_pb2.TYPE_FP32 for name in names]
    assert [output.data_type for output in outputs] == kinds
    assert {output.label_filename for output in outputs} == {""}
    assert not (folder / "labels.txt").exists()
    replayed = json.loads(limpq_deploy("verify", folder, "--replay", "--json").stdout)["canaries"]
    numbers = sum(int(np.prod(PARTS[name][2])) for name in names)
    assert (replayed["bit_equal"], replayed["logits"], replayed["top1_changed"]) == (True, 5 * numbers, None)


def test_a_difference_in_the_last_output_is_seen(bundle_of: Callable[..., Path], make_bundle: Any) -> None:
    rows = np.load(bundle_of("map", "vector") / "canary_outputs.npy")
    rows[4, -1] = np.nextafter(rows[4, -1], np.float32(9))
    path = make_bundle("x").parent / "map_vector.onnx"
    other = make_bundle("other", canary_inputs_NCHW=IMAGES, canary_outputs=rows, model_path=path, labels="")
    done = limpq_deploy("verify", other, "--replay", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["canaries"]["differing"] == 1


def test_labels_go_to_the_output_with_a_number_for_each(bundle_of: Callable[..., Path], tmp_path: Path) -> None:
    labels = "".join(f"c{number}\n" for number in range(48))
    for names, expected in ((("map", "vector"), ["", "labels.txt"]), (("map",), [""])):
        done = limpq_deploy("ship", bundle_of(*names, labels=labels), tmp_path / "models", "--name", "_".join(names))
        assert done.exit_code == 0, done.output
        folder = tmp_path / "models" / "_".join(names)
        assert [output.label_filename for output in parsed(folder).output] == expected
        assert (folder / "labels.txt").read_text() == labels  # of the map's channels


WRONG: list[tuple[str, Callable[[Any], object]]] = [
    ("output", lambda config: config.output.pop()),
    ("output.name", lambda config: config.output.reverse()),
    ("output.dims", lambda config: config.output[0].dims.append(1)),
    ("output.reshape", lambda config: config.output[1].ClearField("reshape")),
    ("output.reshape", lambda config: config.output[0].reshape.shape.append(48)),
    ("output.label_filename", lambda config: setattr(config.output[0], "label_filename", "labels.txt")),
]


@pytest.mark.parametrize(("field", "change"), WRONG)
def test_a_configuration_of_other_outputs_is_refused(
    field: str, change: Callable[[Any], object], tmp_path: Path
) -> None:
    onnx.save(model_of("map", "number"), tmp_path / "model.onnx")
    io = read_io(tmp_path / "model.onnx")
    config = text_format.Parse(
        make_config("tiny", io, ServingOptions(backend="python"), 1, {}, {}), model_config_pb2.ModelConfig()
    )
    change(config)
    text = text_format.MessageToString(config)
    with pytest.raises(ConfigRefused) as refused:
        check_config(text, name="tiny", io=io, backend="python", labels=(), versions=[1])
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        (["64*batch", 2], TensorProto.FLOAT, r"'map' is \[64\*batch, 2\], which is not one entry an image"),
        ([4, 2], TensorProto.FLOAT, r"'map' is \[4, 2\], which is not one entry an image"),
        ([], TensorProto.FLOAT, r"'map' has no shape"),
        (["batch", 2], TensorProto.DOUBLE, r"'map' has ONNX type 11; expected float32 or integers"),
    ],
)
def test_what_is_not_one_float_entry_an_image_is_refused(shape: Any, kind: int, words: str, tmp_path: Path) -> None:
    model = model_of("map")
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("map", kind, shape))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ConfigRefused, match=words):
        read_io(tmp_path / "model.onnx")


def test_a_size_that_the_file_leaves_open_is_open_to_clients(tmp_path: Path) -> None:
    model = model_of("map")
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", 3, "high", None]))
    onnx.save(model, tmp_path / "model.onnx")
    assert read_io(tmp_path / "model.onnx").outputs[0].dims == (3, -1, -1)


@pytest.fixture
def twin(bundle_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TritonPythonModel:
    """The CPU twin of a shipped model of three outputs, in this process, with plain records for Triton's."""
    limpq_deploy("ship", bundle_of("number", "vector", "map"), tmp_path / "models", "--backend", "python")
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.Tensor = lambda name, values: SimpleNamespace(name=name, values=values)
    triton.InferenceResponse = lambda output_tensors, error=None: SimpleNamespace(parts=output_tensors, error=error)
    triton.TritonError = str
    triton.get_input_tensor_by_name = lambda request, name: SimpleNamespace(as_numpy=lambda: request[name])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    config = {
        "input": [{"name": "images"}],
        "output": [{"name": name} for name in ("number", "vector", "map")],
    }
    model = TritonPythonModel()
    where = {"model_repository": str(tmp_path / "models/tiny"), "model_version": "1"}
    model.initialize({"model_config": json.dumps(config), **where})
    return model


def test_the_twin_gives_each_request_its_part_of_every_output(twin: TritonPythonModel, tmp_path: Path) -> None:
    parts = twin.execute([{"images": IMAGES[:2]}, {"images": IMAGES[2:]}])
    expected = every_output(runtime_named("onnxruntime").load(tmp_path / "models/tiny/1/model.onnx"))(IMAGES)
    for number, name in enumerate(("number", "vector", "map")):
        assert [part.parts[number].name for part in parts] == [name] * 2
        found = np.concatenate([part.parts[number].values for part in parts])
        assert np.array_equal(found, expected[number])


class Answering:
    """A client that answers as tritonclient's does, from a model's results, in the server's order of outputs."""

    def __init__(self, results: dict[str, NDArray[np.float32]], inputs: tuple[str, ...] = ("images",)) -> None:
        self.results, self.inputs = results, inputs

    def get_model_metadata(self, *_: Any) -> dict[str, Any]:
        inputs = [{"name": name, "datatype": "FP32", "shape": [-1, 3, 4, 4]} for name in self.inputs]
        return {"inputs": inputs, "outputs": [{"name": name} for name in self.results], "versions": ["1"]}

    def get_model_config(self, *_: Any) -> dict[str, Any]:
        return {"max_batch_size": 8}

    def infer(self, *_: Any, outputs: list[Any], **__: Any) -> Any:
        import tritonclient.http as library

        asked = [output.name() for output in outputs]
        listed = [
            {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": values.reshape(-1).tolist()}
            for name, values in self.results.items()
            if name in asked
        ]
        body = {"model_name": "tiny", "model_version": "1", "outputs": listed}
        return library.InferResult.from_response_body(json.dumps(body).encode())


def server_of(client: Answering) -> Server:
    import tritonclient.http as library

    return Server(parse_address("http://127.0.0.1:8000/tiny"), client, library, 1.0)


def test_a_server_is_asked_for_all_outputs_and_its_rows_are_those_of_the_canaries(
    bundle_of: Callable[..., Path],
) -> None:
    folder = bundle_of("map", "number", "vector")
    given = every_output(runtime_named("onnxruntime").load(folder / "model.onnx"))(IMAGES)
    results = dict(zip(("map", "number", "vector"), given, strict=True))
    results["number"] = results["number"][:, None]  # as Triton reshapes it
    rows = ask(server_of(Answering(results)), IMAGES)
    assert rows.tobytes() == np.load(folder / "canary_outputs.npy").tobytes()


def test_a_served_model_of_several_inputs_is_told() -> None:
    with pytest.raises(ServerUnhealthy, match="asks for left, right; expected a model of one"):
        server_of(Answering({}, ("left", "right"))).describe()
