"""What forwards ask of values. pytest would rewrite these assertions in a file of tests."""

import contextlib

import torch
from torch import Tensor


def asserted(x: Tensor) -> None:
    assert not torch.isnan(x).any(), f"of {x.sum()}"
    assert x.min() > -9 and (x.max() < 9 or x.dim() == 3)  # noqa: PT018
    assert all(image.isfinite().all() for image in x.unbind(1))
    torch._assert((x < 9).all(), "too large")


def raised(x: Tensor) -> None:
    if torch.isnan(x).any() or not torch.isfinite(x).all():
        raise ValueError("no numbers")
    if not (-9 < x.mean() < 9):
        raise ValueError("far from zero")


def scaled(x: Tensor) -> None:
    if x.max() > 1:
        x /= 255
    assert x.max() <= 1


def warned(x: Tensor) -> None:
    if not x.isfinite().all():
        print("no numbers")


def caught(x: Tensor) -> None:
    try:
        assert x.max() <= 1
    except AssertionError:
        x /= 255


def suppressed(x: Tensor) -> None:
    with contextlib.suppress(AssertionError):
        assert x.max() > 1
        x /= 255
