"""Batches of a training, by the number of the step: any step can be entered without those before it."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from limpq_deploy.calibration.datasets import Augment, Split
from limpq_deploy.calibration.datasets.base import batch_seed
from limpq_deploy.calibration.errors import LimpqError, SettingError
from limpq_deploy.train.settings import TrainSettings

Item = tuple[NDArray[np.float32], NDArray[np.int64]] | LimpqError
Batch = tuple[torch.Tensor, torch.Tensor]

FRACTION = 2
"""Sets the draw of a part of the images apart from the order of epochs, whose seed is (seed, epoch)."""


class StepBatches(Dataset[Item]):
    """Item ``step`` is that step's batch, or this process's share of it.

    Every epoch has another order; what does not fill a batch is left out of it. ``size``: images of a step, over all
    processes; ``part``: those that this process takes.
    """

    def __init__(
        self, split: Split, settings: TrainSettings, *, seed: int, augment: Augment | None, rank: int, count: int
    ) -> None:
        self._split, self._seed = split, seed
        self._augment = augment if settings.augment else None
        self._part = slice(rank, None, count)
        self._chosen = chosen_images(len(split), settings.data_fraction, seed)
        images = int(self._chosen.sum())
        self.size = min(settings.batch_size, images)
        self.per_epoch = images // self.size
        self._epoch, self._order = -1, np.empty(0, np.int64)
        if self.size < count * settings.accumulate:
            raise SettingError(
                f"a batch of {self.size} images cannot be shared by {count} processes with accumulate "
                f"{settings.accumulate}; expected at least one image for each part, take a larger batch_size"
            )

    def __getitem__(self, step: int) -> Item:
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order = self._split.order((self._seed, epoch))
            self._epoch, self._order = epoch, order[self._chosen[order]]
        start = number * self.size
        indices = self._order[start : start + self.size]
        try:
            return self._split.load(
                indices, augment=self._augment, seed=batch_seed((self._seed, epoch), start), part=self._part
            )
        except LimpqError as error:
            return error  # raised in the process that trains, whole and without a worker's traceback

    def from_step(self, first: int, steps: int, *, workers: int, device: torch.device) -> Iterator[Batch]:
        """Batches of the steps ``first`` to ``steps - 1``; ``workers`` processes read ahead, in the same order."""
        for item in self._items(range(first, steps), workers, pin=device.type == "cuda"):
            if isinstance(item, LimpqError):
                raise item
            images_NCHW, labels = (torch.as_tensor(array).to(device, non_blocking=True) for array in item)
            yield images_NCHW, labels

    def _items(self, steps: range, workers: int, *, pin: bool) -> Iterator[Item]:
        if workers == 0:
            return (self[step] for step in steps)
        return iter(
            DataLoader(
                self,
                sampler=steps,
                batch_size=None,
                num_workers=workers,
                pin_memory=pin,
                worker_init_fn=_reads_for_others,
                generator=torch.Generator(),  # its draws must not be those of the training
                multiprocessing_context="fork",  # a split reads through functions that cannot be sent
            )
        )


def chosen_images(images: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which of ``images`` a training on a part of them sees: drawn once, the same in every epoch."""
    chosen = np.zeros(images, np.bool_)
    order = np.random.default_rng((seed, FRACTION, images)).permutation(images)
    chosen[order[: max(1, round(fraction * images))]] = True
    return chosen


def _reads_for_others(worker: int) -> None:
    info = torch.utils.data.get_worker_info()
    assert info is not None
    info.dataset._split.keep_no_more()  # type: ignore[attr-defined]  # each worker would fill a memory of its own
