"""Bad input: one sentence, exit code 1, before any training and before anything is written."""

import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image

Command = Callable[..., Result]
Refused = Callable[..., str]

MODELS = """
import torch
from torch import nn

from limpq_deploy.calibration.datasets import Preprocess


class Net(nn.Module):
    def __init__(self, odd, first=None, classes=10, branches=False):
        super().__init__()
        self.first = first or nn.Identity()
        self.conv = nn.Conv2d(1, 4, 3)
        self.odd = odd
        self.linear = nn.Linear(4, classes)
        self.branches = branches
        self.preprocess = Preprocess(height=16, width=16, mean=(0.3,), std=(0.3,), channels=1)

    def forward(self, x):
        x = self.odd(self.conv(self.first(x)))
        if self.branches and x.sum() > 0:
            x = -x
        return self.linear(x.mean((2, 3)))


def branching(): return Net(nn.ReLU(), branches=True)
def hundred_classes(): return Net(nn.ReLU(), classes=100)
def no_model(): return 3

class Quarter(nn.Module):
    # computes otherwise while it is traced
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
    def forward(self, x):
        x = self.conv(x)
        return torch.relu(x) if hasattr(x, "node") else x

def otherwise():
    model = Net(nn.Identity(), first=nn.Conv2d(1, 2, 3))
    model.conv = Quarter()
    return model
"""


