"""Modules under two names are saved once; tensors of two layers that are one are refused."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.tied import distinct, load_distinct, require_untied


def two() -> dict[str, nn.Module]:
    return {"a": nn.Conv2d(2, 2, 3), "b": nn.Conv2d(2, 2, 3)}


def one_parameter(a: nn.Module, b: nn.Module) -> None:
    b.weight = a.weight


def one_memory(a: nn.Module, b: nn.Module) -> None:
    assert isinstance(a.weight, torch.Tensor)
    b.weight = nn.Parameter(a.weight)


def a_part(a: nn.Module, b: nn.Module) -> None:
    base = torch.zeros(3, 2, 3, 3)
    a.weight, b.weight = nn.Parameter(base[:2]), nn.Parameter(base[1:])


@pytest.mark.parametrize("tie", [one_parameter, one_memory, a_part])
def test_tied_tensors_are_named_both(tie: Callable[[nn.Module, nn.Module], None]) -> None:
    modules = two()
    tie(*modules.values())
    with pytest.raises(ModelError, match=r"'a.weight' and 'b.weight' are one tensor, .* give 'b' a copy"):
        require_untied(modules)


def test_neighbours_in_one_buffer_are_not_tied() -> None:
    modules = two()
    base = torch.zeros(4, 2, 3, 3)
    modules["a"].weight, modules["b"].weight = nn.Parameter(base[:2]), nn.Parameter(base[2:])
    require_untied(modules)


def test_a_state_is_saved_once_and_loaded_under_every_name() -> None:
    inner = nn.Linear(2, 3)
    model = nn.ModuleDict({"first": inner, "second": inner, "third": nn.Linear(2, 3)})
    flat = torch.randn(12)
    model["third"].weight = nn.Parameter(flat[2:8].view(3, 2))
    state = dict(distinct(model.state_dict()))
    assert sorted(state) == ["first.bias", "first.weight", "third.bias", "third.weight"]
    assert all(tensor.untyped_storage().nbytes() == 4 * tensor.numel() for tensor in state.values())
    other = nn.ModuleDict({"first": (again := nn.Linear(2, 3)), "second": again, "third": nn.Linear(2, 3)})
    load_distinct(other, state)
    assert torch.equal(again.weight, inner.weight)
    with pytest.raises(KeyError, match=r"third\.bias"):
        load_distinct(other, {name: tensor for name, tensor in state.items() if name != "third.bias"})


class Renewed(nn.Module):
    """It asks for its version, as torchvision's MNASNet does."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *others: object) -> None:
        if local_metadata.get("version") != 2:
            raise ValueError(f"version should be 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


def test_what_was_saved_of_a_module_that_asks_for_its_version_is_loaded_again() -> None:
    model, other = Renewed(), Renewed()
    load_distinct(other, dict(distinct(model.state_dict())))
    assert torch.equal(other.layer.weight, model.layer.weight)
