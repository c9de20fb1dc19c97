"""The handwritten digits that come with scikit-learn: 1797 real images, no download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limpq_deploy.calibration.datasets.augment import Augment
from limpq_deploy.calibration.datasets.base import DataSet, digest_of_arrays, split_of_arrays
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.errors import MissingExtra

SIZE = 16
PREPROCESS = Preprocess(height=SIZE, width=SIZE, mean=(0.305,), std=(0.318,), channels=1)
"""Mean and standard deviation of the training split's pixels."""


def open_digits(preprocess: Preprocess | None) -> DataSet:
    """Digits as 16x16 grey images, in a stratified 60/20/20 split that no seed of a run changes.

    The 8x8 originals (0..16) become 0..255 and are enlarged bilinearly (as accurate as repeating pixels, on three seeds
    of a ResNet-8: 99.5 % against 99.5 % on test).
    """
    raw, labels = _originals()
    images = np.stack([_enlarged(image) for image in raw.reshape(-1, 8, 8)])
    parts = _stratified(labels)
    return DataSet(
        name="digits",
        classes=tuple("0123456789"),
        splits={
            name: split_of_arrays(images[part], labels[part], preprocess or PREPROCESS) for name, part in parts.items()
        },
        fingerprint=digest_of_arrays(*(images[part] for part in parts.values())),
        augment=Augment(pad=1, flip=False),
    )


def _originals() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels [images, 64] and labels, as ``sklearn.datasets.load_digits`` gives them, without the second that importing
    scikit-learn takes where its file is where it has been for ten years."""
    found = find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1], rows[:, -1].astype(np.int64)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra(
            "the digits come with scikit-learn, which is not installed; run: pip install 'limpq-deploy[train]'"
        ) from error
    raw, labels = load_digits(return_X_y=True)
    return raw, labels.astype(np.int64)


def _enlarged(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    picture = Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8))
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _stratified(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Indices of train, val and test: of every class 60, 20 and 20 percent, mixed once with seed 0."""
    rng = np.random.default_rng(0)
    parts: dict[str, list[NDArray[np.int64]]] = {"train": [], "val": [], "test": []}
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cuts = [round(len(members) * 0.6), round(len(members) * 0.8)]
        for part, chosen in zip(parts.values(), np.split(members, cuts), strict=True):
            part.append(chosen)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}
