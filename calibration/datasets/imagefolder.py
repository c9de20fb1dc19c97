"""A folder tree of images: PATH/<split>/<class>/<image>."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limpq_deploy.calibration.datasets.augment import Augment, mean_fill
from limpq_deploy.calibration.datasets.base import SPLITS, DataSet, Split, hold_out
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.datasets.text import shown
from limpq_deploy.calibration.errors import DataError, RecordError
from limpq_deploy.calibration.json_text import load_json

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError)
"""What Pillow's decoders raise on damaged files."""

DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow modes with more than 8 bits per pixel, which a conversion to RGB would cut off."""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of images, in any case: those of torchvision's ImageFolder."""

FOLDERS = {"val": ("val", "valid", "validation")}
"""Folders that hold a split, in any case, where they may have other names."""

LIKE_VAL = ("val", "dev", "eval")
"""How names begin of folders that are probably a validation split."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    path: Path
    label: str
    size: int
    mtime_ns: int


def open_imagefolder(
    root: Path, preprocess: Preprocess | None, classes_file: Path | None, needs: tuple[str, ...] = SPLITS
) -> DataSet:
    """Every visible file below PATH/<split>/<class> whose name ends as torchvision's images do (`EXTENSIONS`) is an
    image, in sorted order; hidden files and folders, and all others (Thumbs.db, README.txt), are ignored.

    ``valid`` and ``validation`` are other names of ``val``, and upper case is as good. Without it the last tenth of
    every class in ``train`` validates instead. Classes are the sorted folder names, equal in all splits; or, with
    ``classes_file`` (a JSON list of folder names in the model's class order), those of the list, of which a split may
    have any part. Only the splits in ``needs`` are looked at; where none is named, all that there are.

    Pixels are those of the file, as torchvision reads it: an EXIF orientation is not applied, and an alpha channel is
    dropped, so that the colours beneath it count.

    The fingerprint takes every file's path, size and modification time, not its content: reading a large set to the
    end would cost more than the stages it can save. Touching a file redoes the work; replacing one while keeping its
    size and its time to the nanosecond goes unnoticed.
    """
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist; expected a folder with train/<class>/<image> and test/")
    if preprocess is None:
        raise DataError(
            f"the size and normalisation of the images in {root} are not known; give the model a "
            "'preprocess' attribute: model.preprocess = Preprocess(height=224, width=224, mean=(...), std=(...)), from "
            "limpq_deploy.calibration.datasets"
        )
    try:
        folders = split_folders(root, needs)
        held_out = "train" in folders and "val" not in folders
        wanted = {*needs, "train"} if held_out and "val" in needs else set(needs or folders)
        found = {
            name: list(_files(folders[name], partial=classes_file is not None)) for name in folders if name in wanted
        }
    except OSError as error:
        raise DataError(
            f"cannot list {error.filename}: {error.strerror}; make the folder readable or remove it"
        ) from error
    if not found:
        missing = " or ".join(filter(None, (", ".join((needs or SPLITS)[:-1]), (needs or SPLITS)[-1])))
        raise DataError(
            f"{root} has no folder {missing}{', only ' + ', '.join(folders) if folders else ''}; expected "
            f"{root}/<split>/<class>/<image>"
        )
    for name, files in found.items():
        if not files:
            raise DataError(
                f"{folders[name]} holds no image; expected {folders[name]}/<class>/<image>, where <image> ends in "
                f"{', '.join(EXTENSIONS)}"
            )
    if classes_file is None:
        classes = _common_classes(root, found)
    else:
        classes = _listed_classes(root, found, classes_file)
    splits = {name: _split(files, classes, preprocess) for name, files in found.items()}
    if held_out and "train" in splits:
        splits["train"], splits["val"] = hold_out(splits["train"])
    return DataSet(
        name=f"imagefolder:{root}",
        classes=classes,
        splits=splits,
        fingerprint=fingerprint_of(root, [file for files in found.values() for file in files]),
        augment=Augment(pad=min(preprocess.height, preprocess.width) // 8, flip=True, fill=mean_fill(preprocess)),
        val_held_out=held_out,
    )


def split_folders(root: Path, needs: tuple[str, ...]) -> dict[str, Path]:
    """The folder of each split that is there. Raises DataError where two are of one split that is needed, and where
    validation would be held out of train beside a folder that seems to be made for it."""
    folders = {}
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    for split in SPLITS:
        there = [root / name for name in names if name.lower() in FOLDERS.get(split, (split,))]
        if len(there) > 1 and split in needs:
            raise DataError(f"{' and '.join(map(str, there))} are both the split {split}; keep one of them")
        if there:
            folders[split] = there[0]
    like_val = [root / name for name in names if name.lower().startswith(LIKE_VAL)]
    if "val" in needs and "val" not in folders and like_val:
        raise DataError(
            f"{like_val[0]} may be meant for validation, and its name is none of {', '.join(FOLDERS['val'])}; rename "
            "it to val, or, where it is something else, move it out of the data folder"
        )
    return folders


def _files(folder: Path, *, partial: bool) -> Iterator[ImageFile]:
    """Images of a split. Raises DataError for a class without any: where classes may be left out (``partial``) a folder
    may be empty, but not hold other files alone."""
    with os.scandir(folder) as entries:
        labels = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for label in labels:
        images = others = 0
        for path, stat in visible_files(folder / label):
            if path.suffix.lower() not in EXTENSIONS:
                others += 1
                continue
            images += 1
            if stat.st_size == 0:
                raise DataError(f"cannot read image {shown(path)}: the file is empty; replace or remove it")
            yield ImageFile(path, label, stat.st_size, stat.st_mtime_ns)
        if not images and (others or not partial):
            raise DataError(
                f"{shown(folder / label)} holds no image; expected files that end in {', '.join(EXTENSIONS)}: add "
                "some, or remove the folder"
            )


def visible_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in visible:
        if entry.is_dir():
            yield from visible_files(Path(entry.path))
        else:
            try:
                yield Path(entry.path), entry.stat()
            except OSError as error:
                raise DataError(
                    f"cannot read image {shown(entry.path)}: {error.strerror}; replace or remove the file"
                ) from error


def _common_classes(root: Path, found: dict[str, list[ImageFile]]) -> tuple[str, ...]:
    per_split = {name: {file.label for file in files} for name, files in found.items()}
    union = set().union(*per_split.values())
    for name, labels in per_split.items():
        if labels != union:
            raise DataError(
                f"{root / name} has no images of {_some(sorted(union - labels))}, which other splits have; give "
                "--classes with all class names in the model's order"
            )
    return tuple(sorted(union))


def _listed_classes(root: Path, found: dict[str, list[ImageFile]], classes_file: Path) -> tuple[str, ...]:
    classes = load_classes(classes_file)
    for name, files in found.items():
        unknown = sorted({file.label for file in files} - set(classes))
        if unknown:
            raise DataError(f"{root / name} has folders that {classes_file} does not list: {_some(unknown)}")
    return classes


def load_classes(path: Path) -> tuple[str, ...]:
    """Class names in index order from a JSON list of distinct strings; DataError for anything else."""
    try:
        names = load_json(path, "a JSON list of names")
    except RecordError as error:
        raise DataError(f"class list: {error}") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"class list {path} must be a JSON list of folder names in the model's class order")
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise DataError(f"class list {path} repeats {_some(repeated)}; every name stands for one class index")
    return tuple(names)


def _split(files: list[ImageFile], classes: tuple[str, ...], preprocess: Preprocess) -> Split:
    index_of = {name: index for index, name in enumerate(classes)}
    return Split(
        labels=[index_of[file.label] for file in files],
        read=lambda index: decode(files[index].path),
        preprocess=preprocess,
        glance=lambda index: glance(files[index].path),
    )


def decode(path: Path) -> NDArray[np.uint8]:
    """An image file as RGB, uint8 HWC; DataError with its path where it cannot be decoded whole."""
    try:
        with Image.open(path) as picture:
            _require_8_bits(path, picture)
            return np.asarray(picture.convert("RGB"))
    except DECODE_ERRORS as error:
        raise _unreadable(path, error) from error


def glance(path: Path) -> None:
    """Raise DataError unless the header is that of an image that Pillow reads."""
    try:
        with Image.open(path) as picture:
            _require_8_bits(path, picture)
    except DECODE_ERRORS as error:
        raise _unreadable(path, error) from error


def _require_8_bits(path: Path, picture: Image.Image) -> None:
    if picture.mode in DEEP_MODES:
        raise DataError(
            f"image {shown(path)} has pixels of more than 8 bits (Pillow mode {picture.mode}); convert it to 8 bits"
        )


def _unreadable(path: Path, error: BaseException) -> DataError:
    reason = "not an image that Pillow knows" if isinstance(error, Image.UnidentifiedImageError) else str(error)
    return DataError(f"cannot read image {shown(path)}: {reason}; replace or remove the file")


def fingerprint_of(root: Path, files: Iterable[ImageFile]) -> str:
    """Changes with every file's path, size and modification time."""
    digest = hashlib.sha256()
    for file in files:
        relative = os.path.relpath(file.path, root)
        digest.update(f"{relative}\0{file.size}\0{file.mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _some(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
