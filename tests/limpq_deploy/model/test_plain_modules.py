"""Modules that are a BatchNorm2d but for their type."""

import torch
from torch import Tensor, nn

from limpq_deploy.model.given_model import unwrap
from limpq_deploy.model.layers import trace
from limpq_deploy.model.plain_modules import plain_kind
from limpq_deploy.model.zoo.torchvision import import_torchvision


class FrozenBatchNorm2d(nn.Module):
    """As DETR has it, without an ``eps`` of its own."""

    def __init__(self, channels: int, power: float = -0.5) -> None:
        super().__init__()
        self.power = power
        for name in ("weight", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)
        for name in ("bias", "running_mean"):
            self.register_buffer(name, torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (
            getattr(self, name).reshape(1, -1, 1, 1) for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight * (var + 1e-5) ** self.power
        return x * scale + (bias - mean * scale)


def _net(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()


def test_frozen_and_synchronised_ones_are_folded_as_any_other() -> None:
    torch.manual_seed(0)
    import_torchvision()
    from torchvision import ops

    theirs = ops.FrozenBatchNorm2d(4, eps=1e-3)
    theirs.running_mean.normal_()
    for norm in (FrozenBatchNorm2d(4), theirs, nn.SyncBatchNorm(4)):
        model = _net(norm)
        traced = trace(model, (3, 8, 8))
        assert traced.layers[0].batchnorm == "1"
        found = traced.graph_module.get_submodule("1")
        assert type(found) is nn.BatchNorm2d
        assert found.running_mean is norm.running_mean
        images = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(traced.graph_module(images), model(images), rtol=1e-5, atol=1e-5)
        assert type(model[1]) is type(norm)  # type: ignore[index]


def test_a_synchronised_one_is_that_of_vectors_where_these_are_normalised() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.SyncBatchNorm(4), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    model.extend([nn.Linear(4, 6), nn.SyncBatchNorm(6), nn.ReLU(), nn.Linear(6, 2)])
    model[2].running_mean = torch.randn(4)
    images = torch.randn(2, 3, 8, 8)
    expected = model.eval()(images)
    unwrap(model)
    torch.testing.assert_close(model(images), expected, rtol=0, atol=0)
    traced = trace(model, (3, 8, 8))
    assert [layer.batchnorm for layer in traced.layers] == [None, "2", "6", None]
    assert type(traced.graph_module.get_submodule("6")) is nn.BatchNorm1d
    torch.testing.assert_close(traced.graph_module(images), expected, rtol=1e-5, atol=1e-5)


def test_one_that_computes_something_else_is_none() -> None:
    assert plain_kind(FrozenBatchNorm2d(4, power=-0.4)) is None
