"""Seeded augmentation of whole batches, vectorised."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from limpq_deploy.calibration.datasets.preprocess import Preprocess


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Of each image of a batch [N]: the crop's corner in the padded image, in pixels, and whether it is mirrored."""

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    mirrored: NDArray[np.bool_]

    def part(self, chosen: slice) -> "Moves":
        """Those of some images."""
        return Moves(top=self.top[chosen], left=self.left[chosen], mirrored=self.mirrored[chosen])


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Random crop out of an image padded with ``pad`` pixels on every side, then a mirror image for half.

    The habit for CIFAR (He et al., CVPR 2016) is ``pad=4, flip=True``; digits must not be mirrored. ``fill``: colour
    of the padding, one value 0 to 255 per channel; empty for black. Where black is not the background, the mean of the
    images is better (`mean_fill`): at low bits black borders cost points of top-1 (docs/adr/0012).
    """

    pad: int
    flip: bool
    fill: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad is a number of pixels, not {self.pad}")
        if not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"fill holds values from 0 to 255, not {list(self.fill)}")

    def apply(self, images_NCHW: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Augmented copies, shape unchanged; the same ``rng`` state gives the same batch."""
        return self.moved(images_NCHW, self.draw(len(images_NCHW), rng))

    def draw(self, num: int, rng: np.random.Generator) -> Moves:
        """What happens to each of ``num`` images."""
        top, left = rng.integers(0, 2 * self.pad + 1, (2, num))
        return Moves(top=top, left=left, mirrored=rng.random(num) < 0.5 if self.flip else np.zeros(num, np.bool_))

    def moved(self, images_NCHW: NDArray[np.uint8], moves: Moves) -> NDArray[np.uint8]:
        """Copies to which this has happened, shape unchanged."""
        return self._moved(images_NCHW, moves, self.fill)

    def moved_masks(self, masks_NHW: NDArray[np.uint8], moves: Moves, *, outside: int) -> NDArray[np.uint8]:
        """Masks moved as their images are; ``outside`` is what the border holds."""
        return self._moved(masks_NHW[:, None], moves, (outside,))[:, 0]

    def _moved(self, images_NCHW: NDArray[np.uint8], moves: Moves, fill: tuple[int, ...]) -> NDArray[np.uint8]:
        num, _, height, width = images_NCHW.shape
        sides = (self.pad, self.pad)
        padded = np.pad(images_NCHW, ((0, 0), (0, 0), sides, sides))
        if fill and self.pad:
            colour = np.array(fill, np.uint8)[:, None, None]
            for border in (slice(self.pad), slice(-self.pad, None)):
                padded[:, :, border, :] = colour
                padded[:, :, :, border] = colour
        windows = sliding_window_view(padded, (height, width), axis=(2, 3))
        crops = windows[np.arange(num), :, moves.top, moves.left]
        crops[moves.mirrored] = crops[moves.mirrored, :, :, ::-1]
        return crops


def mean_fill(preprocess: Preprocess) -> tuple[int, ...]:
    """The mean colour that images are normalised by, as pixel values: 0 after normalisation."""
    return tuple(min(max(round(255 * value), 0), 255) for value in preprocess.mean)
