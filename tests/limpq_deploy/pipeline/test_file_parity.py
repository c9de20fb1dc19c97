"""`limpq-deploy parity FILE.onnx`: images, exit codes, and files that onnxruntime.quantization itself makes."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from limpq_deploy.calibration.errors import ModelError

pytest.importorskip("onnxruntime.quantization", reason="needs the extra limpq-deploy[cpu]")

from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from limpq_deploy.cli.main import main
from limpq_deploy.pipeline.file_parity import check_file

FILES = Path(__file__).parents[2] / "export" / "reference" / "foreign"
QDQ, QOPERATOR = quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator
U8, S8 = quantization.QuantType.QUInt8, quantization.QuantType.QInt8


def parity(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["parity", *map(str, arguments)])


def float_net(opset: int, batch: int | str = "batch") -> onnx.ModelProto:
    """A residual network with every form of activation that mobile networks use."""
    random = np.random.default_rng(0)
    tensors: list[onnx.TensorProto] = []

    def constant(value: Any, name: str) -> str:
        tensors.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def layer(source: str, name: str, *shape: int, **attributes: Any) -> onnx.NodeProto:
        weight = constant(random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape), f"{name}.weight")
        bias = constant(random.normal(0, 0.3, shape[0]), f"{name}.bias")
        return helper.make_node("Conv", [source, weight, bias], [name], name=name, **attributes)

    same = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    cut = [constant(0, "low"), constant(6, "high")]
    nodes = [
        layer("images", "stem", 8, 3, 3, 3, **same),
        helper.make_node("Relu", ["stem"], ["stem.out"], name="stem.relu"),
        layer("stem.out", "depthwise", 8, 1, 3, 3, group=8, **same),
        helper.make_node("Clip", ["depthwise", *cut], ["depthwise.out"], name="depthwise.clip"),
        layer("depthwise.out", "project", 8, 8, 1, 1, kernel_shape=[1, 1]),
        helper.make_node("Add", ["project", "stem.out"], ["sum"], name="sum"),
        helper.make_node("Relu", ["sum"], ["sum.out"], name="sum.relu"),
        helper.make_node("MaxPool", ["sum.out"], ["pool"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["pool"], ["mean"], name="mean"),
        helper.make_node("Sigmoid", ["mean"], ["gate"], name="gate"),
        helper.make_node("Mul", ["pool", "gate"], ["gated"], name="gated"),
        helper.make_node("GlobalAveragePool", ["gated"], ["pooled"], name="pooled"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
        helper.make_node(
            "Gemm",
            ["flat", constant(random.normal(0, 0.4, (5, 8)), "head.weight"), constant(np.zeros(5), "head.bias")],
            ["logits"],
            name="head",
            transB=1,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10)


class Calibration:
    """Four batches of images."""

    def __init__(self, batch: int) -> None:
        images = np.random.default_rng(1).normal(0, 1, (4, batch, 3, 16, 16)).astype(np.float32)
        self.batches = iter([{"images": image} for image in images])

    def get_next(self) -> Any:
        return next(self.batches, None)


def quantized(folder: Path, opset: int = 17, *, batch: int | str = "batch", **options: Any) -> Path:
    """A file as onnxruntime's guide has it made: pre-processed, then quantize_static."""
    onnx.save(float_net(opset, batch), folder / "float.onnx")
    with contextlib.chdir(folder):  # it leaves files where it runs
        quant_pre_process(str(folder / "float.onnx"), str(folder / "prepared.onnx"))
    path = folder / "quantized.onnx"
    quantization.quantize_static(
        str(folder / "prepared.onnx"), str(path), Calibration(batch if isinstance(batch, int) else 1), **options
    )
    return path


