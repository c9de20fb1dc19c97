"""Images that the caller holds as Python objects: arrays, torch's Datasets and DataLoaders. Torch is not imported.

Pixels (uint8) are treated like those of files. Floats are taken as they are: they are already what the model reads.
"""

import contextlib
import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.datasets.augment import Augment
from limpq_deploy.calibration.datasets.base import ALL, DataSet, Split, hold_out
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.errors import DataError

TEST_SHARE = 5
"""One image of so many tests, where the data come in one piece."""

LOOKED_AT = 16
"""Images whose values go into a fingerprint, evenly spread; labels all do."""

EXPECTED = (
    "a DataLoader, a Dataset, arrays (images, labels), images alone, or a dict of these by 'train', 'val' and 'test'"
)

Item = tuple[NDArray[Any], Any]


def dataset_of(
    data: Any, preprocess: Preprocess | None = None, *, classes: Sequence[str] | None = None, outputs: int | None = None
) -> DataSet:
    """A data set of objects of the caller.

    ``data``: see `EXPECTED`. Items are images or (image, target) pairs. An image is uint8, [H, W] or [H, W, C] or a PIL
    picture, or float, [C, H, W], already normalised; arrays have a first axis N more. A target is a class index, or a
    mask [H, W] of class indices. Data in one piece give every fifth image of a fixed order to ``test``. Without ``val``
    the last tenth of every class of ``train`` validates. ``outputs``: of the model, where that has more than the labels
    name. Raises DataError for anything else.
    """
    parts = dict(data) if isinstance(data, Mapping) else None
    first = next(iter(parts.values()), None) if parts is not None else data
    opened = {name: _opened(part) for name, part in (parts or {"all": data}).items()}
    if parts is not None and not {"train", "test"} <= set(parts):
        raise DataError(f"data has the parts {', '.join(map(repr, parts)) or 'none'}; expected 'train' and 'test'")
    splits = {name: part.split(preprocess) for name, part in opened.items()}
    if "all" in splits:
        order = np.random.default_rng(0).permutation(len(splits["all"]))
        number = max(1, len(order) // TEST_SHARE)
        whole = splits.pop("all")
        splits = {"train": whole.subset(np.sort(order[number:])), "test": whole.subset(np.sort(order[:number]))}
    held_out = "val" not in splits
    if held_out:
        splits["train"], splits["val"] = hold_out(splits["train"])
    one_label = all(part.one_label for part in opened.values())
    return DataSet(
        name=type(getattr(first, "dataset", first)).__name__,
        classes=_classes(first, classes, splits, outputs) if one_label else (),
        splits=splits,
        fingerprint=" ".join(part.fingerprint() for part in opened.values()),
        val_held_out=held_out,
        one_label=one_label,
    )


class _Items:
    """Images and targets by index. ``targets``: of all images where they are known without reading one."""

    def __init__(
        self, read: Callable[[int], Any], length: int, targets: NDArray[Any] | None, name: str, *, draws: bool = False
    ) -> None:
        """``draws``: reading may draw random numbers, as transforms do."""
        if length == 0:
            raise DataError(f"the {name} given is empty; expected at least one image")
        self._read, self._length, self._targets, self._name = read, length, targets, name
        self._draws = draws
        image, target = self.item(0)
        self.floats = image.dtype != np.uint8
        self.labelled = target is not None
        self.one_label = target is None or np.ndim(target) == 0
        self._shape = image.shape

    def item(self, index: int, seed: Sequence[int] = (0,)) -> Item:
        """One image and its target; random transforms draw from ``seed``."""
        with _seeded((*seed, index)) if self._draws else contextlib.nullcontext():
            found = self._read(index)
        image, target = (found[0], found[1]) if isinstance(found, tuple | list) and len(found) == 2 else (found, None)
        return self._image(image), None if target is None else _array(target)

    def split(self, preprocess: Preprocess | None) -> Split:
        """The images fitted to a model's preprocessing; floats have to have its size already."""
        own = self._preprocess(preprocess)
        labels, targets = np.zeros(self._length, np.int64), None
        if self.labelled and self.one_label:
            labels = self._labels()
        elif self.labelled:

            def targets(some: NDArray[np.int64], moves: Any) -> NDArray[Any]:
                return np.stack([self.item(int(index))[1] for index in some])

        if self.floats:
            return FloatSplit(labels=labels, items=self, preprocess=own, labelled=self.labelled)
        return Split(
            labels=labels,
            read=lambda index: self.item(index)[0],
            preprocess=own,
            targets=targets,
            labelled=self.labelled,
        )

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._name} {self._length} {self._shape}".encode())
        for index in np.unique(np.linspace(0, self._length - 1, LOOKED_AT).astype(int)):
            image, target = self.item(int(index))
            digest.update(np.ascontiguousarray(image).tobytes() + repr(target).encode())
        return digest.hexdigest()

    def _image(self, image: Any) -> NDArray[Any]:
        found = _array(image)
        if found.dtype == np.uint8 and found.ndim == 3 and found.shape[0] in (1, 3) and found.shape[2] not in (1, 3):
            found = found.transpose(1, 2, 0)  # torch's order of pixels
        if found.dtype.kind == "f" and found.ndim == 3:
            return found.astype(np.float32, copy=False)
        if found.dtype == np.uint8 and found.ndim in (2, 3):
            return found
        raise DataError(
            f"an image of the {self._name} is {found.dtype} of shape {found.shape}; expected float [C, H, W], as the "
            "model reads it, or uint8 [H, W, C]"
        )

    def _preprocess(self, asked: Preprocess | None) -> Preprocess:
        shape = self._shape if self.floats else (*self._shape, 1)[:3]
        channels, height, width = shape if self.floats else (shape[2], shape[0], shape[1])
        if channels not in (1, 3) and not self.floats:
            raise DataError(
                f"images of the {self._name} have {channels} channels; expected 1 or 3, or float [C, H, W], as the "
                "model reads it"
            )
        if asked is None:
            return Preprocess(
                height=height, width=width, mean=(0.0,) * channels, std=(1.0,) * channels, channels=channels
            )
        if self.floats and asked.shape != (channels, height, width):
            raise DataError(
                f"images of the {self._name} are {list(self._shape)} and the model reads {list(asked.shape)}; resize "
                "them in the Dataset, or give the model the other 'preprocess'"
            )
        return asked

    def _labels(self) -> NDArray[np.int64]:
        known = self._targets
        found = np.asarray([self.item(index)[1] for index in range(self._length)]) if known is None else known
        if found.dtype.kind not in "iu":
            raise DataError(f"labels of the {self._name} are {found.dtype}; expected class indices, which are integers")
        return found.astype(np.int64)


