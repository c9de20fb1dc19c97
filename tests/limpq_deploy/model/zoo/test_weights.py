"""Weights of a file in a model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from limpq_deploy.calibration.datasets import split_of_arrays
from limpq_deploy.calibration.datasets.cifar10 import CLASSES
from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.zoo import create_model
from limpq_deploy.model.zoo.weights import fill, load_weights

CIFAR_NAMES = ["resnet20", "resnet32", "resnet44", "resnet56"]


def _small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def _saved(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(tensors, path)
    return path


def test_weights_come_back_as_saved(tmp_path: Path) -> None:
    source, target = _small(), _small()
    load_weights(target, _saved(source.state_dict(), tmp_path / "w.safetensors"))
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name])


def test_a_file_without_batch_counters_is_accepted(tmp_path: Path) -> None:
    tensors = {name: t for name, t in _small().state_dict().items() if "num_batches" not in name}
    model = _small()
    load_weights(model, _saved(tensors, tmp_path / "w.safetensors"))
    assert torch.equal(model.state_dict()["0.weight"], tensors["0.weight"])


def test_weights_of_another_model_say_what_differs_and_change_nothing(tmp_path: Path) -> None:
    model = _small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in before.items() if name != "0.bias"}
    tensors |= {"2.weight": torch.zeros(5, 4), "head.weight": torch.zeros(1)}
    with pytest.raises(ModelError) as caught:
        load_weights(model, _saved(tensors, tmp_path / "w.safetensors"))
    told = str(caught.value)
    assert "1 missing (0.bias)" in told
    assert "1 not in the model (head.weight)" in told
    assert "1 of another shape (2.weight (5x4 in the file, 2x4 in the model))" in told
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_many_differences_are_counted_and_the_first_three_named(tmp_path: Path) -> None:
    model, _ = create_model("resnet8")
    with pytest.raises(ModelError, match=r"\d\d missing \(bn1.bias, bn1.running_mean, bn1.running_var, ...\)"):
        load_weights(model, _saved(_small().state_dict(), tmp_path / "w.safetensors"))


def test_missing_and_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read weights .*: No such file"):
        load_weights(_small(), tmp_path / "absent.safetensors")
    path = _saved(_small().state_dict(), tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        load_weights(_small(), path)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tensors = _small().state_dict()
    tensors["0.weight"][0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"not finite: 1 damaged \(0.weight\)"):
        load_weights(_small(), _saved(tensors, tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", CIFAR_NAMES)
def test_the_shared_cifar_weights_load_by_name(shared: Path, name: str) -> None:
    model, _ = create_model(name)
    load_weights(model, shared / "data" / "weights" / f"{name}-cifar10.safetensors")


def test_weights_of_resnet32_do_not_fit_resnet20(shared: Path) -> None:
    model, _ = create_model("resnet20")
    with pytest.raises(ModelError, match=r"60 not in the model \(layer1.3.bn1.bias"):
        load_weights(model, shared / "data" / "weights" / "resnet32-cifar10.safetensors")


def test_resnet20_classifies_300_cifar_images(shared: Path) -> None:
    top1 = _top1("resnet20", shared, num_images=300)
    assert top1 > 0.87  # 0.9178 over all 5000 images, less three standard errors of 300


@pytest.mark.slow
@pytest.mark.parametrize(("name", "top1"), [("resnet20", 0.9178), ("resnet56", 0.9320)])
def test_the_published_accuracy_over_5000_cifar_images(shared: Path, name: str, top1: float) -> None:
    # two images of 5000: another summation order may move a near tie
    assert _top1(name, shared, num_images=5000) == pytest.approx(top1, abs=0.0004)


def _top1(name: str, shared: Path, num_images: int) -> float:
    torch.set_num_threads(1)
    model, info = create_model(name)
    load_weights(model, shared / "data" / "weights" / f"{name}-cifar10.safetensors")
    model.eval()
    assert info.preprocess is not None
    images, labels = _cifar_test(shared, num_images)
    hits = 0
    with torch.no_grad():
        for batch, wanted in split_of_arrays(images, labels, info.preprocess).batches(250):
            hits += int((model(torch.from_numpy(batch)).argmax(1).numpy() == wanted).sum())
    return hits / num_images


def _cifar_test(shared: Path, num_images: int) -> tuple[np.ndarray, list[int]]:
    folder = shared / "data" / "cifar10"
    labels = [int(line.split()[0]) for line in (folder / "test-labels.txt").read_text().splitlines()]
    assert max(labels) < len(CLASSES)
    sheets = sorted(folder.glob("test-[0-9][0-9].webp"))[: -(-num_images // 1000)]
    pixels = np.concatenate([np.asarray(Image.open(sheet).convert("RGB")) for sheet in sheets])
    tiles = pixels.reshape(-1, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
    return tiles[:num_images], labels[:num_images]


class Renewed(nn.Module):
    """Its layer had another name in its first version, as those of torchvision's MNASNet had other shapes."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *others: object) -> None:
        if local_metadata.get("version") != 2:
            raise ValueError(f"version should be 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


def test_a_module_that_asks_for_its_version_is_told_that_it_is_its_own() -> None:
    model, other = Renewed(), Renewed()
    fill(model, {name: value.clone() for name, value in other.state_dict().items()}, "weights.safetensors")
    assert torch.equal(model.layer.weight, other.layer.weight)
