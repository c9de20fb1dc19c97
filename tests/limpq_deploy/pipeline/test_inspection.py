"""`inspect`: a network looked at, neither trained nor run."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import limpq_deploy
from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.cli.main import main
from limpq_deploy.model.zoo import create_model
from limpq_deploy.pipeline.inspection import inspect


class Islands(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x)).mean((2, 3)))


def test_layers_and_uniform_policies_are_those_of_a_build() -> None:
    found = inspect("resnet20", target="tensorrt")
    assert found.accepted
    assert found.why == ()
    assert (len(found.layers), found.input_shape) == (20, (3, 32, 32))
    first, second = found.layers[:2]
    assert (first.name, first.macs, first.num_weights, first.weight_bits, first.input_bits) == (
        *("conv1", 32 * 32 * 16 * 27, 16 * 27, 8, 8),
    )
    assert (second.weight_bits, second.input_bits, second.runs_in) == (None, None, "integer")
    assert found.integer_macs_share == 1.0
    four = next(one for one in found.uniform if one.bits == 4)
    pinned = (first, found.layers[-1])
    searched = [layer for layer in found.layers if layer not in pinned]
    bitops = sum(layer.macs for layer in searched) * 16 + sum(layer.macs for layer in pinned) * 64
    assert four.gbitops == pytest.approx(bitops / 1e9)
    size = sum(layer.num_weights for layer in searched) * 4 + sum(layer.num_weights for layer in pinned) * 8
    assert four.mib == pytest.approx(size / 2**23)
    assert found.training is not None
    assert 0 < found.training.finetune < found.training.joint


def test_what_a_target_leaves_in_float_is_named_with_its_line() -> None:
    assert inspect("resnet20", target="onnxruntime").float_operators == ()
    (pool,) = inspect("resnet20", target="tensorrt").float_operators
    assert pool.operator == "AdaptiveAvgPool2d"
    assert "none of its inputs carries a quantizer (resnet_cifar.py:" in pool.why


def test_what_has_no_integer_form_is_named_with_its_line_and_stops_nothing() -> None:
    model = Islands()
    found = limpq_deploy.inspect(model, input_shape=(3, 8, 8))
    assert found.accepted
    line = Islands.forward.__code__.co_firstlineno + 1
    [one] = found.float_operators
    assert (one.name, one.operator, one.num_weights) == ("norm", "GroupNorm", 8)
    assert one.why == f"layer norm (GroupNorm) (test_inspection.py:{line}) has no integer form here"
    assert [(layer.name, layer.macs, layer.runs_in) for layer in found.layers] == [
        *(("conv", 36 * 4 * 27, "integer"), ("linear", 8, "integer")),
    ]
    assert found.integer_macs_share == 1
    assert model.training


def test_a_refused_network_says_why_and_what_its_layers_would_cost() -> None:
    class Refused(Islands):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.rand(1)

    found = limpq_deploy.inspect(Refused(), input_shape=(3, 8, 8))
    assert not found.accepted
    assert "random numbers" in found.why[0]
    assert found.integer_macs_share == 0


def test_the_image_must_be_known() -> None:
    with pytest.raises(ModelError, match="Islands does not say what images it takes; give --input-shape C,H,W"):
        inspect(Islands())
    sizes = inspect(Islands(), input_shape=(1, 8, 8))
    assert "does not run on one image of 1x8x8" in sizes.why[0]


def test_the_command_answers_in_json_and_in_text(tmp_path: Path) -> None:
    (tmp_path / "nets_to_inspect.py").write_text(
        "from torch import nn\n\n\ndef good():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))\n\n\ndef bad():\n"
        "    return nn.Sequential(nn.GroupNorm(1, 3), nn.AdaptiveAvgPool2d(5))\n\n\ndef islands():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))\n"
    )
    runner = CliRunner()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        good = runner.invoke(main, ["inspect", "nets_to_inspect:good", "--input-shape", "3,8,8", "--json"])
        bad = runner.invoke(main, ["inspect", "nets_to_inspect:bad", "--input-shape", "3,8,8", "--json"])
        some = runner.invoke(main, ["inspect", "nets_to_inspect:islands", "--input-shape", "3,8,8"])
        text = runner.invoke(main, ["inspect", "nets_to_inspect:bad", "--input-shape", "3,8,8"])
    assert (good.exit_code, bad.exit_code, text.exit_code) == (0, 1, 1)
    keys = {"accepted", "why", "layers", "float_operators", "integer_macs_share", "seconds"}
    assert keys <= json.loads(good.stdout).keys()
    assert json.loads(good.stdout)["accepted"] is True
    answered = json.loads(bad.stdout)
    assert (answered["accepted"], len(answered["why"])) == (False, 1)
    assert keys <= answered.keys()
    assert "refused" in text.stdout
    assert "nothing to quantize" in " ".join(text.stdout.split())
    assert some.exit_code == 0
    assert "GroupNorm" in some.stdout
    whole = runner.invoke(main, ["inspect", "resnet8"])
    assert whole.exit_code == 0
    assert "--like w4a4" in whole.stdout
    assert "100.0 % of the MACs run in integers" in " ".join(whole.stdout.split())
    assert runner.invoke(main, ["inspect", "resnet8", "--input-shape", "big"]).exit_code == 2


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "weights.safetensors"
    save_file(create_model("resnet20")[0].state_dict(), file)
    assert inspect("resnet20", weights=file).accepted
    save_file({"conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="weights"):
        inspect("resnet20", weights=file)
