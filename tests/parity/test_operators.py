"""Single operators inside a small network, from torch to ONNX Runtime and to TensorRT's file: what has an integer form
runs in integers, and every one of its codes equals the integer reference's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from limpq_deploy.export.lint.check import lint  # noqa: E402
from limpq_deploy.export.qdq.build import strip_markers  # noqa: E402
from limpq_deploy.export.records.targets import TENSORRT, TENSORRT_RTX, TargetSpec  # noqa: E402

from .test_mobile_nets import SHAPE, compared, conv, quantized  # noqa: E402

Operator = Callable[[Tensor], Tensor]


class Around(nn.Module):
    """An operator between two convolutions, its input with negative values or without."""

    def __init__(self, operator: Operator | nn.Module, shape: tuple[int, ...], *, relu: bool = True) -> None:
        super().__init__()
        self.stem, self.relu, self.operator = conv(3, 8, 3, stride=2), relu, operator
        self.behind = conv(shape[0], 6, 3)
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.operator(F.relu(x) if self.relu else x)
        return self.linear(F.relu(self.behind(x)).mean((2, 3)))


OPERATORS: dict[str, Callable[[], Operator]] = {
    "average, padding counted": lambda: nn.AvgPool2d(3, 1, 1),
    "average, padding not counted": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average of uneven windows": lambda: nn.AvgPool2d((3, 2), (2, 1)),
    "average, ceil mode": lambda: nn.AvgPool2d(3, 2, ceil_mode=True),
    "average, ceil mode, padding counted": lambda: nn.AvgPool2d(2, 3, 1, ceil_mode=True),
    "average, ceil mode, padding not counted": lambda: nn.AvgPool2d(2, 3, 1, ceil_mode=True, count_include_pad=False),
    "adaptive average that divides": lambda: nn.AdaptiveAvgPool2d((4, 2)),
    "average to the size that is there": lambda: nn.AdaptiveAvgPool2d(8),
    "function of averages": lambda: lambda x: F.avg_pool2d(F.adaptive_avg_pool2d(x, (8, 8)), 2),
}


def shuffled(x: Tensor) -> Tensor:
    """ShuffleNet's."""
    images, channels, height, width = x.size()
    return x.view(images, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(images, -1, height, width)


def focused(x: Tensor) -> Tensor:
    """YOLOv5's first layer: every second pixel, four times."""
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


def attended(x: Tensor) -> Tensor:
    """Pixels as tokens and back."""
    return x.flatten(2).permute(0, 2, 1).roll(3, 1).transpose(1, 2).unflatten(2, (8, 8))


OPERATORS |= {
    "chunk": lambda: lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split in parts of several sizes": lambda: lambda x: torch.cat(torch.split(x, [3, 1, 4], dim=1)[1:], 1),
    "unbind and stack": lambda: lambda x: torch.stack(x.unflatten(1, (2, 4)).unbind(1), 2).flatten(1, 2),
    "shuffle of channels": lambda: shuffled,
    "every second pixel": lambda: focused,
    "tokens": lambda: attended,
    "pixel shuffle": lambda: nn.PixelShuffle(2),
    "pixel unshuffle": lambda: nn.PixelUnshuffle(2),
    "roll": lambda: lambda x: torch.roll(x, (1, -3), (2, 3)),
    "squeeze, unsqueeze, expand": lambda: lambda x: x[:, :, :1].squeeze(2).unsqueeze(-1).expand(-1, -1, -1, 4),
    "one channel": lambda: lambda x: torch.stack([x[:, 2], x[:, 1]], 1),
    "permute": lambda: lambda x: x.permute(0, 3, 1, 2),
}


class Normed(nn.Module):
    """A BatchNorm behind a sum that something else reads, too, and one of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.linear, self.vectors, self.lone = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv(F.relu(self.norm(x)))
        y = F.relu(self.lone(F.relu(self.vectors(self.linear(x.mean((2, 3)))))))
        return torch.cat([x, y[:, :, None, None].expand(-1, -1, 8, 8)], 1)


OPERATORS |= {
    "BatchNorm": lambda: nn.BatchNorm2d(8),
    "BatchNorm, then ReLU": lambda: nn.Sequential(nn.BatchNorm2d(8), nn.ReLU6()),
    "several BatchNorms": Normed,
}


class Shared(nn.Module):
    """A ReLU of a tensor that something else reads, too."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * 0.5
        return torch.cat([F.relu(x), F.relu6(x[:, :4]), x], 1)


FUNCTIONS: dict[str, Callable[[], Operator]] = {
    "leaky ReLU": lambda: nn.LeakyReLU(0.1),
    "leaky ReLU of a small slope": lambda: nn.LeakyReLU(),
    "PReLU": lambda: nn.PReLU(),
    "ReLUs elsewhere": Shared,
    "GELU": nn.GELU,
    "GELU by tanh": lambda: nn.GELU("tanh"),
    "Mish": nn.Mish,
    "ELU": nn.ELU,
    "Tanh": nn.Tanh,
    "Softplus": nn.Softplus,
    "clamp": lambda: lambda x: x.clamp(-0.5, 0.7),
    "Hardtanh": nn.Hardtanh,
    "numbers": lambda: lambda x: (1 - x / 3) ** 2 + 0.1,
    "with itself": lambda: lambda x: (x + x) * (x + x),
}
OPERATORS |= FUNCTIONS


class Tokens(nn.Module):
    """Linear layers of pixels, with a GELU and with a ReLU between them, and of rows before images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        y = y + self.second(F.gelu(self.first(y)))
        y = F.relu(self.third(y)).flatten(1, 2).transpose(0, 1)
        return y.permute(1, 2, 0)


class Pixels(nn.Module):
    """Tokens as (tokens, images, channels), as attention has them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2).permute(2, 0, 1)).permute(1, 2, 0).unflatten(2, (8, 8))


