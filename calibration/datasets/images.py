"""Images without labels: a folder, and whatever lies in it."""

from pathlib import Path

import numpy as np

from limpq_deploy.calibration.datasets.augment import Augment, mean_fill
from limpq_deploy.calibration.datasets.base import SPLITS, DataSet, Split, Targets
from limpq_deploy.calibration.datasets.imagefolder import (
    EXTENSIONS,
    ImageFile,
    decode,
    fingerprint_of,
    glance,
    split_folders,
    visible_files,
)
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.datasets.text import shown
from limpq_deploy.calibration.errors import DataError

FIT = (
    "from limpq_deploy.calibration.datasets: model.preprocess = Preprocess(height=224, width=224, mean=(...), "
    "std=(...))"
)


def open_images(
    root: Path, preprocess: Preprocess | None, classes_file: Path | None, needs: tuple[str, ...] = SPLITS
) -> DataSet:
    """Every visible image below PATH, without labels: PATH/train, PATH/val and PATH/test where there is a train folder
    (of any depth, so that an image folder with classes will do), else a fixed draw of all: 80, 10 and 10 percent.

    Where ``val`` or ``test`` is missing beside train, a tenth of train is drawn for it.
    """
    preprocess = fit_of(root, preprocess)
    files, held_out = files_by_split(root, needs)
    return DataSet(
        name=f"images:{root}",
        classes=(),
        splits={name: split_of_files(some, preprocess, labelled=False) for name, some in files.items()},
        fingerprint=fingerprint_of(root, [file for some in files.values() for file in some]),
        augment=usual_augment(preprocess),
        val_held_out=held_out,
        one_label=False,
    )


def open_calibration(root: Path, preprocess: Preprocess | None) -> tuple[Split, str]:
    """All images below a folder as one split without labels, and their fingerprint."""
    files = image_files(root)
    return split_of_files(files, fit_of(root, preprocess), labelled=False), fingerprint_of(root, files)


def files_by_split(root: Path, needs: tuple[str, ...], inside: str = "") -> tuple[dict[str, list[ImageFile]], bool]:
    """The images of each split, below its folder's ``inside``; and whether ``val`` was taken from train. Where PATH has
    no train folder and no other split that is needed, all of PATH's are drawn from. Raises DataError for none at
    all."""
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist; expected a folder of images")
    try:
        folders = split_folders(root, ())
    except OSError as error:
        raise DataError(f"cannot list {root}: {error.strerror}; make the folder readable") from error
    folders = {name: folder / inside for name, folder in folders.items() if (folder / inside).is_dir()}
    if "train" not in folders and not all(name in folders for name in needs or SPLITS):
        return drawn_splits(image_files(root / inside), SPLITS), True
    found = {name: image_files(folder) for name, folder in folders.items() if name in needs or name == "train"}
    missing = tuple(name for name in ("val", "test") if name in needs and name not in found)
    if missing:
        found |= drawn_splits(found["train"], ("train", *missing))
    return found, "val" in missing


def image_files(folder: Path) -> list[ImageFile]:
    """Images at any depth, in sorted order. Raises DataError where there is none, or an empty one."""
    if not folder.is_dir():
        raise DataError(f"{shown(folder)} is no folder; expected one of images")
    try:
        found = [
            ImageFile(path, "", stat.st_size, stat.st_mtime_ns)
            for path, stat in visible_files(folder)
            if path.suffix.lower() in EXTENSIONS
        ]
    except OSError as error:
        raise DataError(f"cannot list {error.filename}: {error.strerror}; make the folder readable") from error
    empty = next((file for file in found if file.size == 0), None)
    if empty is not None:
        raise DataError(f"cannot read image {shown(empty.path)}: the file is empty; replace or remove it")
    if not found:
        raise DataError(f"{shown(folder)} holds no image; expected files that end in {', '.join(EXTENSIONS)}")
    return found


def drawn_splits(files: list[ImageFile], names: tuple[str, ...]) -> dict[str, list[ImageFile]]:
    """A tenth, at least one image, for each name but the first, which takes the rest; the same draw every time.
    Raises DataError for too few images."""
    if len(files) < len(names):
        raise DataError(
            f"{shown(files[0].path.parent)} holds {len(files)} images; expected at least {len(names)}, one for each of "
            f"{', '.join(names)}"
        )
    order = np.random.default_rng((0, len(files))).permutation(len(files))
    size = max(1, len(files) // 10)
    found = {}
    for name in names[1:]:
        found[name], order = sorted(order[:size].tolist()), order[size:]
    found[names[0]] = sorted(order.tolist())
    return {name: [files[index] for index in found[name]] for name in names}


def split_of_files(
    files: list[ImageFile],
    preprocess: Preprocess,
    *,
    targets: Targets | None = None,
    labelled: bool = True,
) -> Split:
    """A split of image files that have no label each."""
    paths = [file.path for file in files]
    return Split(
        labels=np.zeros(len(paths), np.int64),
        read=lambda index: decode(paths[index]),
        preprocess=preprocess,
        glance=lambda index: glance(paths[index]),
        targets=targets,
        labelled=labelled,
    )


def fit_of(root: Path, preprocess: Preprocess | None) -> Preprocess:
    """The model's preprocessing. Raises DataError where it names none."""
    if preprocess is None:
        raise DataError(
            f"the size and normalisation of the images in {root} are not known; give the model a 'preprocess' "
            f"attribute, {FIT}"
        )
    return preprocess


def usual_augment(preprocess: Preprocess) -> Augment:
    return Augment(pad=min(preprocess.height, preprocess.width) // 8, flip=True, fill=mean_fill(preprocess))