class FloatSplit(Split):
    """Images that are floats already, read anew for every batch: random transforms of a Dataset go on drawing."""

    def __init__(
        self,
        *,
        labels: NDArray[np.int64],
        items: _Items,
        preprocess: Preprocess,
        labelled: bool,
        chosen: NDArray[np.int64] | None = None,
    ) -> None:
        def unread(index: int) -> NDArray[np.uint8]:
            raise AssertionError("floats are not read as pixels")

        super().__init__(labels=labels, read=unread, preprocess=preprocess, cache_bytes=0, labelled=labelled)
        self._items = items
        self._chosen = np.arange(len(labels)) if chosen is None else chosen

    def subset(self, indices: Any) -> "FloatSplit":
        some = np.asarray(indices, np.int64)
        return FloatSplit(
            labels=self.labels[some],
            items=self._items,
            preprocess=self.preprocess,
            labelled=self.labelled,
            chosen=self._chosen[some],
        )

    def check(self) -> None:
        self.load(np.arange(min(len(self), LOOKED_AT)))

    def load(
        self,
        indices: NDArray[np.int64],
        *,
        augment: Augment | None = None,
        seed: int | Sequence[int] | None = None,
        part: slice = ALL,
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        seeds = (0,) if seed is None else (seed,) if isinstance(seed, int) else tuple(seed)
        found = [self._items.item(int(index), seeds) for index in self._chosen[indices[part]]]
        images = np.empty((len(found), *self.preprocess.shape), np.float32)
        for position, (image, _) in enumerate(found):
            if image.shape != self.preprocess.shape:
                raise DataError(
                    f"image {int(self._chosen[indices[part]][position])} is {list(image.shape)}, the others are "
                    f"{list(self.preprocess.shape)}; expected images of one size"
                )
            images[position] = image
        if self.labelled and not self._items.one_label:
            return images, np.stack([target for _, target in found])
        return images, self.labels[indices[part]]


def _opened(data: Any) -> _Items:
    """Items of one object."""
    name = type(data).__name__
    if hasattr(data, "dataset") and hasattr(data, "collate_fn"):
        inner = data.dataset
        return _opened(inner) if hasattr(inner, "__getitem__") and _plain(data) else _gathered(data)
    if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(one, "shape") for one in data):
        images, targets = map(_array, data)
        if len(images) != len(targets):
            raise DataError(f"{len(images)} images and {len(targets)} labels; expected a label for each image")
        known = targets if targets.ndim == 1 else None
        return _Items(lambda index: (images[index], targets[index]), len(images), known, "arrays")
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        images = _array(data)
        return _Items(lambda index: images[index], len(images), None, "array")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | bytes | Mapping):
        draws = not hasattr(data, "tensors")
        return _Items(data.__getitem__, len(data), _known_targets(data), name, draws=draws)
    raise DataError(f"data is a {name}; expected {EXPECTED}, or the name of a data set such as imagefolder:PATH")


