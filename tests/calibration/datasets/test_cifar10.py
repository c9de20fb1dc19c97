"""CIFAR-10's batches, on a small folder of the same form."""

import hashlib
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from limpq_deploy.calibration.datasets import open_dataset
from limpq_deploy.calibration.datasets.cifar10 import PUBLISHED_MD5, open_cifar10
from limpq_deploy.calibration.errors import DataError


def _batch(seed: int, num: int = 20) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "data": rng.integers(0, 256, (num, 3072), dtype=np.uint8),
        "labels": rng.integers(0, 10, num).tolist(),
        "batch_label": f"batch {seed}",
        "filenames": [f"{index}.png" for index in range(num)],
    }


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike as Python 2 strings, as the published files hold them."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)  # type: ignore[attr-defined]
        self.memoize(value)  # type: ignore[attr-defined]

    dispatch[str] = _save_string  # type: ignore[assignment]
    dispatch[bytes] = _save_string  # type: ignore[assignment]


def _as_python2(value: object) -> bytes:
    stream = io.BytesIO()
    _Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "cifar-10-batches-py"
    inner.mkdir()
    for seed, name in enumerate(PUBLISHED_MD5):
        (inner / name).write_bytes(_as_python2(_batch(seed)))
    return inner


def _checksums(folder: Path) -> dict[str, str]:
    return {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in PUBLISHED_MD5}


def test_the_last_tenth_of_the_training_images_validates(folder: Path) -> None:
    cifar = open_cifar10(folder.parent, None, _checksums(folder))
    assert [len(cifar.split(name)) for name in ("train", "val", "test")] == [90, 10, 20]
    assert cifar.classes[3] == "cat"
    assert cifar.split("val").labels.tolist() == _batch(4)["labels"][10:]
    assert cifar.split("test").labels.tolist() == _batch(5)["labels"]


def test_pixels_are_red_green_and_blue_planes(folder: Path) -> None:
    cifar = open_cifar10(folder, None, _checksums(folder))
    images, _ = next(cifar.split("test").batches(20))
    planes = _batch(5)["data"].reshape(-1, 3, 32, 32) / 255
    mean, std = (np.array(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    np.testing.assert_allclose(images, (planes - mean) / std, atol=1e-6)  # float32 rounding of numbers below 3


def test_batches_written_by_python_3_are_read_too(folder: Path) -> None:
    for seed, name in enumerate(PUBLISHED_MD5):
        (folder / name).write_bytes(pickle.dumps(_batch(seed), protocol=4))
    cifar = open_cifar10(folder, None, _checksums(folder))
    assert cifar.split("test").labels.tolist() == _batch(5)["labels"]


def test_a_file_without_the_published_checksum_is_not_opened(folder: Path) -> None:
    with pytest.raises(DataError, match=r"data_batch_1 has MD5 \w+, expected c99cafc152244af753f735de768cd75f"):
        open_dataset(f"cifar10:{folder}")


class _Attack:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("attacked",)


def test_a_pickle_that_calls_something_is_refused_even_with_its_checksum(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "data_batch_2").write_bytes(pickle.dumps(_Attack()))
    with pytest.raises(DataError, match=r"data_batch_2 is not a CIFAR-10 batch \(it names \w+.mkdir"):
        open_cifar10(folder, None, _checksums(folder))
    assert not (folder / "attacked").exists()


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps([1]), pickle.dumps({"data": 1, "labels": [1]})])
def test_a_file_of_another_kind_is_one_sentence(folder: Path, content: bytes) -> None:
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match="test_batch is not a CIFAR-10 batch"):
        open_cifar10(folder, None, _checksums(folder))


def test_only_the_batches_of_the_splits_that_are_needed_are_read(folder: Path) -> None:
    checksums = _checksums(folder)
    (folder / "data_batch_3").rename(folder / "away")
    assert list(open_cifar10(folder, None, checksums, needs=("test",)).splits) == ["test"]
    (folder / "away").rename(folder / "data_batch_3")
    (folder / "test_batch").unlink()
    assert list(open_cifar10(folder, None, checksums, needs=("val",)).splits) == ["train", "val"]


def test_missing_folders_and_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data folder .*nowhere does not exist; expected torchvision's"):
        open_dataset(f"cifar10:{tmp_path / 'nowhere'}")
    checksums = _checksums(folder)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match=r"cannot read .*data_batch_3: No such file"):
        open_cifar10(folder, None, checksums)
