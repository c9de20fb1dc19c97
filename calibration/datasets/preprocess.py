"""From a decoded image to the float tensor that a model reads."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_PIXELS = 8192
"""Of a side: 0.8 GB for one float32 image of three channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Geometry and normalisation of a model's input; travels as JSON in the exported model.

    ``height``, ``width``: the input in pixels. ``mean``, ``std``: one number per channel, for pixels scaled to [0, 1].
    ``resize``: length in pixels of the short side before a centre crop to height x width (ImageNet's habit); None: an
    image of another size is resized straight to height x width. Both resize bilinearly, with Pillow's antialiasing.
    ``channels``: 3 (RGB; a grey image is repeated), 1 (grey; colours become ITU-R 601 luma), or any other number, of
    inputs that are floats already.

    Raises ValueError for numbers that contradict each other.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"an input has at least one pixel, not {self.height}x{self.width}")
        if max(self.height, self.width, self.resize or 0) > MOST_PIXELS:
            raise ValueError(
                f"an input of {self.height}x{self.width} pixels, short side {self.resize}, is beyond {MOST_PIXELS:,} "
                "of a side"
            )
        if self.channels < 1:
            raise ValueError(f"an input has at least one channel, not {self.channels}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"expected a mean and a std for each of {self.channels} channels, found {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise ValueError(f"mean and std must be finite and std positive, found {self.mean} and {self.std}")
        if self.resize is not None and self.resize < max(self.height, self.width):
            raise ValueError(f"a short side of {self.resize} is too small for a {self.height}x{self.width} crop")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        return self.channels, self.height, self.width

    def apply(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One input, float32 CHW, from one uint8 image: HWC with 1 or 3 channels, or HW."""
        return self.normalise(self.fit(image_HWC)[None])[0]

    def fit(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image in the input's channels, height and width, still uint8, as CHW."""
        image = image_HWC[..., None] if image_HWC.ndim == 2 else image_HWC
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            raise ValueError(f"expected a uint8 image, HWC with 1 or 3 channels; found {image.dtype} {image.shape}")
        if self.channels not in (1, 3):
            raise ValueError(f"an input of {self.channels} channels is made of no image; give it as floats, CHW")
        if image.shape != (self.height, self.width, self.channels) or self.resize is not None:
            picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
            image = np.asarray(self._place(picture.convert("RGB" if self.channels == 3 else "L")))
        return image.reshape(self.height, self.width, self.channels).transpose(2, 0, 1)

    def fit_mask(self, mask_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask of class indices as `fit` places its image, [height, width]; no index is mixed with another."""
        if mask_HW.dtype != np.uint8 or mask_HW.ndim != 2:
            raise ValueError(f"expected a uint8 mask, HW; found {mask_HW.dtype} {mask_HW.shape}")
        return np.asarray(self._place(Image.fromarray(mask_HW), Image.Resampling.NEAREST))

    def fit_points(self, points_N2: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
        """Points (x, y) of an image of this size, in pixels of the input that `fit` makes of it; they may lie
        outside."""
        if self.resize is None:
            return points_N2 * (self.width / width, self.height / height)
        short = min(width, height)
        scaled = (width * self.resize // short, height * self.resize // short)
        corner = round((scaled[0] - self.width) / 2), round((scaled[1] - self.height) / 2)
        return points_N2 * (scaled[0] / width, scaled[1] / height) - corner

    def normalise(self, images_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(x / 255 - mean) / std, computed in float32 as x * (1 / (255 std)) - mean / std."""
        mean, std = np.array(self.mean), np.array(self.std)
        out = images_NCHW.astype(np.float32, order="C")
        out *= (1 / (255 * std)).astype(np.float32)[:, None, None]
        out -= (mean / std).astype(np.float32)[:, None, None]
        return out

    def pixels(self, images_NCHW: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The pixels that `normalise` made these images of. Raises ValueError where it did not."""
        mean, std = (np.array(values)[:, None, None] for values in (self.mean, self.std))
        found = np.rint(np.clip((images_NCHW * std + mean) * 255, 0, 255)).astype(np.uint8)
        if not np.array_equal(self.normalise(found), images_NCHW):
            raise ValueError("these images are not made of pixels by this preprocessing")
        return found

    def of_pixels(self) -> "Preprocess":
        """The same geometry for a model that takes pixels: its floats are whole numbers from 0 to 255."""
        return replace(self, mean=(0.0,) * self.channels, std=(1 / 255,) * self.channels)

    def _place(self, picture: Image.Image, resampling: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
        if self.resize is None:
            return _resized(picture, (self.width, self.height), resampling)
        short = min(picture.size)
        size = (picture.width * self.resize // short, picture.height * self.resize // short)
        scaled = _resized(picture, size, resampling)
        left, top = round((scaled.width - self.width) / 2), round((scaled.height - self.height) / 2)
        return scaled.crop((left, top, left + self.width, top + self.height))


def _resized(picture: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, resampling)
