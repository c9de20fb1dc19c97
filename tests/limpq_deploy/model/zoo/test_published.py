"""Published weights from the caches of torchvision and timm; the tests write files of their names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limpq_deploy.calibration.errors import ModelError, SettingError
from limpq_deploy.model.zoo import create_model, known_info
from limpq_deploy.model.zoo.published import published_file
from limpq_deploy.pipeline.config import Config, make_config
from limpq_deploy.pipeline.start import take_weights

SQUEEZENET = "squeezenet1_1-b8a52dc0.pth"
"""The first published weights of torchvision/squeezenet1_1."""


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_where_nothing_is_published_here_the_place_and_the_name_are_told(checkpoints: Path) -> None:
    with pytest.raises(ModelError) as caught:
        published_file("torchvision/squeezenet1_1")
    assert f"looked for {checkpoints / SQUEEZENET}" in str(caught.value)
    assert "no command here uses the network" in str(caught.value)


def test_torchvisions_weights_are_taken_from_its_cache(checkpoints: Path) -> None:
    published, _ = create_model("torchvision/squeezenet1_1")
    torch.save(published.state_dict(), checkpoints / SQUEEZENET)
    model, _ = create_model("torchvision/squeezenet1_1")
    start = take_weights(model, Config(model="torchvision/squeezenet1_1", pretrained=True))
    assert start.trained
    assert start.source == "published weights of torchvision/squeezenet1_1"
    assert "SHA-256 does not begin with b8a52dc0" in start.notes[1]  # this one is the test's own
    assert _equal(model, published, but="")


def test_other_classes_leave_the_last_layer_fresh_and_say_so(checkpoints: Path) -> None:
    published, _ = create_model("torchvision/squeezenet1_1")
    torch.save(published.state_dict(), checkpoints / SQUEEZENET)
    model, _ = create_model("torchvision/squeezenet1_1", 3)
    head = model.state_dict()["classifier.1.weight"].clone()
    start = take_weights(model, Config(model="torchvision/squeezenet1_1", pretrained=True))
    assert not start.trained
    assert "classifier.1.weight and classifier.1.bias start from random numbers" in start.notes[-1]
    assert "published weights are of 1000 classes, the data of 3" in start.notes[-1]
    assert _equal(model, published, but="classifier.1")
    assert torch.equal(head, model.state_dict()["classifier.1.weight"])


def test_a_model_of_a_library_without_weights_says_that_it_starts_from_random_numbers() -> None:
    model, _ = create_model("torchvision/squeezenet1_1", 3)
    start = take_weights(model, Config(model="torchvision/squeezenet1_1"))
    assert start.source == "random numbers, trained here"
    assert "starts from random numbers" in start.notes[0]
    assert take_weights(create_model("resnet8")[0], Config()).notes == ()


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_model_that_normalises_again_with_weights_gets_the_preprocessing_of_both(name: str) -> None:
    info = known_info(f"torchvision/{name}")
    assert info is not None
    assert info.preprocess is not None
    assert info.preprocess.mean == info.preprocess.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pretrained": True, "model": "resnet20"}, "--pretrained has no meaning for the model resnet20"),
        ({"pretrained": True, "weights": Path("w.pth"), "model": "timm/resnet18"}, "leave one away"),
        ({"weights_key": "ema"}, "--weights-key is ema, which has no effect without weights"),
    ],
)
def test_settings_that_have_no_effect_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make_config(settings)


def test_timms_weights_are_taken_from_the_cache_of_the_hub(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra limpq-deploy[timm]")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    name = "timm/mobilenetv3_small_050"
    repository = tmp_path / "models--timm--mobilenetv3_small_050.lamb_in1k"
    with pytest.raises(ModelError, match=f"looked for {repository}/snapshots/REVISION/model.safetensors"):
        published_file(name)
    published, _ = create_model(name, 1000)
    with torch.no_grad():
        published.get_parameter("conv_stem.weight").fill_(0.25)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(published.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    model, _ = create_model(name, 3)
    start = take_weights(model, Config(model=name, pretrained=True))
    assert _equal(model, published, but="classifier")
    assert not start.trained
    assert "classifier.weight and classifier.bias start from random numbers" in start.notes[-1]


def _equal(one: nn.Module, other: nn.Module, *, but: str) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine if not but or not name.startswith(but))