def _plain(loader: Any) -> bool:
    """Whether a loader only stacks the items of its Dataset."""
    return getattr(loader.collate_fn, "__name__", "") == "default_collate"


def _gathered(loader: Any) -> _Items:
    """All batches of a loader that makes them in its own way, kept in memory."""
    batches = [batch if isinstance(batch, tuple | list) else (batch,) for batch in loader]
    if not batches or len(batches[0]) > 2:
        raise DataError(
            f"batches of the {type(loader).__name__} have {len(batches[0]) if batches else 0} parts; expected images, "
            "or (images, labels)"
        )
    parts = [np.concatenate([_array(batch[number]) for batch in batches]) for number in range(len(batches[0]))]
    return _opened(tuple(parts) if len(parts) == 2 else parts[0])


def _known_targets(dataset: Any) -> NDArray[Any] | None:
    """Class indices of all items, where a Dataset of torchvision or torch says them without reading images."""
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
        inner = _known_targets(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices)]
    tensors: Any = getattr(dataset, "tensors", ())
    known = tensors[1] if len(tensors) == 2 else getattr(dataset, "targets", None)
    if known is None or getattr(dataset, "target_transform", None) is not None:
        return None
    found = _array(known) if hasattr(known, "shape") or isinstance(known, list | tuple) else None
    whole = found is not None and found.ndim == 1 and len(found) == len(dataset) and found.dtype.kind in "iu"
    return found if whole else None


def _classes(
    data: Any, asked: Sequence[str] | None, splits: Mapping[str, Split], outputs: int | None
) -> tuple[str, ...]:
    """Names: those asked for, those of a Dataset of torchvision, else numbers."""
    labelled = [int(split.labels.max()) for split in splits.values() if split.labelled and len(split)]
    number = max([outputs or 0, *(most + 1 for most in labelled)], default=0)
    named = asked if asked is not None else getattr(getattr(data, "dataset", data), "classes", None)
    if isinstance(named, list | tuple) and (asked is not None or len(named) >= number):
        return tuple(map(str, named))
    return tuple(map(str, range(max(number, 1))))


def _array(value: Any) -> NDArray[Any]:
    """A numpy array of an array, a tensor, a PIL picture or a number."""
    found = value.detach().cpu() if hasattr(value, "detach") else value
    return np.asarray(found)


@contextlib.contextmanager
def _seeded(seed: Sequence[int]) -> Iterator[None]:
    """Give the global random generators, which a Dataset's transforms draw from, a state of this seed, and leave them
    as they were."""
    number = int(np.random.SeedSequence([abs(int(one)) for one in seed]).generate_state(1)[0])
    torch = sys.modules.get("torch")
    states: tuple[Any, ...] = (
        random.getstate(),
        np.random.get_state(),
        None if torch is None else torch.get_rng_state(),
    )
    try:
        random.seed(number)
        np.random.seed(number)
        if torch is not None:
            torch.manual_seed(number)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if torch is not None:
            torch.set_rng_state(states[2])
