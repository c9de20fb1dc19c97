"""Files of weights as the world writes them, and files that must not be opened."""

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.zoo.weights import load_weights


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


class Hostile:
    """Runs a command wherever a pickle of it is loaded as pickle loads."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".th", ".ckpt", ".pth.tar", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_save_wrote_is_read_under_any_name(tmp_path: Path, suffix: str, zipped: bool) -> None:
    source, target = small(), small()
    path = tmp_path / f"weights{suffix}"
    torch.save(source.state_dict(), path, _use_new_zipfile_serialization=zipped)
    assert load_weights(target, path) == ()
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in source.state_dict().items())


@pytest.mark.parametrize("zipped", [True, False])
def test_what_lies_beside_the_weights_in_a_checkpoint_is_left_alone(tmp_path: Path, zipped: bool) -> None:
    source, target = small(), small()
    optimizer = torch.optim.Adam(source.parameters())
    beside = {
        "optimizer": optimizer.state_dict(),
        "epoch": np.int64(3),
        "best": np.float64(0.5),
        "history": np.arange(5.0),
        "objects": np.array([{}], dtype=object),
        "numpy_rng": np.random.default_rng(0).bytes(3),
        "old_rng": np.random.RandomState(0).get_state(),
        "args": argparse.Namespace(lr=0.1, out=tmp_path),
        "torch_rng": torch.get_rng_state(),
    }
    torch.save({"state_dict": source.state_dict(), **beside}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert load_weights(target, tmp_path / "w.pth") == ("Weights are those of 'state_dict' in w.pth.",)
    assert torch.equal(source.state_dict()["0.weight"], target.state_dict()["0.weight"])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("beside_weights", [True, False])
def test_a_hostile_file_is_refused_and_nothing_of_it_runs(tmp_path: Path, zipped: bool, beside_weights: bool) -> None:
    mark = tmp_path / "executed"
    held = {"state_dict": small().state_dict(), "x": Hostile(mark)} if beside_weights else Hostile(mark)
    torch.save(held, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert "system" in refused(tmp_path / "w.pth", words="which could run code, so it is not opened")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_refused_and_nothing_of_it_runs(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "executed"
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"x": Hostile(mark)}, protocol=protocol))
    refused(tmp_path / "w.pkl", words="run code")
    assert not mark.exists()


@pytest.mark.parametrize("held", [small, lambda: {"model": small(), "epoch": 1}])
def test_a_whole_pickled_module_has_its_own_sentence(tmp_path: Path, held: Callable[[], Any]) -> None:
    torch.save(held(), tmp_path / "w.pth")
    refused(tmp_path / "w.pth", words="holds a whole pickled module")


def test_a_torchscript_archive_has_its_own_sentence(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(small()[0], torch.ones(1, 3, 4, 4)), tmp_path / "w.pt")
    refused(tmp_path / "w.pt", words="is a TorchScript archive")


@pytest.mark.parametrize("data", [b"", b"hello world", b"\0" * 99, b"PK\x03\x04" + b"\0" * 99, b"\x80\x02}"])
def test_what_is_no_file_of_weights_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    refused(tmp_path / "w.pth", words="")


def test_a_file_that_was_cut_off_is_one_sentence(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    for size in (len(data) // 2, len(data) - 100):
        (tmp_path / "w.pth").write_bytes(data[:size])
        refused(tmp_path / "w.pth", words="copy it again")


@pytest.mark.parametrize("held", [[1, 2], torch.ones(3), {"a": None}, {1: torch.ones(3)}])
def test_a_file_without_named_tensors_is_one_sentence(tmp_path: Path, held: Any) -> None:
    torch.save(held, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", words="holds no tensors by name")


def test_a_dictionary_that_holds_itself_is_read_once(tmp_path: Path) -> None:
    held: dict[str, Any] = {"state_dict": small().state_dict()}
    held["self"] = held
    torch.save(held, tmp_path / "w.pth")
    assert "'state_dict'" in load_weights(small(), tmp_path / "w.pth")[0]


def refused(path: Path, *, words: str) -> str:
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_weights(model, path)
    told = str(caught.value)
    assert words in told
    assert "\n" not in told
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return told
