"""Number formats and memory layouts of training."""

import dataclasses

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.train.device import channels_last, on_device, require_precision, training_device, usual_layout
from limpq_deploy.train.loop import train
from limpq_deploy.train.settings import TrainSettings

SHORT = TrainSettings(
    steps=8,
    batch_size=32,
    learning_rate=0.05,
    scale_learning_rate=0.01,
    warmup_steps=1,
    weight_decay=1e-4,
    label_smoothing=0.1,
)
NO_GPU = not torch.cuda.is_available()
BF16 = torch.cpu._is_avx512_bf16_supported()


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU, which computes fp16")
def test_fp16_without_a_gpu_is_one_sentence() -> None:
    with pytest.raises(SettingError, match="precision fp16 needs a GPU, and there is none here; take fp32"):
        require_precision("fp16")


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU, which computes bf16")
def test_bf16_is_refused_where_a_cpu_would_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(SettingError, match="this one would emulate it, 18 times as slow as fp32"):
        require_precision("bf16")
    require_precision("fp32")


@pytest.mark.skipif(NO_GPU and not BF16, reason="bf16 needs a GPU or AVX512-BF16")
def test_bf16_learns_like_fp32_and_leaves_float32_behind(tiny_model: nn.Module, few_digits: DataSet) -> None:
    first = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    losses = []
    for precision in ("fp32", "bf16"):
        tiny_model.load_state_dict(first)
        settings = dataclasses.replace(SHORT, precision=precision)
        losses.append([loss for (loss,) in train(tiny_model, few_digits.split("train"), settings, seed=0).losses])
    assert losses[0] != losses[1]
    # 8 bits of mantissa in convolutions: about three digits of a loss of 2.3.
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {tensor.dtype for tensor in tiny_model.parameters()} == {torch.float32}


def test_channels_last_changes_no_more_than_last_bits_and_is_undone(tiny_model: nn.Module, few_digits: DataSet) -> None:
    first = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    losses = []
    for wanted in (False, True):
        tiny_model.load_state_dict(first)
        settings = dataclasses.replace(SHORT, channels_last=wanted)
        losses.append([loss for (loss,) in train(tiny_model, few_digits.split("train"), settings, seed=0).losses])
        assert all(parameter.is_contiguous() for parameter in tiny_model.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_model_is_measured_in_the_layout_in_which_it_is_used(tiny_model: nn.Module) -> None:
    weight = tiny_model.get_parameter("conv2.weight")
    before = weight.detach().clone()
    with channels_last(tiny_model, True):
        assert not weight.is_contiguous()
        with usual_layout(tiny_model):
            assert weight.is_contiguous()
        assert not weight.is_contiguous()
        assert torch.equal(weight, before)
    assert weight.is_contiguous()


def test_accumulating_gives_the_gradients_of_the_whole_batch(few_digits: DataSet) -> None:
    linear = nn.Linear(256, 10)
    model = nn.Sequential(nn.Flatten(), linear)
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = []
    for parts in (1, 3):  # 32 images in parts of 11, 11 and 10
        model.load_state_dict(first)
        train(model, few_digits.split("train"), dataclasses.replace(SHORT, accumulate=parts), seed=0)
        weights.append(linear.weight.detach().clone())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-7)
    assert not torch.equal(weights[0], first["1.weight"])


def test_frozen_statistics_stay_while_weights_learn(tiny_model: nn.Module, few_digits: DataSet) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    train(tiny_model, few_digits.split("train"), dataclasses.replace(SHORT, freeze_batchnorm=True), seed=0)
    after = tiny_model.state_dict()
    assert torch.equal(after["bn2.running_mean"], before["bn2.running_mean"])
    assert not torch.equal(after["bn2.weight"], before["bn2.weight"])


def test_models_come_back_from_the_training_device(tiny_model: nn.Module) -> None:
    with on_device(tiny_model, None) as device:
        assert device == training_device()
        assert next(tiny_model.parameters()).device.type == device.type
    assert next(tiny_model.parameters()).device.type == "cpu"
