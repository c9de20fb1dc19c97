"""Every case of the three files of cases ends in the user's own results or in a sentence that names the thing."""

import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.records.targets import target_named
from limpq_deploy.model.given_model import PlainModel, plain, unwrap
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place, with_quantizers

from . import graph_cases, layer_cases, module_cases

CASES = (graph_cases, layer_cases, module_cases)
FACTORIES = {
    name: value
    for cases in CASES
    for name, value in vars(cases).items()
    if inspect.isfunction(value) and inspect.getmodule(value) is cases
}
REFUSED = {
    "fdrop": ("dropout .* draws random numbers", "F.dropout(x, 0.5))"),
    "tied": ("'b.0.weight' and 'b2.0.weight' are one tensor", None),
    "scripted": ("is TorchScript", None),
}
"""What the sentence says, and a piece of the line that it names."""

TOLERANCE = 1e-4
"""Of float32 sums in another order; the cases agree to 1e-6."""


def shape_of(model: nn.Module) -> tuple[int, ...]:
    preprocess = getattr(model, "preprocess", None)
    return (3, 32, 32) if preprocess is None else preprocess.shape


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, which a case is about


def made(name: str) -> PlainModel:
    """A case with weights and statistics that no operation may drop unseen."""
    torch.manual_seed(0)
    model = unwrap(FACTORIES[name]())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.weight, module.bias):
                    assert tensor is not None
                    tensor.copy_(torch.randn(tensor.shape))
                assert module.running_var is not None
                module.running_var.copy_(torch.rand(module.running_var.shape) + 0.5)
    return plain(model)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("name", sorted(FACTORIES.keys() - REFUSED.keys()))
def test_an_accepted_model_computes_what_the_user_s_own_does(name: str, target: str) -> None:
    found = made(name)
    shape = shape_of(found.given)
    traced = trace(found.model, shape)
    placed = with_quantizers(traced, place(traced, target_named(target), model=name), lambda _: nn.Identity())
    images = torch.randn(4, *shape)
    with torch.no_grad():
        expected = found.given.eval()(images.clone())
        got = placed.eval()(images.clone())
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()


def accept(name: str, target: str) -> None:
    found = made(name)
    place(trace(found.model, shape_of(found.given)), target_named(target), model=name)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_model_is_told_what_and_where(name: str, target: str) -> None:
    sentence, piece = REFUSED[name]
    with pytest.raises(ModelError, match=sentence) as refused:
        accept(name, target)
    if piece is not None:
        file = Path(inspect.getfile(FACTORIES[name]))
        lines = file.read_text().splitlines()
        named = re.search(rf"{file.name}:(\d+)", str(refused.value))
        assert named is not None, refused.value
        assert piece in lines[int(named[1]) - 1]
