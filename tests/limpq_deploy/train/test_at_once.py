import numpy as np
import pytest
import torch

from limpq_deploy.calibration.datasets import Preprocess, Split
from limpq_deploy.train.accuracy import evaluation_batch
from limpq_deploy.train.at_once import images_at_once
from limpq_deploy.train.ptq import Calibration


def split(size: int, images: int = 300) -> Split:
    preprocess = Preprocess(height=size, width=size, mean=(0.5,), std=(0.5,), channels=1)
    image = np.zeros((size, size), np.uint8)
    return Split(labels=np.zeros(images), read=lambda _: image, preprocess=preprocess)


@pytest.mark.parametrize(("size", "images"), [(8, 128), (32, 128), (64, 32), (128, 8), (224, 8)])
def test_a_batch_has_as_many_images_as_fit_within_bounds(size: int, images: int) -> None:
    assert images_at_once(split(size), least=8, most=128) == images


def test_a_gpu_is_given_larger_batches_than_a_cpu() -> None:
    large = split(224)
    assert evaluation_batch(large) == 8
    assert evaluation_batch(large, torch.device("cuda", 0)) == 31
    assert evaluation_batch(split(8), torch.device("cuda", 0)) == 250


@pytest.mark.parametrize(("size", "batches"), [(32, 5), (64, 10), (224, 10)])
def test_calibration_goes_over_large_images_in_smaller_batches_of_nearly_one_size(size: int, batches: int) -> None:
    found = Calibration(split(size), images=300, seed=0, device=torch.device("cpu"))
    sizes = [len(chunk) for chunk in found.chunks]
    assert (len(sizes), sum(sizes)) == (batches, 300)
    assert max(sizes) - min(sizes) <= 1
