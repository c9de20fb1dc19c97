"""Models by name."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from limpq_deploy.calibration.datasets import open_dataset, require_classes
from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.zoo import MODELS, create_model


@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_the_table_fits_its_preprocessing_and_traces(name: str) -> None:
    model, info = create_model(name)
    assert info == MODELS[name]
    assert info.preprocess is not None
    images = torch.randn(2, *info.preprocess.shape)
    model.eval()
    logits = model(images)
    assert logits.shape == (2, info.num_classes)
    torch.testing.assert_close(fx.symbolic_trace(model)(images), logits, rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_no_module_is_called_twice(name: str) -> None:
    """Quantizers are placed by module, so every use has its own."""
    model, _ = create_model(name)
    called = [node.target for node in fx.symbolic_trace(model).graph.nodes if node.op == "call_module"]
    assert len(called) == len(set(called))


@pytest.mark.parametrize(("name", "parameters"), [("resnet20", 269722), ("resnet56", 853018), ("resnet8", 77754)])
def test_parameter_counts(name: str, parameters: int) -> None:
    """He et al. give 0.27 M and 0.85 M; resnet8 is 176 + 4672 + 14528 + 57728 + 650, summed stage by stage."""
    model, _ = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_option_a_subsamples_and_pads_channels_with_zeros_on_both_sides() -> None:
    from limpq_deploy.model.zoo.resnet_cifar import PadShortcut

    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    out = PadShortcut(2)(x)
    assert out.shape == (1, 4, 2, 2)
    torch.testing.assert_close(out[:, 1:3], x[:, :, ::2, ::2], rtol=0, atol=0)
    assert not out[:, [0, 3]].any()


def test_the_number_of_classes_can_be_chosen() -> None:
    model, info = create_model("resnet20", num_classes=7)
    assert info.num_classes == 7
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize("name", ["resnet18", "torch-vision/resnet18", "hub/resnet18.a1_in1k", "resnet 8:x"])
def test_an_unknown_model_lists_the_names(name: str) -> None:
    with pytest.raises(ModelError, match=r"unknown model .* expected resnet8, .* or package.module:factory"):
        create_model(name)


def test_a_dot_in_the_place_of_the_colon_is_seen() -> None:
    with pytest.raises(ModelError, match=r"did you mean 'my.models:factory'\?"):
        create_model("my.models.factory")


FACTORIES = """
import torch
from torch import nn
from limpq_deploy.calibration.datasets import Preprocess

def plain():
    return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 5))

def with_preprocess():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.preprocess = Preprocess(height=4, width=4, mean=(0.0,), std=(1.0,), channels=1)
    return model

def sized(num_classes, width=8):
    return nn.Linear(width, num_classes)

def wrong():
    return "resnet"

def failing():
    return nn.Linear("many", 3)

def leaving():
    raise SystemExit(4)

def wrong_preprocess():
    model = plain()
    model.preprocess = (224, 224)
    return model
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "user_models.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "user_models", raising=False)
    return "user_models"


def test_a_users_model_may_say_its_preprocessing(user_module: str) -> None:
    assert create_model(f"{user_module}:plain")[1].preprocess is None
    _, info = create_model(f"{user_module}:with_preprocess")
    assert info.preprocess is not None
    assert info.preprocess.shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrong", "returned a str; expected a torch.nn.Module"),
        ("wrong_preprocess", "'preprocess' of type tuple"),
        ("absent", "nothing of that name"),
        ("failing", r"raised TypeError: .* \(user_models.py:21\); mend the factory, or see all of it with --debug"),
        ("leaving", r"raised SystemExit: 4 \(user_models.py:24\)"),
        ("sized", "cannot be called without num_classes; expected a function without arguments"),
    ],
)
def test_a_factory_that_gives_something_else_is_named(user_module: str, name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        create_model(f"{user_module}:{name}")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import no_such_package", r"ModuleNotFoundError: No module named 'no_such_package' \(broken.py:1\)"),
        ("x = 1\ny = x.z", r"AttributeError: 'int' object has no attribute 'z' \(broken.py:2\)"),
        ("def make(:", r"SyntaxError: invalid syntax \(broken.py:1\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_line(user_module: str, source: str, sentence: str) -> None:
    Path("broken.py").write_text(source)
    sys.modules.pop("broken", None)
    importlib.invalidate_caches()
    with pytest.raises(ModelError, match=rf"importing 'broken' raised {sentence}; mend the module"):
        create_model("broken:make")


def test_the_table_is_read_without_torch() -> None:
    code = "import sys; from limpq_deploy.model.zoo import MODELS; print(len(MODELS), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == [str(len(MODELS)), "False"]


def test_resnet8_learns_the_digits_in_a_few_epochs() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, info = create_model("resnet8")
    digits = open_dataset("digits", info.preprocess)
    assert info.num_classes is not None
    require_classes(digits, info.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch, rate in enumerate((0.1, 0.05, 0.02, 0.005)):
        optimizer.param_groups[0]["lr"] = rate
        for images, labels in digits.split("train").batches(64, shuffle=(0, epoch), drop_last=True):
            loss = nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    images, labels = next(digits.split("test").batches(359))
    with torch.no_grad():
        top1 = (model(torch.from_numpy(images)).argmax(1).numpy() == labels).mean()
    assert top1 > 0.9  # chance is 0.1; twelve epochs with a falling learning rate give 0.99
