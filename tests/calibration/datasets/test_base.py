"""Splits, batches and digests."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from limpq_deploy.calibration.datasets import (
    Augment,
    DataSet,
    Preprocess,
    Split,
    digest_of_arrays,
    hold_out,
    require_classes,
    split_of_arrays,
)
from limpq_deploy.calibration.datasets.base import THREADED_PIXELS, batch_seed
from limpq_deploy.calibration.errors import DataError
from limpq_deploy.calibration.threads import holding_threads

PIXEL = Preprocess(height=1, width=1, mean=(0.0,), std=(1 / 255,), channels=1)
"""Normalised pixels are the bytes themselves."""


def _numbered(num: int, preprocess: Preprocess = PIXEL) -> Split:
    return split_of_arrays(np.arange(num, dtype=np.uint8).reshape(num, 1, 1), np.arange(num) % 3, preprocess)


def _seen(split: Split, batch_size: int = 4, **options: object) -> list[int]:
    return [round(float(x)) for images, _ in split.batches(batch_size, **options) for x in images.ravel()]  # type: ignore[arg-type]


def _dataset(
    splits: Mapping[str, Split], fingerprint: str = "a", classes: tuple[str, ...] = ("x", "y", "z")
) -> DataSet:
    return DataSet(name="numbers", classes=classes, splits=splits, fingerprint=fingerprint)


def test_batches_give_every_image_once_in_order_with_its_label() -> None:
    batches = list(_numbered(10).batches(4))
    assert [images.shape for images, _ in batches] == [(4, 1, 1, 1), (4, 1, 1, 1), (2, 1, 1, 1)]
    assert [images.dtype for images, _ in batches] == [np.float32] * 3
    assert _seen(_numbered(10)) == list(range(10))
    assert np.concatenate([labels for _, labels in batches]).tolist() == [i % 3 for i in range(10)]


def test_the_last_small_batch_can_be_dropped() -> None:
    assert [len(labels) for _, labels in _numbered(10).batches(4, drop_last=True)] == [4, 4]


def test_shuffling_is_a_permutation_fixed_by_the_seed() -> None:
    split = _numbered(50)
    first = _seen(split, shuffle=(1, 0))
    assert sorted(first) == list(range(50))
    assert first == _seen(split, shuffle=(1, 0))
    assert first != _seen(split, shuffle=(1, 1))


def test_shuffled_labels_stay_with_their_images() -> None:
    for images, labels in _numbered(50).batches(7, shuffle=0):
        np.testing.assert_array_equal(images.ravel().round() % 3, labels)


def test_augmentation_needs_a_seed_and_is_fixed_by_it() -> None:
    split = split_of_arrays(
        np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8),
        np.zeros(20),
        Preprocess(height=4, width=4, mean=(0.0,), std=(1.0,), channels=1),
    )
    augment = Augment(pad=1, flip=True)
    with pytest.raises(ValueError, match="seed"):
        split.batches(4, augment=augment)
    once, again, plain = (
        np.concatenate([x for x, _ in split.batches(8, shuffle=5, augment=how)]) for how in (augment, augment, None)
    )
    np.testing.assert_array_equal(once, again)
    assert (once != plain).any()


def test_a_cached_image_is_read_once_and_one_beyond_the_bound_every_time() -> None:
    reads: list[int] = []

    def read(index: int) -> np.ndarray:
        reads.append(index)
        return np.full((1, 1), index, np.uint8)

    split = Split(labels=np.zeros(5), read=read, preprocess=PIXEL, cache_bytes=3)
    assert _seen(split) == _seen(split) == [0, 1, 2, 3, 4]
    assert sorted(reads) == [0, 1, 2, 3, 3, 4, 4]
    assert sorted(_seen(split, shuffle=0)) == [0, 1, 2, 3, 4]


def test_check_decodes_what_the_cache_holds_and_glances_at_the_rest() -> None:
    looked: list[int] = []
    read: list[int] = []

    def decode(index: int) -> np.ndarray:
        read.append(index)
        return np.zeros((1, 1), np.uint8)

    Split(labels=np.zeros(5), read=decode, glance=looked.append, preprocess=PIXEL, cache_bytes=3).check()
    assert sorted(read) == [0, 1, 2]
    assert looked == [3, 4]


def test_a_subset_keeps_images_and_labels_together() -> None:
    subset = _numbered(10).subset([7, 2])
    assert _seen(subset) == [7, 2]
    assert subset.labels.tolist() == [1, 2]


def test_holding_out_takes_the_last_tenth_of_every_class_and_leaves_the_rest() -> None:
    train, val = hold_out(_numbered(60))
    assert _seen(val) == [54, 55, 56, 57, 58, 59]
    assert _seen(train) == list(range(54))


def test_holding_out_leaves_a_class_of_one_image_in_training() -> None:
    split = split_of_arrays(np.arange(3, dtype=np.uint8).reshape(3, 1, 1), [0, 0, 1], PIXEL)
    train, val = hold_out(split)
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1], [0])


def test_the_digest_depends_on_images_labels_classes_and_preprocessing() -> None:
    base = _dataset({"train": _numbered(9)})
    other_mean = replace(PIXEL, mean=(0.5,))
    changed = [
        _dataset({"train": _numbered(9)}, fingerprint="b"),
        _dataset({"train": _numbered(9)}, classes=("x", "y", "w")),
        _dataset({"train": _numbered(9, other_mean)}),
        _dataset({"train": _numbered(9).subset(np.arange(8))}),
        _dataset({"test": _numbered(9)}),
    ]
    digests = {dataset.digest() for dataset in (base, *changed)}
    assert len(digests) == 6
    assert base.digest() == _dataset({"train": _numbered(9)}).digest()


def test_a_digest_of_arrays_sees_values_shapes_and_types() -> None:
    array = np.zeros((2, 3), np.uint8)
    others = (array, array + 1, array.reshape(3, 2), array.view(np.int8))
    assert len({digest_of_arrays(a) for a in others}) == 4


@pytest.mark.parametrize(
    ("splits", "classes", "says"),
    [
        ({"train": _numbered(3)}, ("x", "x", "y"), "distinct class names"),
        ({"learn": _numbered(3)}, ("x", "y", "z"), "expected train, val, test"),
        ({"train": _numbered(3)}, ("x", "y"), "labels 0 to 2; expected 0 to 1"),
    ],
)
def test_an_inconsistent_data_set_is_refused(splits: dict[str, Split], classes: tuple[str, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        _dataset(splits, classes=classes)


def test_a_missing_or_empty_split_is_named_where_it_is_asked_for() -> None:
    dataset = _dataset({"train": _numbered(3), "val": _numbered(0)})
    with pytest.raises(DataError, match="no split 'test', only train"):
        dataset.split("test")
    with pytest.raises(DataError, match=r"split 'val' .* is empty"):
        dataset.split("val")
    assert len(dataset.split("train")) == 3


def test_images_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        split_of_arrays(np.zeros((2, 1, 1), np.uint8), [0], PIXEL)


def test_a_class_count_mismatch_says_both_numbers() -> None:
    dataset = _dataset({"train": _numbered(3)})
    require_classes(dataset, 3)
    with pytest.raises(DataError, match="has 3 classes, the model has 10"):
        require_classes(dataset, 10)


def _noise(num: int) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (num, 6, 6), dtype=np.uint8)
    return split_of_arrays(images, np.arange(num), Preprocess(height=6, width=6, mean=(0.0,), std=(1.0,), channels=1))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_of_a_batch_are_the_whole_batch_whoever_reads_them(parts: int) -> None:
    split, augment = _noise(10), Augment(pad=2, flip=True)
    order = split.order((3, 1))
    for start, (images, labels) in zip((0, 4), split.batches(4, shuffle=(3, 1), augment=augment), strict=False):
        seed = batch_seed((3, 1), start)
        for rank in range(parts):
            share = slice(rank, None, parts)
            read = split.load(order[start : start + 4], augment=augment, seed=seed, part=share)
            np.testing.assert_array_equal(read[0], images[share])
            np.testing.assert_array_equal(read[1], labels[share])


def test_a_split_that_keeps_no_more_reads_what_it_does_not_have() -> None:
    reads: list[int] = []

    def read(index: int) -> np.ndarray:
        reads.append(index)
        return np.full((1, 1), index, np.uint8)

    split = Split(labels=np.zeros(3), read=read, preprocess=PIXEL)
    split.load(np.array([1]))
    split.keep_no_more()
    assert _seen(split) == _seen(split) == [0, 1, 2]
    assert reads == [1, 0, 2, 0, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_large_files_are_decoded_by_as_many_threads_as_are_held(threads: int) -> None:
    side = round(THREADED_PIXELS**0.5)
    readers = set()

    def read(index: int) -> NDArray[np.uint8]:
        readers.add(threading.get_ident())
        time.sleep(0.01)
        return np.zeros((side, side, 1), np.uint8)

    preprocess = replace(PIXEL, height=side, width=side)
    split = Split(labels=np.zeros(8), read=read, preprocess=preprocess, glance=lambda index: None)
    with holding_threads(threads):
        split.load(np.arange(8))
    assert len(readers) == threads
