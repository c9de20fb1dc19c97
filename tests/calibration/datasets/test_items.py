"""Images as a caller holds them: arrays, Datasets and DataLoaders become data sets."""

from typing import Any

import numpy as np
import pytest

from limpq_deploy.calibration.datasets import Preprocess
from limpq_deploy.calibration.datasets.items import dataset_of
from limpq_deploy.calibration.errors import DataError

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
LABELS = np.arange(40) % 4
FLOATS = np.random.default_rng(0).normal(size=(40, 3, 8, 6)).astype(np.float32)
PIXELS = np.random.default_rng(0).integers(0, 255, (40, 8, 6, 3), np.uint8)


class Jittered:
    """Its transform draws: every reading is another one."""

    classes = ("a", "b", "c", "d")

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return torch.from_numpy(FLOATS[index]) + torch.rand(1), int(LABELS[index])


def test_arrays_in_one_piece_become_three_parts_that_share_no_image() -> None:
    found = dataset_of((FLOATS, LABELS))
    seen = [split.load(split.order(None))[0] for split in found.splits.values()]
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 28, "val": 4, "test": 8}
    assert len(np.unique(np.concatenate(seen), axis=0)) == 40
    assert found.classes == ("0", "1", "2", "3")


def test_floats_reach_the_model_as_they_are() -> None:
    part = torch.utils.data.TensorDataset(torch.from_numpy(FLOATS), torch.from_numpy(LABELS))
    found = dataset_of({"train": torch.utils.data.DataLoader(part, batch_size=8), "test": part})
    images, labels = found.split("test").load(np.array([5, 2]))
    assert np.array_equal(images, FLOATS[[5, 2]])
    assert labels.tolist() == [1, 2]


def test_pixels_are_scaled_by_the_models_preprocessing() -> None:
    asked = Preprocess(height=8, width=6, mean=(0.5,) * 3, std=(0.25,) * 3)
    split = dataset_of({"train": (PIXELS, LABELS), "test": (PIXELS, LABELS)}, asked).split("test")
    images, _ = split.load(np.array([3]))
    assert np.allclose(images[0], ((PIXELS[3] / 255 - 0.5) / 0.25).transpose(2, 0, 1), atol=1e-6)


def test_a_random_transform_goes_on_drawing_and_equal_seeds_draw_alike() -> None:
    split = dataset_of(Jittered()).split("train")
    state = torch.get_rng_state()
    first, again, other = (split.load(np.array([1, 2]), seed=seed)[0] for seed in ((0, 1), (0, 1), (0, 2)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_a_part_of_a_batch_holds_the_images_of_the_whole_batch() -> None:
    split = dataset_of(Jittered()).split("train")
    whole, part = (split.load(np.arange(8), seed=3, part=some)[0] for some in (slice(None), slice(1, None, 2)))
    assert np.array_equal(whole[1::2], part)


def test_names_come_from_the_dataset_and_further_outputs_are_numbered() -> None:
    assert dataset_of(Jittered()).classes == ("a", "b", "c", "d")
    assert len(dataset_of((FLOATS, LABELS), outputs=10).classes) == 10
    assert dataset_of((FLOATS, LABELS), classes=("w", "x", "y", "z")).classes == ("w", "x", "y", "z")


def test_images_alone_have_no_labels_and_masks_are_targets() -> None:
    alone = dataset_of(FLOATS)
    assert not alone.split("train").labelled
    masks = np.zeros((40, 8, 6), np.int64)
    found = dataset_of((FLOATS, masks))
    assert not found.one_label
    assert found.split("train").load(np.arange(3))[1].shape == (3, 8, 6)


def test_a_loader_that_makes_batches_in_its_own_way_is_gathered() -> None:
    def together(items: list[Any]) -> tuple[Any, Any]:
        return torch.stack([image for image, _ in items]) * 2, torch.tensor([label for _, label in items])

    part = torch.utils.data.TensorDataset(torch.from_numpy(FLOATS), torch.from_numpy(LABELS))
    loader = torch.utils.data.DataLoader(part, batch_size=8, collate_fn=together)
    images, _ = dataset_of({"train": loader, "test": loader}).split("test").load(np.array([0]))
    assert np.array_equal(images[0], 2 * FLOATS[0])


def test_a_fingerprint_tells_other_images_and_stands_for_the_same() -> None:
    same, other = dataset_of((FLOATS.copy(), LABELS)), dataset_of((FLOATS + 1, LABELS))
    assert dataset_of((FLOATS, LABELS)).digest() == same.digest() != other.digest()
    assert dataset_of(Jittered()).digest() == dataset_of(Jittered()).digest()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (7, "data is a int; expected a DataLoader"),
        ({"train": (FLOATS, LABELS)}, "expected 'train' and 'test'"),
        ((FLOATS, LABELS[:3]), "40 images and 3 labels"),
        ((FLOATS, LABELS.astype(float)), "labels of the arrays are float64"),
        ((FLOATS.astype(np.int32), LABELS), "expected float [C, H, W]"),
        ((np.zeros((4, 8, 8, 2), np.uint8), LABELS[:4]), "have 2 channels; expected 1 or 3, or float [C, H, W]"),
        ((FLOATS[:0], LABELS[:0]), "is empty"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(data: Any, sentence: str) -> None:
    with pytest.raises(DataError) as refused:
        dataset_of(data)
    assert sentence in str(refused.value)


def test_floats_of_another_size_than_the_model_reads_are_refused() -> None:
    with pytest.raises(DataError, match="the model reads"):
        dataset_of((FLOATS, LABELS), Preprocess(height=16, width=16, mean=(0.0,) * 3, std=(1.0,) * 3))


def test_floats_have_any_number_of_channels() -> None:
    """Frames of a video, depth beside colours: as the model reads them."""
    frames = np.concatenate([FLOATS, FLOATS], axis=1)[:, :5]
    split = dataset_of((frames, LABELS)).split("train")
    assert split.preprocess.shape == frames.shape[1:]
    assert split.load(np.arange(2))[0].shape == (2, *frames.shape[1:])
