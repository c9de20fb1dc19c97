"""Images with a mask each: a class for every pixel."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limpq_deploy.calibration.datasets.augment import Augment, Moves
from limpq_deploy.calibration.datasets.base import SPLITS, DataSet, Split
from limpq_deploy.calibration.datasets.imagefolder import (
    DECODE_ERRORS,
    ImageFile,
    fingerprint_of,
    load_classes,
)
from limpq_deploy.calibration.datasets.images import (
    files_by_split,
    fit_of,
    split_of_files,
    usual_augment,
)
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.datasets.text import shown
from limpq_deploy.calibration.errors import DataError

IGNORED = 255
"""Of a pixel whose class nobody knows."""

KEPT_BYTES = 128 * 2**20
"""Masks of a split kept in memory once they are read, where all fit."""

IMAGES, MASKS = "images", "masks"


def open_masks(
    root: Path, preprocess: Preprocess | None, classes_file: Path | None, needs: tuple[str, ...] = SPLITS
) -> DataSet:
    """PATH/<split>/images/NAME.jpg with PATH/<split>/masks/NAME.png; or PATH/images and PATH/masks, of which a fixed
    draw makes splits (`files_by_split`).

    A mask is a picture of one channel, or of a palette, whose values are class indices; 255 is left out everywhere. It
    is placed as its image is, by nearest pixels. ``classes_file``: names in index order, which are optional.
    """
    preprocess = fit_of(root, preprocess)
    files, held_out = files_by_split(root, needs, IMAGES)
    augment = usual_augment(preprocess)
    pairs = {name: (some, [_mask_of(file) for file in some]) for name, some in files.items()}
    return DataSet(
        name=f"masks:{root}",
        classes=load_classes(classes_file) if classes_file is not None else (),
        splits={name: _split(some, masks, preprocess, augment) for name, (some, masks) in pairs.items()},
        fingerprint=fingerprint_of(root, [file for some, masks in pairs.values() for file in (*some, *masks)]),
        augment=augment,
        val_held_out=held_out,
        one_label=False,
    )


def _split(files: list[ImageFile], masks: list[ImageFile], preprocess: Preprocess, augment: Augment) -> Split:
    kept: dict[int, NDArray[np.uint8]] = {}
    keeps = len(files) * preprocess.height * preprocess.width <= KEPT_BYTES

    def mask(index: int) -> NDArray[np.uint8]:
        if index not in kept:
            found = preprocess.fit_mask(read_mask(masks[index].path))
            if not keeps:
                return found
            kept[index] = found
        return kept[index]

    def targets(indices: NDArray[np.int64], moves: Moves | None) -> NDArray[np.int64]:
        found = np.stack([mask(index) for index in indices.tolist()])
        if moves is not None:
            found = augment.moved_masks(found, moves, outside=IGNORED)
        return found.astype(np.int64)

    return split_of_files(files, preprocess, targets=targets)


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Class indices [H, W]. Raises DataError for a file that is no mask."""
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P", "1"):
                raise DataError(
                    f"mask {shown(path)} is a picture of mode {picture.mode}; expected one channel of class indices, "
                    "or a palette"
                )
            return np.asarray(picture).astype(np.uint8)
    except DECODE_ERRORS as error:
        raise DataError(f"cannot read mask {shown(path)}: {error}; replace or remove the file") from error


def _mask_of(image: ImageFile) -> ImageFile:
    """The file of the same name, whatever its ending, in the folder of masks beside that of images."""
    at = len(image.path.parts) - 1 - image.path.parts[::-1].index(IMAGES)
    folder = Path(*image.path.parts[:at], MASKS, *image.path.parts[at + 1 : -1])
    path = folder / f"{image.path.stem}.png"
    if not path.is_file():
        raise DataError(f"image {shown(image.path)} has no mask {shown(path)}; expected a mask for every image")
    stat = path.stat()
    return ImageFile(path, "", stat.st_size, stat.st_mtime_ns)
