"""Data sets by name: a new one is one file and one line of `KINDS`."""

from collections.abc import Callable
from pathlib import Path

from limpq_deploy.calibration.datasets.augment import Augment
from limpq_deploy.calibration.datasets.base import (
    SPLITS,
    DataSet,
    Split,
    digest_of_arrays,
    hold_out,
    require_classes,
    split_of_arrays,
)
from limpq_deploy.calibration.datasets.boxes import open_boxes
from limpq_deploy.calibration.datasets.cifar10 import open_cifar10
from limpq_deploy.calibration.datasets.custom import open_custom
from limpq_deploy.calibration.datasets.digits import open_digits
from limpq_deploy.calibration.datasets.imagefolder import open_imagefolder
from limpq_deploy.calibration.datasets.images import open_calibration, open_images
from limpq_deploy.calibration.datasets.masks import IGNORED, open_masks
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.errors import DataError
from limpq_deploy.calibration.factories import is_factory_name
from limpq_deploy.calibration.suggestions import did_you_mean

__all__ = [
    "FORMS",
    "IGNORED",
    "SPLITS",
    "Augment",
    "DataSet",
    "Preprocess",
    "Split",
    "digest_of_arrays",
    "hold_out",
    "open_calibration",
    "open_dataset",
    "require_classes",
    "split_of_arrays",
]

FORMS = "digits, imagefolder:PATH, images:PATH, masks:PATH, coco:PATH, cifar10:PATH or module:factory"

KINDS: dict[str, Callable[[Path, Preprocess | None, Path | None, tuple[str, ...]], DataSet]] = {
    "imagefolder": open_imagefolder,
    "images": open_images,
    "masks": open_masks,
    "coco": open_boxes,
    "cifar10": lambda path, preprocess, _, needs: open_cifar10(path, preprocess, needs=needs),
}
"""Kinds of data sets that stand at a path; each reads the splits that are needed."""


def open_dataset(
    spec: str,
    preprocess: Preprocess | None = None,
    classes_file: Path | None = None,
    needs: tuple[str, ...] = SPLITS,
) -> DataSet:
    """The data set that ``spec`` names, its images fitted to a model's ``preprocess`` (None: the data set's own).

    ``classes_file`` maps folders to class indices, see `open_imagefolder`. ``needs``: the splits that must be there; of
    data at a path no other is looked at. Without any, those are opened that are there.
    Raises DataError in one sentence for anything that is missing, MissingExtra where a package is.
    """
    kind, _, rest = spec.partition(":")
    if classes_file is not None and kind != "imagefolder":
        raise DataError(f"--classes has no meaning for {spec!r}, whose classes have an order; leave it away")
    if spec == "digits":
        dataset = open_digits(preprocess)
    elif kind in KINDS and rest:
        dataset = KINDS[kind](Path(rest).expanduser(), preprocess, classes_file, needs)
    elif kind not in KINDS and is_factory_name(spec):
        dataset = open_custom(spec, preprocess)
    else:
        near = did_you_mean(kind, ("digits", *KINDS))
        raise DataError(f"unknown data set {spec!r}; expected {FORMS}{near}")
    for name in needs:
        dataset.split(name)
    return dataset
