"""Files that are refused by name before anything in them is used; each is really built."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from limpq_deploy.calibration.errors import LimpqError, ModelError
from limpq_deploy.export.graph.loading import ModelRefused, load_model
from limpq_deploy.export.lint.check import lint, static_findings
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT
from limpq_deploy.export.reference.executor import IntegerReference
from limpq_deploy.export.runtimes import runtime_named

Change = Callable[[onnx.ModelProto], Any]


def small_model() -> onnx.ModelProto:
    """A convolution and a ReLU, valid and float."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weight"], ["sums"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["sums"], ["logits"], name="relu"),
        ],
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def of_an_unknown_domain(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="evil", version=1)
    model.graph.node[0].domain = "evil"


def weight_of(model: onnx.ModelProto) -> TensorProto:
    return model.graph.initializer[0]


def external(model: onnx.ModelProto, **entries: str) -> bytes:
    """Name a file for the weight's data; the bytes that belong there."""
    tensor = weight_of(model)
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return data


def refusal(path: Path) -> str:
    with pytest.raises(ModelRefused) as caught:
        load_model(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_sound_file_comes_back_as_it_is(saved: Any) -> None:
    assert load_model(saved(small_model())) == small_model()


def test_results_need_no_shape(saved: Any) -> None:
    model = small_model()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert load_model(saved(model)) == model


def test_imports_of_domains_that_no_node_uses_are_dropped(saved: Any) -> None:
    model = small_model()
    for domain in ("ai.onnx.training", "com.ms.internal.nhwc", "com.microsoft.experimental", "com.microsoft"):
        model.opset_import.add(domain=domain, version=1)
    assert [entry.domain for entry in load_model(saved(model)).opset_import] == ["", "com.microsoft"]


def test_the_other_name_of_the_standard_domain_is_read_as_the_first(saved: Any) -> None:
    model = small_model()
    model.opset_import[0].domain = model.graph.node[0].domain = "ai.onnx"
    loaded = load_model(saved(model))
    assert [entry.domain for entry in (*loaded.opset_import, *loaded.graph.node)] == ["", "", ""]


def test_external_data_in_the_models_folder_is_read_in_and_runs(saved: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")
    whole, model = saved(small_model()), small_model()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights.bin").write_bytes(
        bytes(16) + external(model, location="data/weights.bin", offset="16")
    )
    path = saved(model)
    assert weight_of(load_model(path)).raw_data == weight_of(small_model()).raw_data
    images = np.ones((1, 3, 8, 8), np.float32)
    first, second = (runtime_named("onnxruntime").load(file).run(images) for file in (path, whole))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("/etc/hostname", "an absolute path"),
        ("C:\\data\\weights.bin", "an absolute path"),
        ("\\\\server\\weights.bin", "an absolute path"),
        ("../weights.bin", "outside the model's folder"),
        ("data/../../weights.bin", "outside the model's folder"),
        ("data\\..\\weights.bin", "outside the model's folder"),
        ("data\\weights.bin", "has a backslash"),
        ("not_there.bin", "does not exist"),
        ("", "names no file"),
        ("*/_ORT_MEM_ADDR_/*", "does not exist"),
        ("data", "no plain file"),
        ("link.bin", "is a symbolic link"),
        ("linked/weights.bin", "is a symbolic link"),
        ("pipe", "no plain file"),
    ],
)
def test_external_data_from_elsewhere_is_refused(location: str, reason: str, saved: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    model = small_model()
    data = external(model, location=location)
    (tmp_path / "weights.bin").write_bytes(data)
    (folder / "data" / "weights.bin").write_bytes(data)
    (folder / "link.bin").symlink_to(folder / "data" / "weights.bin")
    (folder / "linked").symlink_to(folder / "data")
    os.mkfifo(folder / "pipe")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    message = refusal(path)
    assert "tensor 'weight'" in message
    assert reason in message


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": "1"}, "ends at byte 433 of 'w.bin', which has 432"),
        ({"length": "431"}, "has the shape [4, 3, 3, 3], 432 bytes, but 431"),
        ({"offset": "-4"}, "offset '-4'"),
        ({"offset": "1e3"}, "offset '1e3'"),
        ({"offset": "9" * 30}, "expected whole numbers"),
    ],
)
def test_external_data_is_as_long_as_its_shape_says(
    entries: dict[str, str], reason: str, saved: Any, tmp_path: Path
) -> None:
    model = small_model()
    (tmp_path / "w.bin").write_bytes(external(model, location="w.bin", **entries))
    assert reason in refusal(saved(model))