def enlarging(kernel: int | tuple[int, int], stride: int | tuple[int, int], **options: Any) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(8, 6, kernel, stride, **options), nn.BatchNorm2d(6), nn.ReLU())


OPERATORS |= {
    "Upsample": lambda: nn.Upsample(scale_factor=2),
    "interpolate to a size": lambda: lambda x: F.interpolate(x, (16, 24)),
    "interpolate by part of a factor": lambda: lambda x: F.interpolate(x, (12, 5)),
    "ConvTranspose2d 2x2": lambda: enlarging(2, 2),
    "ConvTranspose2d 4x4": lambda: enlarging(4, 2, padding=1, groups=2, bias=False),
    "ConvTranspose2d 3x3": lambda: nn.ConvTranspose2d(8, 4, 3, 2, padding=1, output_padding=1),
    "ConvTranspose2d of stride 1": lambda: enlarging(3, 1, padding=1),
    "Linear of pixels": lambda: nn.Sequential(Tokens(), nn.Unflatten(2, (8, 8))),
    "Linear of tokens first": Pixels,
    "sum with a mean": lambda: lambda x: x + x.mean((2, 3), keepdim=True),
    "product with a map": lambda: lambda x: x * torch.sigmoid(x[:, :1]),
    "sum with a map": lambda: lambda x: x + x[:, :1],
}


class Scaled(nn.Module):
    """A layer scale of pixels, one of channels, a bias of its own, and weights that are standardised."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv, self.norm = nn.Linear(8, 8), nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.gamma, self.delta = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.randn(8))
        self.factor = nn.Parameter(torch.tensor(0.7))
        self.own = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.gamma * self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = F.relu(self.norm(self.conv(y)) * self.factor + self.delta.view(1, -1, 1, 1))
        weight = self.own.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(y, weight, self.own.bias, padding=1)


OPERATORS |= {"parameters": Scaled}


class Signals(nn.Module):
    """Rows behind each other: convolutions of one axis with all that they may have, BatchNorms, pools, a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(8, 8, 5, stride=2, padding=2, groups=2, bias=False), nn.BatchNorm1d(8)
        self.deep, self.lone = nn.Conv1d(8, 8, 4, padding="same", dilation=2), nn.BatchNorm1d(8)
        self.up = nn.ConvTranspose1d(8, 8, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x.flatten(2))))
        x = self.lone(x + F.max_pool1d(self.deep(F.pad(x, (2, 0))), 3, 1))
        gate = torch.sigmoid(F.adaptive_avg_pool1d(x, 1))
        return F.relu(self.up(x * gate)).unflatten(2, (8, 8))


