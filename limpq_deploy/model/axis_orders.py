"""Which place of an axis each place of a new one is: enlarged, padded around, or spread for maxima of even windows."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def nearest(old: int, size: int, mode: str, scale: float | None = None) -> Tensor:
    """Of ``size`` places the nearest of ``old``, by torch itself, in images. ``scale``: by which it finds them, where
    that is not the ratio of both: 1.3 makes 6 of 5."""
    row = torch.arange(float(old)).reshape(1, 1, 1, old)
    asked: Any = {"size": (1, size)} if scale is None else {"scale_factor": (1.0, scale)}
    return F.interpolate(row, **asked, mode=mode).reshape(-1).long()


def around(old: int, before: int, behind: int) -> Tensor:
    """With so many places of the other end before and behind."""
    return F.pad(torch.arange(float(old)).reshape(1, 1, old), (before, behind), mode="circular").reshape(-1).long()


def spread(old: int, windows: int) -> tuple[Tensor, int]:
    """Torch's adaptive windows beside each other, all as long as the longest: the last place of others stands several
    times, which changes no maximum. Gives their length, too."""
    ends = [(place * old // windows, -(-(place + 1) * old // windows)) for place in range(windows)]
    length = max(end - start for start, end in ends)
    return torch.tensor([min(start + more, end - 1) for start, end in ends for more in range(length)]), length
