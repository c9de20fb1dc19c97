"""What every data set is: class names and splits that give batches of normalised images."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limpq_deploy.calibration.datasets.augment import Augment, Moves
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.datasets.text import require_plain, shown
from limpq_deploy.calibration.errors import DataError
from limpq_deploy.calibration.threads import most_threads

CACHE_BYTES = 512 * 2**20
"""Images of a split kept in memory after decoding and resizing: at most 512 MiB of uint8; the rest is decoded anew."""

THREADED_PIXELS = 96 * 96
"""From this input size on, files are decoded by several threads: Pillow lets go of the interpreter's lock only inside
the decoder. With 32x32 files two threads took twice as long as one."""

SPLITS = ("train", "val", "test")

ALL = slice(None)

Targets = Callable[[NDArray[np.int64], Moves | None], NDArray[Any]]
"""What labels of images are where they are no class indices: of those with these indices, after these moves, an array
[N, ...]. Masks move with their images."""


class Split:
    """Images of one split, read when asked for.

    ``labels``: int64, class indices; of images without them any numbers, such as 0. ``targets``: what `load` gives
    instead of them, where a task asks for more than a class. ``labelled`` False: there is nothing to learn from or to
    judge by but the images. ``read(index)`` gives one uint8 image, HWC with 1 or 3 channels (or HW), of any
    size. ``glance(index)``, where reading is slow, looks at an image without decoding it. Both raise DataError, with
    the file's name, for an image that cannot be read; both may be called from several threads.
    """

    def __init__(
        self,
        *,
        labels: ArrayLike,
        read: Callable[[int], NDArray[np.uint8]],
        preprocess: Preprocess,
        glance: Callable[[int], None] | None = None,
        cache_bytes: int = CACHE_BYTES,
        targets: Targets | None = None,
        labelled: bool = True,
    ) -> None:
        self.labels: NDArray[np.int64] = np.asarray(labels, np.int64)
        self.preprocess = preprocess
        self.labelled = labelled
        self._targets = targets
        self._read = read
        self._glance = glance
        self._cache_bytes = cache_bytes
        capacity = min(len(self.labels), cache_bytes // int(np.prod(preprocess.shape)))
        self._cache = np.empty((capacity, *preprocess.shape), np.uint8)
        self._cached = np.zeros(len(self.labels), np.bool_)
        self._remembers = True

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: int | Sequence[int] | None = None,
        augment: Augment | None = None,
        drop_last: bool = False,
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        """Batches of (images_NCHW, labels_N), or other targets in place of labels, every image once; the last batch may
        be smaller.

        ``shuffle``: the seed of order and augmentation, None for the stored order; give ``(seed, epoch)`` to see
        another order in every epoch. Equal arguments give equal batches. Raises ValueError for ``augment`` without a
        seed.
        """
        if augment is not None and shuffle is None:
            raise ValueError("augmentation is random: give its seed as shuffle")
        if batch_size < 1:
            raise ValueError(f"a batch holds at least one image, not {batch_size}")
        return self._batches(batch_size, shuffle, augment, drop_last)

    def subset(self, indices: ArrayLike) -> "Split":
        """Some of the images, in the order of ``indices``."""
        chosen = np.asarray(indices, np.int64)
        read, glance, targets = self._read, self._glance, self._targets
        return Split(
            labels=self.labels[chosen],
            read=lambda index: read(int(chosen[index])),
            preprocess=self.preprocess,
            glance=None if glance is None else lambda index: glance(int(chosen[index])),
            cache_bytes=self._cache_bytes,
            targets=None if targets is None else lambda some, moves: targets(chosen[some], moves),
            labelled=self.labelled,
        )

    def check(self) -> None:
        """Find unreadable images now rather than after hours of training.

        Decodes what the cache holds, which training would do anyway, and only glances at the rest.
        """
        for start in range(0, len(self._cache), 1024):
            self._images(np.arange(start, min(start + 1024, len(self._cache))))
        if self._glance is not None:
            for index in range(len(self._cache), len(self)):
                self._glance(index)

    def order(self, shuffle: int | Sequence[int] | None) -> NDArray[np.int64]:
        """Indices of all images in the order in which `batches` shows them."""
        return np.arange(len(self)) if shuffle is None else np.random.default_rng(shuffle).permutation(len(self))

    def load(
        self,
        indices: NDArray[np.int64],
        *,
        augment: Augment | None = None,
        seed: int | Sequence[int] | None = None,
        part: slice = ALL,
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """(images_NCHW, labels_N), or other targets in place of labels, of these images, augmented as ``seed`` says;
        only ``part`` of the batch is read.

        An image of a part is the image that it would be in the whole batch.
        """
        chosen = indices[part]
        images = self._images(chosen)
        moves: Moves | None = None
        if augment is not None:
            moves = augment.draw(len(indices), np.random.default_rng(seed)).part(part)
            images = augment.moved(images, moves)
        targets = self.labels[chosen] if self._targets is None else self._targets(chosen, moves)
        return self.preprocess.normalise(images), targets

    def keep_no_more(self) -> None:
        """Keep no further images in memory: for a process that sees a part of them, beside others."""
        self._remembers = False

    def _batches(
        self, batch_size: int, shuffle: int | Sequence[int] | None, augment: Augment | None, drop_last: bool
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        order = self.order(shuffle)
        end = len(self) - len(self) % batch_size if drop_last else len(self)
        for start in range(0, end, batch_size):
            seed = None if shuffle is None else batch_seed(shuffle, start)
            yield self.load(order[start : start + batch_size], augment=augment, seed=seed)

    def _images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        cached = self._cached[indices]
        if cached.all():
            return self._cache[indices]
        out = np.empty((len(indices), *self.preprocess.shape), np.uint8)
        out[cached] = self._cache[indices[cached]]
        missing = np.flatnonzero(~cached)
        for position, image in zip(missing, self._fitted(indices[missing]), strict=True):
            out[position] = image
        if not self._remembers:
            return out
        kept = missing[indices[missing] < len(self._cache)]
        self._cache[indices[kept]] = out[kept]
        self._cached[indices[kept]] = True
        return out

    def _fitted(self, indices: NDArray[np.int64]) -> Iterable[NDArray[np.uint8]]:
        def fitted(index: int) -> NDArray[np.uint8]:
            return self.preprocess.fit(self._read(index))

        if self._glance is None or self.preprocess.height * self.preprocess.width < THREADED_PIXELS:
            return map(fitted, indices.tolist())
        with ThreadPoolExecutor(most_threads()) as pool:
            return list(pool.map(fitted, indices.tolist()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSet:
    """Images in splits, of named classes where they have a label each.

    ``classes``: names in the order of the model's outputs; where labels are no classes of images (``one_label`` False:
    masks, boxes, none at all) there may be none. ``splits``: some of ``train``, ``val`` and ``test``.
    ``fingerprint``: any text that changes when the images or labels change (`digest_of_arrays` makes one).
    ``augment``: what training does to this kind of image unless told otherwise. ``val_held_out``: ``val`` is a part of
    what others call the training images, so that weights from elsewhere may have been trained on it.

    Raises DataError for class names that are repeated or no line of text, an unknown split, or a label without a class.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    fingerprint: str
    augment: Augment | None = None
    val_held_out: bool = False
    one_label: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", shown(self.name))
        if len(set(self.classes)) != len(self.classes) or (self.one_label and not self.classes):
            raise DataError(f"data set {self.name!r} must have distinct class names, found {list(self.classes)[:10]}")
        require_plain(self.classes, f"data set {self.name!r}")
        for name, split in self.splits.items():
            if name not in SPLITS:
                raise DataError(f"data set {self.name!r} has a split {name!r}; expected {', '.join(SPLITS)}")
            one_label = self.one_label and split.labelled
            if one_label and len(split) and (split.labels.min() < 0 or split.labels.max() >= len(self.classes)):
                raise DataError(
                    f"split {name!r} of data set {self.name!r} has labels {split.labels.min()} to "
                    f"{split.labels.max()}; expected 0 to {len(self.classes) - 1}, one for each class"
                )
        object.__setattr__(self, "splits", MappingProxyType(dict(self.splits)))

    def split(self, name: str) -> Split:
        """A split by name; DataError where the data set has none of that name, or one without images."""
        if name not in self.splits:
            raise DataError(f"data set {self.name!r} has no split {name!r}, only {', '.join(self.splits)}; add it")
        if len(self.splits[name]) == 0:
            raise DataError(f"split {name!r} of data set {self.name!r} is empty; expected at least one image")
        return self.splits[name]

    def check(self) -> None:
        """Raise DataError for the first image that cannot be read, see `Split.check`."""
        for split in self.splits.values():
            split.check()

    def digest(self) -> str:
        """Hex SHA-256 of what the batches depend on: fingerprint, classes, labels and preprocessing."""
        digest = hashlib.sha256()
        for name, split in sorted(self.splits.items()):
            about = [name, len(split), asdict(split.preprocess)]
            digest.update(json.dumps(about).encode() + split.labels.tobytes())
        digest.update(json.dumps([self.classes, self.fingerprint]).encode())
        return digest.hexdigest()


