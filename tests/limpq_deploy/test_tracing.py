"""Tracing: what stops it is named with its line, and timm's modules come apart."""

import importlib.util

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.layers import trace
from limpq_deploy.tracing import symbolic_trace


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            x = -x
        return self.linear(x)


def test_a_branch_on_values_is_named_with_its_line() -> None:
    line = Branching.forward.__code__.co_firstlineno + 1
    with pytest.raises(ModelError, match=rf"cannot be traced: .* \(test_tracing.py:{line}\); its forward must not"):
        symbolic_trace(Branching())


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 2, 2, stride=2)
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        return self.linear(x.mean((2, 3)))


def test_a_transposed_convolution_is_refused_with_its_line() -> None:
    line = Upsampling.forward.__code__.co_firstlineno + 1
    with pytest.raises(
        ModelError, match=rf"layer up \(ConvTranspose2d\) has no integer form here \(test_tracing.py:{line}\)"
    ):
        trace(Upsampling().eval(), (3, 4, 4))


def test_timms_fused_batchnorm_comes_apart_and_its_linear_is_plain() -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs the extra limpq-deploy[timm]")
    from limpq_deploy.models import create_model

    model, _ = create_model("timm/mobilenetv2_050", num_classes=7)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.normal_()
    traced = trace(model.eval(), (3, 32, 32))
    assert len(traced.layers) == 53
    assert all(layer.batchnorm is not None for layer in traced.layers[:-1])
    modules = [traced.graph_module.get_submodule(layer.batchnorm) for layer in traced.layers if layer.batchnorm]
    assert {type(module) for module in modules} == {nn.BatchNorm2d}
    assert type(traced.graph_module.get_submodule("classifier")) is nn.Linear
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=0, atol=0)