def test_a_tensor_that_says_it_is_huge_is_refused_before_memory_is_taken(saved: Any, tmp_path: Path) -> None:
    model = small_model()
    external(model, location="w.bin")
    weight_of(model).dims[:] = [2**20, 2**20, 3, 3]
    (tmp_path / "w.bin").write_bytes(b"")
    assert "a model may have 2,147,483,647" in refusal(saved(model))


def test_a_file_beyond_the_limit_is_refused_unread(saved: Any) -> None:
    path = saved(small_model())
    with pytest.raises(ModelRefused, match="a model may have 100: give a smaller one"):
        load_model(path, limit=100)


def cyclic(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "logits"


def unsorted(model: onnx.ModelProto) -> None:
    nodes = [model.graph.node[1], model.graph.node[0]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def with_a_function(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [], []))


def with_a_sparse_tensor(model: onnx.ModelProto) -> None:
    values, places = (numpy_helper.from_array(np.ones(1, kind), "s") for kind in (np.float32, np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))


def in_a_branch(model: onnx.ModelProto, change: Change) -> None:
    """Put the small model's nodes into the branches of an If, then change one of them."""
    branches = []
    for name in ("then", "else"):
        graph = helper.make_graph(
            [helper.make_node("Conv", ["images", f"{name}_weight"], [f"{name}_sums"], name=f"{name}_conv")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_sums", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), f"{name}_weight")],
        )
        branches.append(graph)
    change(branches[1])
    condition = numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    branching = helper.make_node("If", ["condition"], ["sums"], then_branch=branches[0], else_branch=branches[1])
    model.graph.node[0].CopyFrom(branching)


def with_an_escape_in_a_branch(model: onnx.ModelProto) -> None:
    def change(graph: Any) -> None:
        graph.initializer[0].ClearField("raw_data")
        graph.initializer[0].data_location = TensorProto.EXTERNAL
        graph.initializer[0].external_data.add(key="location", value="../secret")

    in_a_branch(model, change)


REFUSALS: dict[str, tuple[Change, str]] = {
    "cycle": (cyclic, "cycle of 2 through node 'conv' (Conv)"),
    "order": (unsorted, "node 'relu' (Relu) reads 'sums', which nothing makes before it"),
    "unknown input": (lambda m: m.graph.node[0].input.__setitem__(1, "x"), "node 'conv' (Conv) reads 'x'"),
    "made twice": (lambda m: m.graph.node[0].output.append("logits"), "makes 'logits', which exists already"),
    "no such output": (lambda m: setattr(m.graph.output[0], "name", "y"), "output 'y' is made by no node"),
    "no output": (lambda m: m.graph.ClearField("output"), "its graph has no output"),
    "no input": (lambda m: m.graph.ClearField("input"), "its graph has no input"),
    "no graph": (lambda m: m.ClearField("graph"), "it has no graph"),
    "newer opset": (lambda m: setattr(m.opset_import[0], "version", 999), "its opset is 999"),
    "no opset": (lambda m: m.ClearField("opset_import"), "it names no opset"),
    "two opsets": (lambda m: m.opset_import.add(domain="", version=13), "imports the domain 'ai.onnx' twice"),
    "newer IR": (lambda m: setattr(m, "ir_version", 99), "its IR version is 99"),
    "domain": (of_an_unknown_domain, "the unknown domain 'evil'"),
    "domain of a node": (lambda m: setattr(m.graph.node[0], "domain", "evil"), "does not import"),
    "operator": (lambda m: setattr(m.graph.node[1], "op_type", "Relux"), "node 'relu' (Relux) is no operator"),
    "operator of a later opset": (lambda m: setattr(m.graph.node[1], "op_type", "Gelu"), "is no operator of opset 17"),
    "function": (with_a_function, "it defines the function 'f'"),
    "sparse": (with_a_sparse_tensor, "is sparse"),
    "in a branch": (with_an_escape_in_a_branch, "tensor 'else_weight' keeps its data in '../secret', outside"),
    "shape": (lambda m: weight_of(m).dims.__setitem__(0, 8), "has the shape [8, 3, 3, 3], 864 bytes, and holds 432"),
    "overflow": (lambda m: weight_of(m).dims.extend([2**62] * 20), "has the shape"),
    "negative": (lambda m: weight_of(m).dims.__setitem__(0, -4), "sizes are not negative"),
    "type": (lambda m: setattr(weight_of(m), "data_type", 99), "has the type 99"),
    "two forms": (lambda m: weight_of(m).float_data.append(1.0), "in two forms"),
    "attribute": (lambda m: setattr(m.graph.node[0].attribute[0], "name", "padz"), "breaks a rule of ONNX"),
    "input": (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 2**40), "input 'images'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_is_not_sound_is_refused_by_name(case: str, saved: Any) -> None:
    change, reason = REFUSALS[case]
    model = small_model()
    change(model)
    assert reason in refusal(saved(model))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path, saved: Any) -> None:
    whole = saved(small_model()).read_bytes()
    path = tmp_path / "bad.onnx"
    for data, reason in (
        (b"", "is empty"),
        (whole[:300], "cut off or damaged"),
        (b"\x80\x04hello", "not an ONNX file"),
    ):
        path.write_bytes(data)
        assert reason in refusal(path)
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is no plain file" in refusal(tmp_path / "pipe")
    with pytest.raises(ModelError, match=r"cannot read .*: No such file"):
        load_model(tmp_path / "nothing.onnx")


def test_a_name_that_is_not_text_is_refused(saved: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(saved(small_model()).read_bytes().replace(b"weight", b"wei\xffht"))
    assert "is not UTF-8" in refusal(path)


def test_every_reader_refuses_before_it_runs_anything(saved: Any) -> None:
    model = small_model()
    cyclic(model)
    path = saved(model)
    runtime = runtime_named("onnxruntime")
    readers: list[Callable[[Path], object]] = [
        *(runtime.load, runtime.watch, runtime.engine, runtime.optimized_graph, IntegerReference),
        *(lambda file, target=target: lint(file, target) for target in (ONNXRUNTIME, TENSORRT)),
    ]
    for read in readers:
        with pytest.raises(ModelRefused, match="cycle"):
            read(path)


def test_images_that_a_model_does_not_take_are_one_sentence(saved: Any) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")
    session = runtime_named("onnxruntime").load(saved(small_model()))
    with pytest.raises(ModelError, match=r"cannot run the model on images of shape \[1, 3, 9, 9\]"):
        session.run(np.ones((1, 3, 9, 9), np.float32))


@pytest.fixture
def real_bytes(residual: Any) -> bytes:
    net, logits = residual(0)
    data: bytes = net.qdq(logits).SerializeToString()
    return data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_of_a_real_file_never_give_a_traceback(real_bytes: bytes, data: st.DataObject) -> None:
    """Either the file is refused in a sentence, or it is looked at like any other: rules and reference raise nothing
    but sentences of their own. No runtime is given a damaged file here: what that does to a process is its own affair.
    """
    damaged = bytearray(real_bytes)
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "model.onnx"
        path.write_bytes(damaged)
        with contextlib.suppress(LimpqError):
            lint(path, TENSORRT)
            IntegerReference(path)
            tuple(static_findings(load_model(path), ONNXRUNTIME))
    finally:
        shutil.rmtree(folder)