def batch_seed(shuffle: int | Sequence[int], start: int) -> tuple[int, ...]:
    """Seed of the augmentation of the batch that begins at position ``start`` of an epoch's order.

    A batch needs no other batch: an epoch can be entered anywhere, and read by several processes.
    """
    return (*((shuffle,) if isinstance(shuffle, int) else shuffle), 1, start)


def split_of_arrays(images: NDArray[np.uint8], labels: ArrayLike, preprocess: Preprocess) -> Split:
    """A split of images that are already in memory: uint8, NHWC or NHW. ValueError for another number of labels."""
    if len(images) != np.size(labels):
        raise ValueError(f"{len(images)} images and {np.size(labels)} labels; expected a label for each image")
    return Split(labels=labels, read=lambda index: images[index], preprocess=preprocess)


def digest_of_arrays(*arrays: NDArray[np.generic]) -> str:
    """A fingerprint for `DataSet` from the bytes, shapes and types of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def hold_out(train: Split) -> tuple[Split, Split]:
    """Train and validation from one split: the last tenth of every class (of all images, where they have no classes),
    at least one image, validates.

    A class with a single image keeps it in training.
    """
    held = np.zeros(len(train), np.bool_)
    for label in np.unique(train.labels):
        members = np.flatnonzero(train.labels == label)
        if len(members) > 1:
            held[members[-max(1, len(members) // 10) :]] = True
    return train.subset(np.flatnonzero(~held)), train.subset(np.flatnonzero(held))


def require_classes(dataset: DataSet, num_classes: int) -> None:
    """Raise DataError unless the data set has as many classes as the model."""
    if len(dataset.classes) != num_classes:
        raise DataError(
            f"data set {dataset.name!r} has {len(dataset.classes)} classes, the model has {num_classes}; choose a "
            "model made for these classes, or give --classes with the model's class names in index order"
        )
