"""Data sets of the user: ``module:factory``."""

from limpq_deploy.calibration.datasets.base import DataSet
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.errors import DataError
from limpq_deploy.calibration.factories import load_factory


def open_custom(name: str, preprocess: Preprocess | None) -> DataSet:
    """What the user's factory returns, checked.

    The factory is called with the model's `Preprocess` (None where the model names none) and returns a `DataSet`::

        def flowers(preprocess):
            images, labels = ...                       # uint8 NHWC, int
            train, val = hold_out(split_of_arrays(images[:900], labels[:900], preprocess))
            test = split_of_arrays(images[900:], labels[900:], preprocess)
            return DataSet(name="flowers", classes=("rose", "tulip"), fingerprint=digest_of_arrays(images, labels),
                           splits={"train": train, "val": val, "test": test})

    Images that do not fit in memory: ``Split(labels=..., read=..., preprocess=...)``.
    """
    dataset = load_factory(name, DataError)(preprocess)
    if not isinstance(dataset, DataSet):
        missing = [part for part in ("classes", "split", "digest") if not hasattr(dataset, part)]
        lacks = f", without {' and '.join(missing)}" if missing else ""
        raise DataError(
            f"{name!r} returned a {type(dataset).__name__}{lacks}; expected a limpq_deploy.calibration.datasets.DataSet"
        )
    return dataset
