"""Data sets of the user: ``module:factory``."""

import inspect
from collections.abc import Callable
from typing import Any

from limpq_deploy.calibration.datasets.base import DataSet
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.errors import DataError
from limpq_deploy.calibration.factories import call_factory, load_factory


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
    factory = load_factory(name, DataError)
    if not _takes_one(factory):
        raise DataError(
            f"{name!r} cannot be called with one argument; expected a function of the model's preprocessing "
            "(which may be None) that returns a DataSet"
        )
    dataset = call_factory(name, factory, DataError, preprocess)
    if not isinstance(dataset, DataSet):
        missing = [part for part in ("classes", "split", "digest") if not hasattr(dataset, part)]
        lacks = f", without {' and '.join(missing)}" if missing else ""
        raise DataError(
            f"{name!r} returned a {type(dataset).__name__}{lacks}; expected a limpq_deploy.calibration.datasets.DataSet"
        )
    return dataset


def _takes_one(factory: Callable[..., Any]) -> bool:
    """Whether a call with one positional argument binds; taken for granted where Python cannot tell."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True
