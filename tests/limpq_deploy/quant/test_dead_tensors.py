"""Tensors of zeros, next to nothing or very large: constants are exactly representable, and nothing is refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT, TargetSpec
from limpq_deploy.export.reference.executor import IntegerReference
from limpq_deploy.export.reference.given_comparison import relative_difference
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime, open_as_written
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place
from limpq_deploy.quant.fold_model import integer_model
from limpq_deploy.quant.folded_forward import folded_forward
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit, model_of_policy
from limpq_deploy.train.finetune import finetune
from limpq_deploy.train.finetuned import Top1
from limpq_deploy.train.joint import train_indicators
from limpq_deploy.train.settings import FinetuneSettings, JointSettings


class Net(nn.Module):
    """Layers with a BatchNorm, with a bias of their own, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.an = nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, 1, 1)
        self.c, self.cn = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.d = nn.Conv2d(8, 12, 3, 2, 1)
        self.fc = nn.Linear(12, 10)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.an(self.a(images_NCHW)))
        x = torch.relu(self.cn(self.c(torch.relu(self.b(x)))) + x)
        return self.fc(torch.relu(self.d(x)).mean((2, 3)))


def times(factor: float, *names: str) -> Callable[[Net], None]:
    def change(model: Net) -> None:
        for name in names:
            model.get_parameter(name).mul_(factor)

    return change


def filled(value: float, name: str) -> Callable[[Net], None]:
    def change(model: Net) -> None:
        model.state_dict()[name].fill_(value)

    return change


CASES: dict[str, Callable[[Net], None]] = {
    "a convolution of zeros": times(0, "b.weight"),
    "one of zeros and its bias too": times(0, "b.weight", "b.bias"),
    "zeros before a BatchNorm": times(0, "c.weight"),
    "a head of zeros": times(0, "fc.weight"),
    "a stem of zeros": times(0, "a.weight"),
    "weights of 1e-9": times(1e-9, "b.weight"),
    "weights of 1e-9 before a BatchNorm": times(1e-9, "c.weight"),
    "a head of 1e-9": times(1e-9, "fc.weight"),
    "denormal weights": times(1e-39, "b.weight"),
    "a denormal head": times(1e-39, "fc.weight"),
    "a ReLU that is 0": filled(-100, "b.bias"),
    "a ReLU that is 0 behind a BatchNorm": filled(-100, "an.bias"),
    "the last ReLU is 0": filled(-1e4, "d.bias"),
    "gamma of 0": filled(0, "cn.weight"),
    "gamma of 1e-20": filled(1e-20, "cn.weight"),
    "a variance of 0": filled(0, "an.running_var"),
    "weights of 1e6": times(1e6, "b.weight"),
    "a bias of 1e7": filled(1e7, "b.bias"),
    "a head of 1e10": times(1e10, "fc.weight"),
}

SMALL_HIDDEN = {
    "the same function": times(1, "b.weight"),
    "a hidden tensor of 1e-9": lambda model: (times(1e-9, "b.weight", "b.bias")(model), times(1e9, "c.weight")(model)),
    "a hidden tensor of 1e-20": lambda model: (
        times(1e-20, "b.weight", "b.bias")(model),
        times(1e20, "c.weight")(model),
    ),
    "a hidden tensor of 1e9": lambda model: (times(1e9, "b.weight", "b.bias")(model), times(1e-9, "c.weight")(model)),
}


def changed(change: Callable[[Net], object]) -> Net:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = Net().train()
        model(torch.randn(32, 1, 16, 16))
        change(model.eval())
    return model


IMAGES = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def templates() -> dict[str, onnx.ModelProto]:
    """By target; integers replace whatever weights they have."""
    found = {}
    for target in (ONNXRUNTIME, TENSORRT):
        traced = trace(changed(lambda model: None), (1, 16, 16))
        placement = place(traced, target, model="net")
        found[target.name] = float_template(traced, placement)
    return found


