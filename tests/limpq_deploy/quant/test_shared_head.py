import contextlib

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME, REFERENCE, TENSORRT
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model
from limpq_deploy.quant.shared_head import shared_head
from limpq_deploy.train.joint import uniform

BITS = (2, 3, 6)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 1, 16, 16, generator=generator), torch.randint(10, (8,), generator=generator)


def passes(model: QuantizedModel, images: torch.Tensor) -> list[torch.Tensor]:
    """Logits of one pass for each width; gradients add up."""
    found = []
    for width in BITS:
        model.set_bits(uniform(model.placement, width))
        logits = model(images)
        F.cross_entropy(logits, batch()[1]).backward()
        found.append(logits.detach())
    return found


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT, REFERENCE], ids=lambda target: target.name)
def test_gradients_are_those_of_passes_that_share_nothing(tiny_model: nn.Module, target: object) -> None:
    traced = trace(tiny_model, (1, 16, 16))
    placement = place(traced, target, model="tiny")  # type: ignore[arg-type]
    images = batch()[0].double()
    found = []
    for shared in (False, True):
        model = joint_model(traced, placement, BITS).double()
        model.initialise_scales(images)
        model.train()
        with model.passes_over_one_batch() if shared else contextlib.nullcontext():
            logits = passes(model, images)
        found.append((logits, {name: parameter.grad for name, parameter in model.named_parameters()}))
    (plain, wanted), (once, grads) = found
    assert all(torch.equal(one, other) for one, other in zip(plain, once, strict=True))
    assert model._common is not None
    for name, expected in wanted.items():
        assert (expected is None) == (grads[name] is None), name
        if expected is not None:
            # The same float64 terms, added up in another order.
            torch.testing.assert_close(grads[name], expected, rtol=1e-9, atol=1e-12, msg=name)


def test_the_pinned_head_runs_once_for_all_passes_and_its_batchnorm_sees_the_batch_once(
    tiny: tuple[TracedModel, Placement],
) -> None:
    model = joint_model(*tiny, BITS)
    model.initialise_scales(batch()[0])
    model.train()
    calls: list[str] = []
    for name in ("conv1", "conv2"):
        model.quant_layer(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    before = model.batchnorm("bn1").running_mean[0].clone()
    with model.passes_over_one_batch():
        passes(model, batch()[0])
    assert calls == ["conv1"] + ["conv2"] * len(BITS)
    with torch.no_grad():
        model.batchnorm("bn1").train(False)
        conv1 = model.quant_layer("conv1")(model.act_quantizer(tiny[1].layer("conv1").input)(batch()[0]))
    expected = 0.9 * before + 0.1 * conv1.mean((0, 2, 3))
    torch.testing.assert_close(model.batchnorm("bn1").running_mean[0], expected)


def test_outside_the_model_runs_whole_on_any_images(tiny: tuple[TracedModel, Placement]) -> None:
    model = joint_model(*tiny, BITS)
    model.initialise_scales(batch()[0])
    model.set_bits(uniform(tiny[1], 3))
    with model.passes_over_one_batch():
        inside = model(batch()[0])
    model.eval()
    assert not torch.equal(model(batch()[0][:3]), model(batch()[0][3:6]))
    assert inside.shape == (8, 10)


Switch = nn.Tanh
"""Stands for a module that changes from pass to pass."""


class Net(nn.Module):
    """A convolution, something behind it, and what changes from pass to pass."""

    def __init__(self, middle: nn.Module, last: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.middle, self.switch, self.last = nn.Conv2d(1, 2, 3), middle, Switch(), last or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.middle(self.conv(x))
        return self.switch(x) + self.last(x)


def split(net: nn.Module) -> tuple[list[str], list[str]] | None:
    part = shared_head(fx.symbolic_trace(net), lambda module: isinstance(module, Switch))
    if part is None:
        return None
    head, rest = ([str(n.target) for n in g.graph.nodes if n.op == "call_module"] for g in (part.head, part.rest))
    return head, rest


def test_what_draws_random_numbers_is_not_shared() -> None:
    assert split(Net(nn.ReLU())) == (["conv", "middle", "last"], ["switch"])
    assert split(Net(nn.Dropout())) == (["conv"], ["middle", "switch", "last"])


def test_a_result_that_is_overwritten_is_not_shared() -> None:
    assert split(Net(nn.ReLU(inplace=True))) == (["conv", "middle", "last"], ["switch"])
    assert split(Net(nn.Identity(), nn.ReLU(inplace=True))) is None


def test_a_network_whose_first_module_switches_has_nothing_in_common() -> None:
    assert split(nn.Sequential(Switch(), nn.Conv2d(1, 1, 1))) is None