class Attended(nn.Module):
    """Efficient channel attention: a convolution along the channels of a pooled image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x.mean((2, 3)).unsqueeze(1))).transpose(1, 2)[..., None]


OPERATORS |= {
    "reflected padding": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "circular padding": lambda: lambda x: F.pad(x, (1, 1, 2, 0), mode="circular"),
    "replicated padding": lambda: nn.Sequential(nn.ReplicationPad2d((2, 0, 1, 1)), nn.Conv2d(8, 8, 3)),
    "signals": Signals,
    "attention of channels": Attended,
    "largest and mean along an axis": lambda: lambda x: (x.max(2)[0] + x.mean(2)).unsqueeze(2).expand(-1, -1, 3, -1),
    "ConvTranspose2d of two strides": lambda: enlarging((3, 4), (1, 2), padding=(1, 1)),
}


def randomise(model: nn.Module) -> None:
    """Statistics that no operation may drop unseen."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor in (module.running_mean, module.weight, module.bias):
                    if tensor is not None:
                        tensor.copy_(torch.randn(tensor.shape) * 0.5 + 0.2)


def around(name: str, *, relu: bool) -> nn.Module:
    torch.manual_seed(0)
    operator = OPERATORS[name]()
    if isinstance(operator, nn.Module):
        operator.eval()
    channels = operator(torch.zeros(1, 8, 8, 8)).shape[1:]
    model = Around(operator, channels, relu=relu)
    randomise(model)
    return model.eval()


FAST = (
    *("average, ceil mode, padding counted", "shuffle of channels", "several BatchNorms", "GELU", "parameters"),
    *("ConvTranspose2d 4x4", "Linear of pixels", "interpolate by part of a factor", "ReLUs elsewhere", "signals"),
    "reflected padding",
)
"""One of each kind; all others are slow together."""
EACH = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in OPERATORS]
SIGNS = [pytest.param(True, id="positive", marks=pytest.mark.slow), pytest.param(False, id="signed")]


@pytest.mark.parametrize("relu", SIGNS)
@pytest.mark.parametrize("name", EACH)
def test_an_operator_runs_in_integers_and_equals_the_reference(name: str, relu: bool, tmp_path: Path) -> None:
    net = quantized(around(name, relu=relu))
    report, trained, linted = compared(net, tmp_path / "model.onnx")
    assert report.exact, [(entry.tensor, entry.mismatches) for entry in report.tensors if entry.mismatches]
    assert not report.unwatched
    assert linted.passed, linted.findings
    assert linted.float_compute == ()
    assert linted.float_nodes == ()
    assert max(entry.max_lsb for entry in trained.faithful) <= 1


@pytest.mark.parametrize("target", [TENSORRT], ids=lambda target: target.name)
@pytest.mark.parametrize("name", EACH)
def test_the_float_model_and_tensorrts_file_compute_what_torch_does(name: str, target: TargetSpec) -> None:
    model = around(name, relu=False)
    images = torch.randn(5, *SHAPE)
    net = quantized(model, target, pair=(8, 8))
    with torch.no_grad():
        expected = model.eval()(images).numpy()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL

    def run(file: object) -> np.ndarray:
        session = ort.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]
        found: np.ndarray = session.run(None, {"images": images.numpy()})[0]
        return found

    # float32 sums in another order, BatchNorm folded into the weights
    np.testing.assert_allclose(run(strip_markers(net.template)), expected, atol=1e-4 * np.abs(expected).max())
    with torch.no_grad():
        trained = net.model(images).numpy()
    # sums in another order put a value on a tie one step off, which the layers behind it pass on
    np.testing.assert_allclose(run(net.file), trained, atol=0.05 * np.abs(trained).max())


@pytest.mark.parametrize("target", [TENSORRT, TENSORRT_RTX], ids=lambda target: target.name)
@pytest.mark.parametrize("name", ["signals", pytest.param("reflected padding", marks=pytest.mark.slow)])
def test_nvidias_compiler_computes_every_layer_in_int8(name: str, target: TargetSpec) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")
    report = lint(quantized(around(name, relu=True), target, pair=(8, 8)).file, target, compiler=True)
    assert report.compiler is not None
    assert report.compiler.as_planned, report.compiler.detail
    assert report.compiler.as_floats == ()
    assert report.findings == ()
