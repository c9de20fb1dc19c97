"""CIFAR-10 from the original python batches, as torchvision lays them out."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.datasets.augment import Augment, mean_fill
from limpq_deploy.calibration.datasets.base import SPLITS, DataSet, split_of_arrays
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.errors import DataError

FOLDER = "cifar-10-batches-py"
TEST = "test_batch"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PREPROCESS = Preprocess(height=32, width=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PUBLISHED_MD5: Mapping[str, str] = MappingProxyType(
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    }
)
"""Checksums of the batches at cs.toronto.edu/~kriz/cifar.html, as torchvision lists them."""

_ADMITTED = {
    **{
        (f"numpy.{core}.multiarray", "_reconstruct"): np.empty(0, np.uint8).__reduce__()[0]
        for core in ("core", "_core")  # its name before and since NumPy 2
    },
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""All that a batch may name. Plain dicts, lists, strings, bytes and numbers need no name."""


def open_cifar10(
    root: Path,
    preprocess: Preprocess | None,
    md5: Mapping[str, str] = PUBLISHED_MD5,
    needs: tuple[str, ...] = SPLITS,
) -> DataSet:
    """The 50000 training images, of which the last 5000 (a tenth) validate, and the 10000 test images; only the batches
    of the splits that are needed are read.

    ``root`` is the folder ``cifar-10-batches-py`` or its parent. The batches are pickles, which can run code when
    loaded: each is loaded only if its MD5 is the published one, and even then by a reader that admits nothing but
    arrays and plain values.
    """
    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    if not folder.is_dir():
        raise DataError(f"data folder {root} does not exist; expected torchvision's {FOLDER} or its parent")
    preprocess = preprocess or PREPROCESS
    wanted = {TEST} if set(needs) <= {"test"} else set(md5) - ({TEST} if "test" not in needs else set())
    batches = {name: _load_batch(folder / name, checksum) for name, checksum in md5.items() if name in wanted}
    splits = {"test": split_of_arrays(*batches.pop(TEST), preprocess)} if TEST in batches else {}
    if batches:
        images, labels = (np.concatenate(parts) for parts in zip(*batches.values(), strict=True))
        cut = len(labels) - len(labels) // 10
        splits["train"] = split_of_arrays(images[:cut], labels[:cut], preprocess)
        splits["val"] = split_of_arrays(images[cut:], labels[cut:], preprocess)
    return DataSet(
        name="cifar10",
        classes=CLASSES,
        splits={name: splits[name] for name in SPLITS if name in splits},
        fingerprint=" ".join(md5.values()),
        augment=Augment(pad=4, flip=True, fill=mean_fill(preprocess)),
        val_held_out=True,
    )


def _load_batch(path: Path, checksum: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images NHWC and labels of one batch file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; expected torchvision's {FOLDER} with data_batch_1 to 5 and "
            "test_batch"
        ) from error
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != checksum:
        raise DataError(f"{path} has MD5 {found}, expected {checksum}; the file is damaged, download it again")
    try:
        batch = _BatchReader(io.BytesIO(data), encoding="latin1").load()
        pixels, labels = batch["data"], np.array(batch["labels"], np.int64)
        return pixels.reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1), labels
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a CIFAR-10 batch ({error}); download it again") from error


class _BatchReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no image batch needs") from None