@pytest.fixture
def models(here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module of odd models."""
    name = f"models_of_{here.name}"
    (here / f"{name}.py").write_text(MODELS)
    monkeypatch.syspath_prepend(here)
    return name


@pytest.fixture
def images(here: Path) -> Path:
    """Three classes of four small images in each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in ("ant", "bee", "cat"):
            folder = here / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(folder / f"{number}.png")
    return here / "images"


def test_a_missing_data_folder(refused: Refused, here: Path) -> None:
    refused("build", "--data", "imagefolder:nowhere", words=("data folder nowhere does not exist", "train/<class>"))
    assert not (here / "limpq-build").exists()


def test_a_cache_that_others_may_write(refused: Refused, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "cache").mkdir()
    (here / "cache").chmod(0o777)
    monkeypatch.setenv("LIMPQ_CACHE", str(here / "cache"))
    refused("build", words=("others may write to the cache", "LIMPQ_CACHE"))
    assert not (here / "limpq-build").exists()


def test_no_room_for_temporary_files(
    refused: Refused, finished: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)  # Python looks for it once
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        for words in (["build"], ["parity", finished / "model.qdq.onnx"]):
            refused(*words, words=("temporary files can be written nowhere", "TMPDIR"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (here / "limpq-build").exists()


def test_an_empty_image(refused: Refused, images: Path) -> None:
    (images / "val/bee/1.png").write_bytes(b"")
    refused("build", "--data", "imagefolder:images", words=("images/val/bee/1.png", "the file is empty"))


def test_a_truncated_image_is_found_before_training(refused: Refused, images: Path, here: Path) -> None:
    image = images / "test/cat/3.png"
    image.write_bytes(image.read_bytes()[:100])
    refused("build", "--data", "imagefolder:images", words=("images/test/cat/3.png", "truncated", "replace or remove"))
    assert not (here / "limpq-build/float.safetensors").exists()


def test_three_classes_of_images_and_weights_of_ten(refused: Refused, images: Path, finished: Path) -> None:
    weights = finished / "float.safetensors"
    arguments = ("build", "--data", "imagefolder:images", "--weights", weights)
    refused(*arguments, words=("has 3 classes, the model has 10", "--classes"))


def test_weights_of_another_model(refused: Refused, finished: Path, here: Path) -> None:
    arguments = ("build", "--model", "resnet20", "--weights", finished / "float.safetensors")
    refused(*arguments, words=("holds weights of another model than CifarResNet", "missing", "conv1.weight"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("module.pth", ("module.pth holds a whole pickled module", "torch.save(model.state_dict(), FILE)")),
        ("absent.pth", ("cannot read weights absent.pth", "No such file")),
        ("absent.safetensors", ("cannot read weights absent.safetensors", "No such file")),
        ("damaged.safetensors", ("damaged.safetensors is not a whole safetensors file",)),
    ],
)
def test_files_that_hold_no_weights(refused: Refused, here: Path, name: str, words: tuple[str, ...]) -> None:
    (here / "damaged.safetensors").write_bytes(b"\xff" * 64)
    torch.save(torch.nn.Linear(2, 2), here / "module.pth")
    refused("build", "--weights", name, words=words)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("branching", ("cannot be traced", "must not branch on tensor values")),
        ("hundred_classes", ("has 10 classes, the model has 100",)),
        ("no_model", ("returned a int; expected a torch.nn.Module",)),
        ("absent", ("expected a function 'absent'",)),
    ],
)
def test_models_that_cannot_be_quantized(
    refused: Refused, models: str, here: Path, factory: str, words: tuple[str, ...]
) -> None:
    refused("build", "--model", f"{models}:{factory}", words=words)
    assert not (here / "limpq-build").exists()


@pytest.mark.parametrize("command", ["build", "indicators", "finetune", "export"])
def test_a_network_that_is_traced_wrongly_is_refused_before_it_is_trained(
    refused: Refused, models: str, here: Path, command: str
) -> None:
    words = ("does not compute what the model itself does", "the first module that differs is ")
    refused(command, "--model", f"{models}:otherwise", words=words)
    assert not (here / "limpq-build/float.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--like", "w1a1"), ("--like w1a1 allows 0.00301466 G", "the smallest reachable is 0.0120587 G")),
        (("--max-gbitops", "0.001"), ("--max-gbitops 0.001", "the smallest reachable is 0.0144589 G")),
        (("--compression-ratio", "20"), ("--compression-ratio 20", "the largest reachable is 15.5261 times smaller")),
        (("--max-mib", "0.001"), ("--max-mib 0.001", "the smallest reachable is 0.0189362 MiB")),
        (("--like", "nonsense"), ("--like 'nonsense' is not understood", "w4a4")),
    ],
)
def test_budgets_that_no_policy_meets(
    refused: Refused, here: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused("build", *options, words=words)
    assert not (here / "limpq-build").exists()


def test_the_figure_named_as_reachable_is_reachable(run: Command, copy: Path, settings: Path) -> None:
    indicators = copy / "indicators.json"
    assert run("search", indicators, "--max-gbitops", "0.0144589").exit_code == 0
    assert run("search", indicators, "--max-gbitops", "0.0144588").exit_code == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pinned-bits", "9"), ("--pinned-bits is 9; expected 2 to 8",)),
        (("--bits", "2,9"), ("--bits is 2,9; expected ascending bit-widths from 2 to 8",)),
        (("--bits", "4,3"), ("--bits is 4,3",)),
        (("--seed", "-1"), ("--seed is -1",)),
        (("--alpha", "nan"), ("--alpha is nan",)),
        (("--max-gbitops", "-2"), ("--max-gbitops is -2.0; expected a number above 0",)),
        (("--latency-seconds", "0"), ("--latency-seconds is 0.0",)),
        (("--model", "resnet9"), ("unknown model 'resnet9'", "resnet8")),
        (("--data", "mnist"), ("unknown data set 'mnist'", "imagefolder:PATH")),
        (("--data", "digit"), ("did you mean 'digits'?",)),
        (("--target", "tensorrt"), ("TensorRT", "--no-engine")),
        (("--classes", "names.json"), ("--classes has no meaning for 'digits'",)),
    ],
)
def test_options_that_make_no_sense(
    refused: Refused, here: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused("build", *options, words=words)
    assert not (here / "limpq-build").exists()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("file", ("file is a file; --out expects a folder",)),
        ("file/below", ("cannot write to file/below: Not a directory", "--out")),
        ("/proc/build", ("cannot write to /proc/build", "--out")),
    ],
)
def test_output_folders_that_cannot_be_written(refused: Refused, here: Path, out: str, words: tuple[str, ...]) -> None:
    (here / "file").write_text("mine")
    refused("build", "--out", out, words=words)
    assert (here / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 1", ("settings.toml: unknown key 'colour'", "known keys most like it: ")),
        ("[training]\nsteps = 1", ("[training]: unknown key 'steps'", "joint_steps")),
        ('seed = "x"', ("settings.toml: seed is 'x'; expected a valid integer",)),
        ("bits = 4", ("settings.toml: bits is 4; expected a list",)),
        ("bits = [2, 9]", ("settings.toml: bits is 2,9",)),
        ("training = 3", ("settings.toml: training is 3; expected a section",)),
        ("[training]\nfloat_steps = -3", ("settings.toml: training.float_steps is -3",)),
        ('target = "vulkan"', ("target is 'vulkan'", "onnxruntime")),
        ("seed = [", ("settings.toml is not valid TOML",)),
        ("\udcff", ("settings.toml is not UTF-8",)),
    ],
)
def test_settings_files_that_make_no_sense(refused: Refused, here: Path, text: str, words: tuple[str, ...]) -> None:
    (here / "settings.toml").write_bytes(text.encode(errors="surrogateescape"))
    refused("build", "--config", "settings.toml", words=words)


def test_a_settings_file_that_is_not_there(refused: Refused, here: Path) -> None:
    refused("build", "--config", "absent.toml", words=("cannot read absent.toml", "expected a TOML file"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "--bits", "x"),
        ("build", "--seed", "x"),
        ("build", "--target", "vulkan"),
        ("build", "--frobnicate"),
        ("search",),
        ("bench",),
        ("lint",),
        ("frobnicate",),
    ],
)
def test_wrong_usage_exits_with_2(run: Command, here: Path, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage:" in result.stderr
