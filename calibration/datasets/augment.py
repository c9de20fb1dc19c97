"""Seeded augmentation of whole batches, vectorised."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Random crop out of an image padded with ``pad`` black pixels on every side, then a mirror image for half.

    The habit for CIFAR (He et al., CVPR 2016) is ``pad=4, flip=True``; digits must not be mirrored.
    """

    pad: int
    flip: bool

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad is a number of pixels, not {self.pad}")

    def apply(self, images_NCHW: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Augmented copies, shape unchanged; the same ``rng`` state gives the same batch."""
        num, _, height, width = images_NCHW.shape
        sides = (self.pad, self.pad)
        padded = np.pad(images_NCHW, ((0, 0), (0, 0), sides, sides))
        windows = sliding_window_view(padded, (height, width), axis=(2, 3))
        top, left = rng.integers(0, 2 * self.pad + 1, (2, num))
        crops = windows[np.arange(num), :, top, left]
        if self.flip:
            mirrored = rng.random(num) < 0.5
            crops[mirrored] = crops[mirrored, :, :, ::-1]
        return crops