def quantized(model: nn.Module, target: TargetSpec, images: torch.Tensor, scales: str = "free") -> QuantizedModel:
    traced = equalise_channels(trace(copy.deepcopy(model), (1, 16, 16)))
    placement = place(traced, target, model="net")
    policy = {layer.name: (8, 8) for layer in placement.searched}
    made = model_of_policy(traced, placement, policy, scales=scales)  # type: ignore[arg-type]
    made.initialise_scales(images)
    made.set_bits(policy)
    return made.eval()


def executed(
    made: QuantizedModel, template: onnx.ModelProto, images: torch.Tensor, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the file, which its integer reference gives too, and of the model as exported."""
    policy = {layer.name: (8, 8) for layer in made.placement.searched}
    layers, acts = integer_model(made, policy)
    file = build_qdq(template, made.placement, layers, acts, {})
    with torch.no_grad(), folded_forward(made, layers):
        own = made(images).numpy()
    if made.placement.target != "onnxruntime":
        return open_as_written(file).run(images.numpy()), own
    (folder / "model.onnx").write_bytes(file.SerializeToString())
    logits = OnnxRuntime().load(folder / "model.onnx").run(images.numpy())
    expected, _ = IntegerReference(folder / "model.onnx").run(images.numpy(), keep=())
    assert logits.tobytes() == expected.tobytes()
    return logits, own


@pytest.mark.parametrize("scales", ["free", "pow2"])
@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT], ids=lambda target: target.name)
@pytest.mark.parametrize("case", CASES)
def test_what_is_constant_or_large_builds_and_computes_what_the_float_model_does(
    case: str, target: TargetSpec, scales: str, templates: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    """10 %: 8 bits cost these fresh weights 0.6 % without any change, and 5 % where a large tensor has no bias beside
    it and scales are powers of two."""
    model = changed(CASES[case])
    with torch.no_grad():
        exact = model(IMAGES).numpy()
    found, own = executed(quantized(model, target, IMAGES, scales), templates[target.name], IMAGES, tmp_path)
    assert relative_difference(exact, found) < 0.1
    assert relative_difference(own, found) < 1e-5


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_images_build(value: float, templates: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    images, model = torch.full_like(IMAGES, value), changed(lambda model: None)
    with torch.no_grad():
        exact = model(images).numpy()
    found, _ = executed(quantized(model, ONNXRUNTIME, images), templates["onnxruntime"], images, tmp_path)
    assert relative_difference(exact, found) < 0.05


def test_the_size_of_a_hidden_tensor_makes_no_difference(templates: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    found = {
        name: executed(quantized(changed(change), ONNXRUNTIME, IMAGES), templates["onnxruntime"], IMAGES, tmp_path)[0]
        for name, change in SMALL_HIDDEN.items()
    }
    for name, logits in found.items():
        assert relative_difference(found["the same function"], logits) < 1e-3, name


SHORT: dict[str, Any] = {
    **{"steps": 3, "batch_size": 16, "learning_rate": 0.01, "scale_learning_rate": 0.01, "warmup_steps": 1},
    **{"weight_decay": 1e-4, "label_smoothing": 0.1},
}
TRAINED = ["one of zeros and its bias too", "denormal weights", "a ReLU that is 0", "gamma of 0", "weights of 1e6"]


@pytest.mark.parametrize("case", TRAINED)
def test_training_keeps_what_is_dead_representable(
    case: str, few_digits: DataSet, templates: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    model = changed(CASES[case])
    traced = equalise_channels(trace(model, (1, 16, 16)))
    placement = place(traced, ONNXRUNTIME, model="net")
    _, joint = train_indicators(
        traced, placement, few_digits, bits=(4, 8), settings=JointSettings(**SHORT, first_images=32), seed=0
    )
    policy = {layer.name: (8, 8) for layer in placement.searched}
    made = model_of_policy(traced, placement, policy)
    inherit(made, joint)
    finetune(
        made,
        policy,
        few_digits,
        settings=FinetuneSettings(**SHORT, candidates=1, batchnorm_images=64),
        seed=0,
        float_top1=Top1(val=0.0, test=0.0),
        teacher=traced.graph_module,
    )
    found, own = executed(made.eval(), templates["onnxruntime"], IMAGES, tmp_path)
    assert np.isfinite(found).all()
    assert relative_difference(own, found) < 0.05  # single steps at ties of rounding
