"""torchvision's and timm's models by name, on an import that is repaired where it has to be."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.zoo import create_model, known_info
from limpq_deploy.model.zoo.unfilled import Unfilled

REPAIRED = """
from limpq_deploy.model.zoo.torchvision import import_torchvision
first = import_torchvision()
import torchvision, torchvision.transforms.v2, torchvision.models
assert torchvision is first is import_torchvision()
print(torchvision.models.get_model("resnet18", weights=None).fc.out_features)
"""


def test_torchvision_can_be_imported_whatever_its_binary_was_built_for() -> None:
    done = subprocess.run([sys.executable, "-c", REPAIRED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1000"]


def test_a_torchvision_model_has_the_preprocessing_of_its_published_weights() -> None:
    info = known_info("torchvision/mobilenet_v2")
    assert info is not None
    assert info.preprocess is not None
    assert (info.num_classes, info.preprocess.shape, info.preprocess.resize) == (1000, (3, 224, 224), 256)
    assert info.preprocess.mean == (0.485, 0.456, 0.406)


def test_a_model_of_fixed_size_gets_the_images_that_it_takes() -> None:
    info = known_info("torchvision/vit_h_14")
    assert info is not None
    assert info.preprocess is not None
    assert (info.preprocess.shape, info.preprocess.resize) == ((3, 224, 224), 224)


def test_an_unfilled_model_has_the_shapes_of_a_filled_one() -> None:
    with Unfilled():
        unfilled, _ = create_model("torchvision/vit_b_32")
    assert {name: one.shape for name, one in unfilled.state_dict().items()} == {
        name: one.shape for name, one in create_model("torchvision/vit_b_32")[0].state_dict().items()
    }
    assert unfilled.encoder.layers[0].mlp[0].weight.requires_grad  # type: ignore[index, union-attr]
    assert torch.nn.init.ones_(torch.zeros(2)).sum() == 2


def test_a_bounded_distribution_is_not_drawn_for_ever() -> None:
    parameter = torch.nn.Parameter(torch.full((8, 8), 1e6))
    with Unfilled():
        torch.nn.init.trunc_normal_(parameter, std=0.01)
        torch.nn.init.trunc_normal_(parameter, mean=3.0, std=0.01, a=-2.0, b=2.99)
    assert parameter.shape == (8, 8)


def test_a_torchvision_model_takes_the_number_of_classes() -> None:
    model, info = create_model("torchvision/squeezenet1_1", num_classes=7)
    assert info.num_classes == 7
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_a_timm_model_is_made_by_name() -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs the extra limpq-deploy[timm]")
    model, info = create_model("timm/mobilenetv3_small_050", num_classes=3)
    assert info.preprocess is not None
    assert info.preprocess.shape == (3, 224, 224)
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(
        ModelError, match=r"torchvision has no model 'mobilnet_v2'; did you mean torchvision/mobilenet_v2"
    ):
        known_info("torchvision/mobilnet_v2")


@pytest.mark.parametrize("name", ["package.module:factory", "hub/resnet18", "resnet"])
def test_nothing_is_known_of_other_names(name: str) -> None:
    assert known_info(name) is None