FORMS = [
    (13, {"quant_format": QDQ, "activation_type": U8, "weight_type": S8, "per_channel": True}),
    (17, {"quant_format": QDQ, "activation_type": U8, "weight_type": S8, "reduce_range": True}),
    (17, {"quant_format": QDQ, "activation_type": U8, "weight_type": U8}),
    (17, {"quant_format": QDQ, "activation_type": S8, "weight_type": S8, "per_channel": True}),
    (21, {"quant_format": QDQ, "activation_type": S8, "extra_options": {"ActivationSymmetric": True}}),
    (17, {"quant_format": QOPERATOR, "activation_type": U8, "weight_type": S8, "per_channel": True}),
    (17, {"quant_format": QOPERATOR, "activation_type": U8, "weight_type": U8}),
    (13, {"quant_format": QOPERATOR, "activation_type": S8, "weight_type": S8}),
]


@pytest.mark.parametrize(("opset", "options"), FORMS)
def test_no_code_of_a_file_by_onnxruntime_quantization_differs(opset: int, options: Any, tmp_path: Path) -> None:
    found = check_file(quantized(tmp_path, opset, **options), images=10)
    assert found.codes > 20_000
    assert found.images == 10
    assert (found.mismatches, found.logits_equal) == (0, True)
    assert sum(island.mismatches for island in found.islands) == 0


def test_the_command_says_what_it_compared_and_on_what(tmp_path: Path) -> None:
    done = parity(quantized(tmp_path, activation_type=S8), "--images", 3, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["mismatches"], found["logits_equal"], found["images"]) == (0, True, 3)
    assert found["codes"] > 1000
    assert {"name", "operators", "codes", "mismatches"} <= found["islands"][0].keys()
    assert "3 random ones (seed 0)" in found["notes"][0]
    again = json.loads(parity(tmp_path / "quantized.onnx", "--images", 3, "--json").stdout)
    assert again == found


def test_a_file_that_the_runtime_computes_otherwise_ends_with_3(tmp_path: Path) -> None:
    done = parity(FILES / "o_axis1.onnx", "--images", 2)
    assert done.exit_code == 3
    assert "'conv0' has weight scales along its inputs" in done.output.replace("\n", " ")


def test_a_file_outside_ends_with_1_and_one_sentence(tmp_path: Path) -> None:
    done = parity(FILES / "o_scale31.onnx")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: node 'conv0' (Conv) has 31 scales")
    assert done.stderr.count("\n") == 1


def test_options_of_a_file_are_not_for_a_build(tmp_path: Path) -> None:
    done = parity(tmp_path, "--images", 3)
    assert done.exit_code == 2
    assert "are for a file" in done.stderr


def image_folder(root: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / "test" / name).mkdir(parents=True)
        for index in range(3):
            picture = Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8))
            picture.save(root / "test" / name / f"{index}.png")
    return root


def test_images_of_a_data_set_are_fitted_to_the_file(tmp_path: Path) -> None:
    path = quantized(tmp_path, batch=4, activation_type=U8, weight_type=S8)
    found = check_file(path, data=f"imagefolder:{image_folder(tmp_path / 'data')}", images=50)
    assert found.images == 8  # six, filled up to batches of four
    assert found.exact
    assert "resized to 16x16, with ImageNet's mean and deviation" in found.notes[0]


def test_grey_digits_become_the_channels_of_the_file(tmp_path: Path) -> None:
    path = quantized(tmp_path, activation_type=U8, weight_type=S8)
    assert check_file(path, data="digits", images=8).exact


def test_a_file_of_open_size_is_refused(tmp_path: Path) -> None:
    model = float_net(17)
    model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    onnx.save(model, tmp_path / "open.onnx")
    with pytest.raises(ModelError, match=r"leaves the size of its input 'images' open \(\?x3x\?x16\)"):
        check_file(tmp_path / "open.onnx")


@pytest.mark.slow
def test_the_benchmark_prints_one_object_and_finds_no_difference() -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "foreign_parity.py"
    done = subprocess.run([sys.executable, script, "--smoke", "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["mismatches"] == 0
    assert all(one["codes"] > 100_000 and one["logits_equal"] for one in found["files"])
