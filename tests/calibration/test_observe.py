import pytest
import torch
from torch import nn

from limpq_deploy.calibration.observe import observe_inputs


def test_modules_are_seen_in_execution_order_with_what_they_receive() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    seen: list[tuple[str, torch.Tensor]] = []
    images = torch.randn(4, 2)
    observe_inputs(model, {"last": model[2], "first": model[0]}, images, lambda name, x: seen.append((name, x)))
    assert [name for name, _ in seen] == ["first", "last"]
    assert torch.equal(seen[0][1], images)
    assert torch.equal(seen[1][1], model[1](model[0](images)))
    assert not seen[1][1].requires_grad


def test_nothing_is_left_hooked_even_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2))

    def fail(name: str, x: torch.Tensor) -> None:
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="only"):
        observe_inputs(model, {"only": model[0]}, torch.zeros(1, 2), fail)
    assert model(torch.zeros(1, 2)).shape == (1, 2)
