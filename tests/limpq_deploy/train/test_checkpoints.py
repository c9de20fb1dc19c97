import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.train.checkpoints import CheckpointInfo, load_module, save_module

INFO = CheckpointInfo(kind="finetuned", model="resnet8", target="onnxruntime", bits={"a": (2, 4), "b": (3, 3)})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_module(tmp_path / "model.safetensors", nn.Linear(3, 2), INFO)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "resnet20"}, "has model 'resnet8'; expected 'resnet20'"),
        ({"target": "tensorrt"}, "has target 'onnxruntime'; expected 'tensorrt'"),
        (
            {"kind": "joint"},
            r"has kind 'finetuned' \(a fine-tuned model\); expected 'joint' \(a jointly trained model\)",
        ),
        ({"bits": {"a": (2, 4), "b": (3, 5)}}, r"has bits \[3, 3\] in layer 'b'; expected \[3, 5\] in layer 'b'"),
        ({"bits": {"a": (2, 4)}}, r"has bits \[3, 3\] in layer 'b'; expected no layer 'b'"),
        ({"bits": (2, 3)}, r"has bits a policy of 2 layers; expected \[2, 3\]"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_by_name(
    saved: Path, change: dict[str, object], sentence: str
) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    with pytest.raises(ModelError, match=sentence):
        load_module(saved, module, dataclasses.replace(INFO, **change))  # type: ignore[arg-type]
    assert torch.equal(module.weight, before)


def test_what_was_saved_is_loaded_bit_by_bit(tmp_path: Path) -> None:
    first, second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    first(torch.randn(3, 4, 2, 2))
    save_module(tmp_path / "x", first, INFO)
    load_module(tmp_path / "x", second, INFO)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


PROGRAM = """
import sys
from pathlib import Path
from torch import nn
from limpq_deploy.train.checkpoints import CheckpointInfo, load_module, save_module

def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

module = nn.ModuleList(nn.Linear(2048, 1024, bias=False) for _ in range(12))
info = CheckpointInfo(kind="float", model="m")
save_module(Path(sys.argv[1]), module, info)
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is what is resident now
before = most()
load_module(Path(sys.argv[1]), module, info)
print(most() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel is not Linux")
def test_a_file_of_96_mib_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 32


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    for name in ("a", "b"):
        save_module(tmp_path / name, module, INFO)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_tensors_are_named(saved: Path) -> None:
    with pytest.raises(ModelError, match="1 tensors are missing, unknown or of another shape, the first is 'weight'"):
        load_module(saved, nn.Linear(4, 2), INFO)


def test_damaged_missing_and_foreign_files_are_told_apart(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read checkpoint"):
        load_module(tmp_path / "none", nn.Linear(3, 2), INFO)
    saved.write_bytes(saved.read_bytes()[:-5])
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        load_module(saved, nn.Linear(3, 2), INFO)
    save_file(nn.Linear(3, 2).state_dict(), tmp_path / "foreign")
    with pytest.raises(ModelError, match=r"is no limpq.checkpoint/1 file"):
        load_module(tmp_path / "foreign", nn.Linear(3, 2), INFO)


def test_a_failed_save_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    strange = nn.Linear(2, 2)
    strange.register_buffer("phase", torch.zeros(2, dtype=torch.complex128))  # safetensors has no such type
    with pytest.raises(KeyError, match="complex128"):
        save_module(saved, strange, INFO)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_module_under_two_names_is_saved_once_and_loaded(tmp_path: Path) -> None:
    inner = nn.Linear(3, 2)
    model = nn.ModuleDict({"a": inner, "backbone": inner})
    save_module(tmp_path / "alias.safetensors", model, INFO)
    again = nn.Linear(3, 2)
    load_module(tmp_path / "alias.safetensors", nn.ModuleDict({"a": again, "backbone": again}), INFO)
    assert torch.equal(again.weight, inner.weight)
    assert torch.equal(again.bias, inner.bias)
