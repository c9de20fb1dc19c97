"""Data sets by name: digits, the user's, and what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from limpq_deploy.calibration.datasets import Preprocess, digits, open_dataset
from limpq_deploy.calibration.errors import DataError, MissingExtra


def test_digits_are_1797_grey_images_in_stratified_splits() -> None:
    found = open_dataset("digits")
    counts = {name: np.bincount(found.split(name).labels) for name in ("train", "val", "test")}
    assert {name: int(count.sum()) for name, count in counts.items()} == {"train": 1078, "val": 360, "test": 359}
    total = sum(counts.values())
    for count, part in zip(counts.values(), (0.6, 0.2, 0.2), strict=True):
        assert (abs(count - total * part) <= 1).all()
    images, _ = next(found.split("train").batches(1078))
    assert images.shape == (1078, 1, 16, 16)
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01


def test_no_digit_is_in_two_splits() -> None:
    found = open_dataset("digits")
    seen = [image.tobytes() for split in found.splits.values() for images, _ in split.batches(64) for image in images]
    assert len(set(seen)) == 1797  # the originals are distinct too


def test_digits_are_the_same_in_another_process() -> None:
    code = "from limpq_deploy.calibration.datasets import open_dataset; print(open_dataset('digits').digest())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == open_dataset("digits").digest()


def test_digits_are_fitted_to_a_colour_model() -> None:
    preprocess = Preprocess(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    images, _ = next(open_dataset("digits", preprocess).split("test").batches(4))
    assert images.shape == (4, 3, 32, 32)


def test_digits_are_read_without_importing_scikit_learn_and_are_the_ones_that_it_gives() -> None:
    code = """
import sys
from limpq_deploy.calibration.datasets.digits import _originals
images, labels = _originals()
assert "sklearn" not in sys.modules and "scipy" not in sys.modules
from sklearn.datasets import load_digits
known, digits = load_digits(return_X_y=True)
assert (images == known).all() and (labels == digits).all() and images.dtype == known.dtype
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'limpq-deploy\[train\]'"):
        open_dataset("digits")


@pytest.mark.parametrize("spec", ["mnist", "imagefolder", "imagefolder:", "", "not a module:factory"])
def test_an_unknown_data_set_lists_the_forms(spec: str) -> None:
    with pytest.raises(
        DataError, match=r"expected digits, imagefolder:PATH, images:PATH, .*cifar10:PATH or module:factory"
    ):
        open_dataset(spec)


def test_a_class_list_for_digits_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--classes has no meaning for 'digits'"):
        open_dataset("digits", classes_file=tmp_path / "classes.json")


FACTORIES = """
import numpy as np
from limpq_deploy.calibration.datasets import DataSet, Preprocess, digest_of_arrays, hold_out, split_of_arrays

def squares(preprocess):
    preprocess = preprocess or Preprocess(height=2, width=2, mean=(0.0,), std=(1.0,), channels=1)
    images = np.arange(80, dtype=np.uint8).reshape(20, 2, 2)
    train, val = hold_out(split_of_arrays(images, np.arange(20) % 2, preprocess))
    return DataSet(name="squares", classes=("even", "odd"), fingerprint=digest_of_arrays(images),
                   splits={"train": train, "val": val, "test": val})

def listing(preprocess):
    return [1, 2, 3]

class Torchlike:
    classes = ["a"]
    def split(self, name): ...

def almost(preprocess):
    return Torchlike()

def forgetful():
    return None

number = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "user_images.py").write_text(FACTORIES)
    (tmp_path / "user_broken.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "user_images", raising=False)
    return "user_images"


def test_a_factory_in_the_current_folder_is_found(user_module: str) -> None:
    dataset = open_dataset(f"{user_module}:squares")
    assert dataset.classes == ("even", "odd")
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [18, 2, 2]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("listing", "returned a list, without classes and split and digest; expected a .*DataSet"),
        ("almost", "returned a Torchlike, without digest; expected a .*DataSet"),
        ("forgetful", "cannot be called with one argument; expected a function of the model's preprocessing"),
        ("absent", "nothing of that name"),
        ("number", "has a int"),
    ],
)
def test_a_factory_that_gives_something_else_is_named(user_module: str, name: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_dataset(f"{user_module}:{name}")


def test_a_missing_module_is_told_apart_from_one_that_fails_to_import(user_module: str) -> None:
    with pytest.raises(DataError, match="no module 'nowhere'"):
        open_dataset("nowhere:factory")
    missing = "importing 'user_broken' raised ModuleNotFoundError.*a_package_that_is_not_there"
    with pytest.raises(DataError, match=missing):
        open_dataset("user_broken:factory")


def test_data_sets_load_without_torch_scikit_learn_or_a_runtime() -> None:
    code = (
        "import sys, limpq_deploy.calibration.datasets;"
        "print([m for m in ('torch', 'sklearn', 'onnxruntime', 'pulp') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
