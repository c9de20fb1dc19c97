"""Places of an axis in another order."""

import itertools

import torch
from torch.nn import functional as F

from limpq_deploy.model import axis_orders


def test_even_windows_of_spread_places_have_the_maxima_of_torchs_windows() -> None:
    for old, windows in itertools.product(range(1, 12), repeat=2):
        values = torch.randn(1, 1, old)
        order, length = axis_orders.spread(old, windows)
        found = values[..., order].unflatten(2, (windows, length)).amax(3)
        torch.testing.assert_close(found, F.adaptive_max_pool1d(values, windows), rtol=0, atol=0)


def test_places_around_and_nearest_are_torchs() -> None:
    values = torch.randn(1, 1, 7)
    for before, behind in ((0, 0), (3, 1), (0, 7)):
        expected = F.pad(values, (before, behind), mode="circular")
        torch.testing.assert_close(values[..., axis_orders.around(7, before, behind)], expected, rtol=0, atol=0)
    for size, mode in itertools.product((1, 5, 7, 20), ("nearest", "nearest-exact")):
        expected = F.interpolate(values, size=size, mode=mode)
        torch.testing.assert_close(values[..., axis_orders.nearest(7, size, mode)], expected, rtol=0, atol=0)
