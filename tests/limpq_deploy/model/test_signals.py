"""Networks of one axis, or with a part of one, traced as images of one row."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.islands import for_target
from limpq_deploy.model.layers import TracedModel, trace

SHAPE = (3, 6, 8)


class Of(nn.Module):
    """``body(signals, *modules)`` of signals [N, 4, 48] behind a stem."""

    def __init__(self, body: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.parts = nn.Conv2d(3, 4, 1), body, nn.ModuleList(modules)
        self.head = nn.Linear(body(torch.zeros(2, 4, 48), *modules).flatten(1).shape[1], 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x).flatten(2), *self.parts).flatten(1))


def chained(x: Tensor, *parts: nn.Module) -> Tensor:
    for part in parts:
        x = part(x)
    return x


def same(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> TracedModel:
    """The traced model, which computes what the model does."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None
            module.running_mean.normal_()
    traced = trace(model.eval(), shape)
    for count in (1, 4):
        images = torch.randn(count, *shape)
        # float32 sums in another order
        torch.testing.assert_close(traced.graph_module(images), model(images), rtol=1e-4, atol=1e-5)
    return for_target(traced, ONNXRUNTIME)


def names(traced: TracedModel) -> list[str]:
    """What is called in order, but for sizes."""
    return [
        str(node.target) if isinstance(node.target, str) else node.target.__name__
        for node in traced.graph_module.graph.nodes
        if node.op.startswith("call") and traced.kinds[node.name] != "shape"
    ]


class Chain(nn.Module):
    """Rows of an image as channels; a dilated and a depthwise convolution, BatchNorms, a pool, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm1d(8)
        self.deep, self.deep_norm = nn.Conv1d(8, 8, 4, padding="same", dilation=2, groups=8), nn.BatchNorm1d(8)
        self.last, self.pool, self.head = nn.Conv1d(8, 5, 1), nn.MaxPool1d(2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x.squeeze(1))))
        x = x + F.relu(self.deep_norm(self.deep(x)))
        return self.head(F.relu(self.pool(self.last(x))).mean(2))


def test_between_layers_of_signals_nothing_is_moved() -> None:
    torch.manual_seed(0)
    model = Chain()
    traced = same(model, (1, 6, 16))
    assert names(traced) == [
        *("squeeze", "unsqueeze", "first", "norm", "relu", "deep", "deep_norm", "relu", "add", "last", "relu"),
        *("max_pool2d", "mean", "head"),
    ]
    assert [(one.name, one.kind, one.batchnorm) for one in traced.layers] == [
        *(("first", "conv", "norm"), ("deep", "conv", "deep_norm"), ("last", "conv", None), ("head", "linear", None)),
    ]
    assert {one.name: (one.macs, one.num_weights) for one in traced.layers} == {
        "first": (8 * 6 * 3 * 8, 8 * 6 * 3),
        "deep": (8 * 4 * 8, 8 * 4),
        "last": (5 * 8 * 8, 5 * 8),
        "head": (10, 10),
    }
    assert "float" not in traced.kinds.values()


def test_the_models_own_modules_stay_and_weights_are_in_their_memory() -> None:
    torch.manual_seed(0)
    model = Chain()
    traced = trace(model.eval(), (1, 6, 16))
    assert type(model.first) is nn.Conv1d
    assert type(model.norm) is nn.BatchNorm1d
    found = traced.graph_module.get_submodule("first").weight
    assert found.shape == (8, 6, 1, 3)
    assert found.data_ptr() == model.first.weight.data_ptr()  # type: ignore[operator]
    assert traced.graph_module.get_submodule("norm").weight is model.norm.weight


class Gated(nn.Module):
    """A block of WaveNet: halves of channels, causal padding, a skip; one convolution twice."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.back = nn.Conv1d(4, 8, 3), nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            left, right = self.both(F.pad(x, (2, 0))).chunk(2, dim=1)
            x = x + self.back(torch.tanh(left) * torch.sigmoid(right))
        return x


