"""Batches by the number of the step, read by one process or several."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from limpq_deploy.calibration.datasets import DataSet, Preprocess, Split
from limpq_deploy.calibration.errors import DataError, SettingError
from limpq_deploy.train.batches import Batch, StepBatches, chosen_images
from limpq_deploy.train.settings import TrainSettings

SETTINGS = TrainSettings(
    steps=20,
    batch_size=48,
    learning_rate=0.1,
    scale_learning_rate=0.01,
    warmup_steps=0,
    weight_decay=0.0,
    label_smoothing=0.0,
)
CPU = torch.device("cpu")

Make = Callable[..., StepBatches]


@pytest.fixture
def make(few_digits: DataSet) -> Make:
    def batches(rank: int = 0, count: int = 1, **changes: object) -> StepBatches:
        settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
        return StepBatches(
            few_digits.split("train"), settings, seed=1, augment=few_digits.augment, rank=rank, count=count
        )

    return batches


def equal(first: Batch, second: Batch) -> bool:
    return all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_a_step_in_the_middle_is_entered_without_those_before_it(make: Make) -> None:
    whole = list(make().from_step(0, 12, workers=0, device=CPU))
    rest = list(make().from_step(7, 12, workers=0, device=CPU))
    assert len(rest) == 5
    assert all(equal(one, two) for one, two in zip(whole[7:], rest, strict=True))


def test_batches_are_those_of_the_split_epoch_by_epoch(make: Make, few_digits: DataSet) -> None:
    found = list(make().from_step(0, 10, workers=0, device=CPU))
    split = few_digits.split("train")
    expected = [
        batch
        for epoch in (0, 1)
        for batch in split.batches(48, shuffle=(1, epoch), augment=few_digits.augment, drop_last=True)
    ]
    assert len(expected) == 10
    for (images, labels), (wanted, truth) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(images.numpy(), wanted)
        np.testing.assert_array_equal(labels.numpy(), truth)


def test_workers_give_the_same_batches_in_the_same_order(make: Make) -> None:
    alone = make().from_step(3, 9, workers=0, device=CPU)
    ahead = make().from_step(3, 9, workers=2, device=CPU)
    state = torch.get_rng_state()
    assert all(equal(one, two) for one, two in zip(alone, ahead, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_shares_of_all_processes_are_the_batch(make: Make) -> None:
    whole = next(make().from_step(4, 5, workers=0, device=CPU))
    shares = [next(make(rank, 3).from_step(4, 5, workers=0, device=CPU)) for rank in range(3)]
    for rank, (images, labels) in enumerate(shares):
        assert torch.equal(images, whole[0][rank::3])
        assert torch.equal(labels, whole[1][rank::3])


def test_a_part_of_the_data_is_the_same_part_in_every_epoch(make: Make) -> None:
    batches = make(data_fraction=0.5, batch_size=32, augment=False)
    assert batches.per_epoch == 4

    def seen(epoch: int) -> set[bytes]:
        steps = batches.from_step(4 * epoch, 4 * epoch + 4, workers=0, device=CPU)
        return {image.numpy().tobytes() for images, _ in steps for image in images}

    assert len(seen(0)) > 120  # some digits are equal pixel by pixel
    assert seen(0) == seen(1) == seen(2)


def test_a_fraction_takes_so_many_images_and_at_least_one() -> None:
    assert [int(chosen_images(100, share, 0).sum()) for share in (1.0, 0.5, 0.001)] == [100, 50, 1]
    assert (chosen_images(100, 0.5, 0) != chosen_images(100, 0.5, 1)).any()


def test_a_batch_smaller_than_its_parts_is_refused(make: Make) -> None:
    with pytest.raises(SettingError, match="a batch of 4 images cannot be shared by 3 processes with accumulate 2"):
        make(0, 3, batch_size=4, accumulate=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_sentence_from_a_worker_too(workers: int) -> None:
    def read(index: int) -> np.ndarray:
        if index == 5:
            raise DataError("cannot read image five.png: broken; replace or remove the file")
        return np.full((1, 1), index, np.uint8)

    pixel = Preprocess(height=1, width=1, mean=(0.0,), std=(1.0,), channels=1)
    split = Split(labels=np.zeros(8), read=read, preprocess=pixel)
    batches = StepBatches(split, replace(SETTINGS, batch_size=2), seed=0, augment=None, rank=0, count=1)
    with pytest.raises(DataError) as refused:
        list(islice(batches.from_step(0, 4, workers=workers, device=CPU), 4))
    assert str(refused.value) == "cannot read image five.png: broken; replace or remove the file"
