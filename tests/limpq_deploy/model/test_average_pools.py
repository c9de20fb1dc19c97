"""Average pools: what is left of them once shapes are known."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.model.layers import trace
from limpq_deploy.quant.runtime_arithmetic import WHOLE


def pools_of(pool: nn.Module) -> list[object]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pool, nn.Flatten(), nn.LazyLinear(2)).eval()
    model(torch.zeros(1, 3, 8, 8))
    traced = trace(model, (3, 8, 8))
    image = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(traced.graph_module(image), model(image))
    found: list[object] = []
    for node in traced.graph_module.graph.nodes:
        if traced.kinds[node.name] == "pool":
            found.append("whole" if WHOLE in node.meta else node.args[1:] if node.target is F.avg_pool2d else "windows")
    return found


@pytest.mark.parametrize(
    ("pool", "left"),
    [
        (nn.AdaptiveAvgPool2d(8), []),
        (nn.AdaptiveAvgPool2d((None, None)), []),
        (nn.AvgPool2d(1), []),
        (nn.AdaptiveAvgPool2d((4, 2)), [((2, 4), (2, 4))]),
        (nn.AdaptiveAvgPool2d(1), ["whole"]),
        (nn.AvgPool2d(8), ["whole"]),
        (nn.AvgPool2d(7), ["windows"]),
        (nn.AvgPool2d(1, 2), ["windows"]),
    ],
    ids=str,
)
def test_a_pool_that_does_nothing_goes_and_one_that_divides_has_equal_windows(
    pool: nn.Module, left: list[object]
) -> None:
    assert pools_of(pool) == left


def test_windows_of_several_sizes_and_sums_stay_as_they_are_and_run_in_float() -> None:
    for pool in (nn.AdaptiveAvgPool2d(5), nn.AvgPool2d(2, divisor_override=3)):
        assert pools_of(pool) == []


@pytest.mark.parametrize(("size", "largest"), [(1, 1), ((4, 2), 1), (8, 0)])
def test_an_adaptive_maximum_over_equal_windows_moves_codes(size: int | tuple[int, int], largest: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveMaxPool2d(size)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return torch.cat([self.pool(x), F.adaptive_max_pool2d(x, size)], 1)

    model, image = Net().eval(), torch.randn(2, 3, 8, 8)
    traced = trace(model, (3, 8, 8))
    assert torch.equal(traced.graph_module(image), model(image))
    assert "float" not in traced.kinds.values()
    pools = [node for node in traced.graph_module.graph.nodes if node.target is F.max_pool2d]
    assert len(pools) == 2 * largest


def test_a_maximum_that_gives_its_places_and_one_over_other_windows_run_in_float() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values, places = F.adaptive_max_pool2d(self.conv(x), 2, return_indices=True)
            return (values + places / 64 + F.adaptive_max_pool2d(x, 5).mean()).flatten(1)

    model, image = Net().eval(), torch.randn(1, 3, 8, 8)
    traced = trace(model, (3, 8, 8))
    torch.testing.assert_close(traced.graph_module(image), model(image))
    assert [traced.kinds[node.name] for node in traced.graph_module.graph.nodes].count("float") >= 3