class Excited(nn.Module):
    """Squeeze and excitation of signals, by convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv1d(4, 2, 1), nn.Conv1d(2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean(-1, keepdim=True)))))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.norm = nn.Conv1d(4, 6, 3, 2, 1), nn.ConvTranspose1d(6, 4, 4, 2, 1), nn.BatchNorm1d(4)
        self.near, self.last = nn.Upsample(scale_factor=2), nn.Conv1d(14, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.down(x))
        return self.last(torch.cat([x, F.relu(self.norm(self.up(y))), self.near(y)], 1))


class Scaled(nn.Module):
    """Weights, a fixed filter and a factor for each channel, all the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 2, 3)), nn.Parameter(torch.randn(6))
        self.smooth: Tensor
        self.register_buffer("smooth", torch.ones(6, 1, 5) / 5)
        self.factor = nn.Parameter(torch.rand(6, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv1d(x, self.weight, self.bias, 2, 1, groups=2)
        return F.conv1d(x, self.smooth, padding=2, groups=6) * self.factor


BODIES: dict[str, Callable[[], nn.Module]] = {
    "gated": lambda: Of(lambda x, part: part(x), Gated()),
    "excited": lambda: Of(lambda x, part: part(x), Excited()),
    "u-net": lambda: Of(lambda x, part: part(x), UNet()),
    "own weights": lambda: Of(lambda x, part: part(x), Scaled()),
    "norm alone": lambda: Of(lambda x, norm: norm(x), nn.BatchNorm1d(4)),
    "norm without parameters": lambda: Of(lambda x, norm: norm(F.relu(x)), nn.BatchNorm1d(4, affine=False)),
    "synchronised": lambda: Of(chained, nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4)),
    "cut behind": lambda: Of(lambda x, conv: F.relu(conv(x)[:, :, :-2]), nn.Conv1d(4, 4, 3, padding=2)),
    "cut by dots": lambda: Of(lambda x, conv: conv(x)[..., 1::2], nn.Conv1d(4, 4, 3)),
    "one behind the other": lambda: Of(lambda x, conv: torch.cat((conv(x), x), -1), nn.Conv1d(4, 4, 1)),
    "to vectors": lambda: Of(lambda x, conv: conv(x).view(len(x), -1), nn.Conv1d(4, 4, 1)),
    "last one": lambda: Of(lambda x, conv: conv(x)[:, :, -1], nn.Conv1d(4, 4, 1)),
    "largest": lambda: Of(lambda x, conv: conv(x).max(2)[0], nn.Conv1d(4, 4, 1)),
    "largest kept": lambda: Of(lambda x, conv: torch.amax(conv(x), -1, keepdim=True), nn.Conv1d(4, 4, 1)),
    "mean of turned": lambda: Of(lambda x, conv: conv(x).permute(2, 0, 1).mean(0), nn.Conv1d(4, 4, 1)),
    "dropout": lambda: Of(chained, nn.Conv1d(4, 4, 3), nn.Dropout1d(), nn.SELU()),
    "alpha dropout": lambda: Of(lambda x, drop: drop(x), nn.Sequential(nn.Conv1d(4, 4, 3), nn.AlphaDropout())),
    "zeros in front": lambda: Of(chained, nn.ZeroPad1d((2, 0)), nn.Conv1d(4, 4, 3)),
    "SiLU": lambda: Of(lambda x, conv: F.silu(conv(x)), nn.Conv1d(4, 4, 3)),
    "back to images": lambda: Of(
        lambda x, one, two: two(one(x).reshape(len(x), 4, 6, 8)), nn.Conv1d(4, 4, 1), nn.Conv2d(4, 2, 3)
    ),
    "between images": lambda: Of(
        lambda x, one, two: two(F.relu(one(x)).unsqueeze(2)).squeeze(2), nn.Conv1d(4, 4, 1), nn.Conv2d(4, 2, (1, 3))
    ),
    "tokens": lambda: Of(
        lambda x, *parts: parts[1](parts[0](x.transpose(1, 2)).transpose(1, 2)).transpose(1, 2),
        *(nn.Linear(4, 6), nn.Conv1d(6, 6, 3, padding=1, groups=6)),
    ),
    "windows": lambda: Of(chained, nn.Conv1d(4, 4, 3), nn.AvgPool1d(3, 2, 1)),
    "adaptive windows": lambda: Of(lambda x: F.adaptive_avg_pool1d(x, 6) + F.adaptive_max_pool1d(x, 6)),
    "made larger by a factor": lambda: Of(lambda x, conv: F.interpolate(conv(x), scale_factor=1.3), nn.Conv1d(4, 4, 3)),
    "channels attended": lambda: Of(
        lambda x, conv: x * torch.sigmoid(conv(x.mean(2).unsqueeze(1))).transpose(1, 2), nn.Conv1d(1, 1, 3, padding=1)
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_signals_are_made_of_has_an_integer_form(name: str) -> None:
    torch.manual_seed(0)
    model = BODIES[name]()
    if name == "synchronised":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    traced = same(model)
    assert "float" not in traced.kinds.values(), traced.reasons


@pytest.mark.parametrize("name", ["gated", "excited", "u-net", "own weights"])
def test_signals_stay_images_through_a_whole_block(name: str) -> None:
    torch.manual_seed(0)
    traced = same(BODIES[name]())
    first, *behind = names(traced)[2:]
    assert first == "unsqueeze"
    assert not {"squeeze", "unsqueeze"} & set(behind)


FLOATS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "pad of ones": (lambda: nn.ConstantPad1d(1, 1.0), "pads with the value 1"),
    "transposed with dilation": (lambda: nn.ConvTranspose1d(4, 4, 3, dilation=2), "(ConvTranspose1d)"),
    "InstanceNorm": (lambda: nn.InstanceNorm1d(4, affine=True), "(InstanceNorm1d)"),
    "PReLU of channels": (lambda: nn.PReLU(4), "(PReLU)"),
    "uneven windows": (lambda: nn.AdaptiveAvgPool1d(5), "pools to 1x5"),
}


@pytest.mark.parametrize("name", FLOATS)
def test_what_has_no_integer_form_is_named_and_what_follows_is_quantized(name: str) -> None:
    torch.manual_seed(0)
    make, words = FLOATS[name]
    before, behind = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 3, 3)
    traced = same(Of(chained, before, make(), behind))
    assert [words in reason for reason in traced.reasons.values()] == [True]
    assert [layer.name for layer in traced.layers] == ["stem", "parts.0", "parts.2", "head"]


def test_a_tensor_that_an_operator_reads_as_well_keeps_its_shape() -> None:
    torch.manual_seed(0)
    model = Of(lambda x, conv: conv(x) * conv.weight.abs().mean((1, 2)).reshape(-1, 1), nn.Conv1d(4, 4, 3))
    assert "parts.0" in {layer.name for layer in same(model).layers}


def test_a_norm_of_vectors_and_of_signals_is_that_of_vectors_still() -> None:
    torch.manual_seed(0)
    model = Of(lambda x, conv, norm: norm(norm(conv(x)).mean(2)), nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4))
    assert "batchnorm" in same(model).kinds.values()


@pytest.mark.parametrize(
    "body",
    [
        lambda x, conv: conv(x[:, :, None, :1][:, [3, 0, 2, 1], 0]),
        lambda x, conv: conv(x).mean(2, keepdim=True)[:, [3, 0, 2, 1], 0],
        lambda x, conv: conv(x.reshape(len(x), 4, 6, 8)[:, :, [0, 0, 1, 1] * 12, [0, 1, 2] * 16]).mean(2),
        lambda x, conv: conv(x) + x.reshape(len(x), 4, 6, 8)[:, :, [0, 0, 1, 1] * 12, [0, 1, 2] * 16].mean(2, True),
    ],
)
def test_places_in_another_order_are_no_other_shape(body: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    same(Of(body, nn.Conv1d(4, 4, 3, padding=1)))


@pytest.mark.parametrize("factor", [1.3, 2.3, 3.4])
def test_few_places_are_made_more_as_torch_does_it(factor: float) -> None:
    torch.manual_seed(0)
    model = Of(lambda x, conv: F.interpolate(conv(x[..., :3]), scale_factor=factor), nn.Conv1d(4, 4, 1))
    same(model)
