import pytest
import torch
from torch import nn

from limpq_deploy.calibration.observe import Sampled, observe_inputs, sample_inputs


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


def test_a_sample_keeps_both_ends_and_the_middle_of_every_batch() -> None:
    sampled = Sampled(batches=2, limit=1000)
    sampled.add(torch.cat([torch.rand(50_000, generator=torch.Generator().manual_seed(0)), torch.tensor([9.0])]))
    sampled.add(torch.cat([torch.full((50_000,), 2.0), torch.tensor([-7.0])]))
    values = sampled.values()
    assert len(values) == 1002
    assert (values.min(), values.max()) == (-7, 9)
    assert values[:500].clamp(0, 1).mean() == pytest.approx(0.5, abs=0.05)  # four standard deviations of 500 draws
    assert (values[500:1000] == 2).float().mean() > 0.99


def test_a_sample_takes_more_calls_than_it_was_told_of_in_their_order() -> None:
    sampled = Sampled(batches=1, limit=4)
    for numbers in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0]):
        sampled.add(torch.tensor(numbers))
    assert sampled.values().tolist() == [1, 2, 3, 4, 5, 6, 7, 1, 7]


def test_small_inputs_are_sampled_whole() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    batches = [torch.randn(4, 2), torch.randn(3, 2)]
    seen = sample_inputs(model, {"relu": model[1]}, batches, count=2, seed=0)["relu"]
    found = torch.cat([model[0](batch).detach().flatten() for batch in batches])
    assert torch.equal(seen[:-2], found)
    assert torch.equal(seen[-2:], torch.stack([found.min(), found.max()]))
