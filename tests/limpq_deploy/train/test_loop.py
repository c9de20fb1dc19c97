import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.errors import ModelError, SettingError
from limpq_deploy.train.accuracy import predictor, settle_batchnorm, top1
from limpq_deploy.train.loop import History, train
from limpq_deploy.train.losses import Pass
from limpq_deploy.train.optimizers import rate_factor
from limpq_deploy.train.settings import (
    FinetuneSettings,
    FloatSettings,
    JointSettings,
    TrainSettings,
    finetune_settings,
    float_settings,
    joint_settings,
)

SHORT = TrainSettings(
    steps=6,
    batch_size=32,
    learning_rate=0.05,
    scale_learning_rate=0.01,
    warmup_steps=1,
    weight_decay=1e-4,
    label_smoothing=0.1,
)


def run(model: nn.Module, data: DataSet, seed: int = 0, **changes: object) -> History:
    settings = dataclasses.replace(SHORT, **changes)  # type: ignore[arg-type]
    return train(model, data.split("train"), settings, seed=seed, augment=data.augment)


def test_one_seed_gives_bit_equal_losses_and_weights_and_another_does_not(
    tiny_model: nn.Module, few_digits: DataSet
) -> None:
    first = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    results = []
    for seed in (3, 3, 4):
        tiny_model.load_state_dict(first)
        history = run(tiny_model, few_digits, seed)
        results.append((history.losses, tiny_model.state_dict()["linear.weight"].clone()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][0] != results[2][0]


def test_training_leaves_the_global_generator_alone(tiny_model: nn.Module, few_digits: DataSet) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tiny_model, few_digits)
    assert torch.equal(torch.rand(3), expected)


def test_training_learns(tiny_model: nn.Module, few_digits: DataSet) -> None:
    before = top1(tiny_model, few_digits.split("val"))
    history = run(tiny_model, few_digits, steps=120, learning_rate=0.2, warmup_steps=10)
    settle_batchnorm(tiny_model, few_digits.split("train"), images=256, seed=0)
    assert history.losses[-1][0] < 0.7 * history.losses[0][0]
    assert history.images == 120 * 32
    assert top1(tiny_model, few_digits.split("val")) > before + 30
    assert not tiny_model.training


def test_gradients_of_all_passes_add_up_to_one_step(tiny_model: nn.Module, few_digits: DataSet) -> None:
    """Two equal passes are one pass with twice the gradient: with plain SGD, twice the learning rate."""
    first = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    results = []
    for passes, rate in ((2, 0.05), (1, 0.1)):
        tiny_model.load_state_dict(first)
        settings = dataclasses.replace(
            SHORT, steps=1, learning_rate=rate, warmup_steps=0, weight_decay=0.0, gradient_clip=1e9
        )
        history = train(tiny_model, few_digits.split("train"), settings, seed=0, passes=[Pass()] * passes)
        assert len(history.losses[0]) == passes
        results.append(tiny_model.state_dict()["conv2.weight"].clone())
    # One float32 sum of two gradients against one doubled rate.
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7)
    assert not torch.equal(results[0], first["conv2.weight"])


def test_a_parameter_without_gradient_is_left_alone(few_digits: DataSet) -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(256, 10)
            self.zero = nn.Linear(256, 10, bias=False)
            self.never = nn.Linear(256, 10, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x.flatten(1)) + 0 * self.zero(x.flatten(1))

    model = Unused()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(model, few_digits, weight_decay=0.1)
    after = model.state_dict()
    assert torch.equal(after["zero.weight"], before["zero.weight"])
    assert torch.equal(after["never.weight"], before["never.weight"])
    assert not torch.equal(after["used.weight"], before["used.weight"])


def test_gradient_values_are_clipped(few_digits: DataSet) -> None:
    linear = nn.Linear(256, 10)
    before = linear.weight.detach().clone()
    run(
        nn.Sequential(nn.Flatten(), linear),
        few_digits,
        steps=1,
        warmup_steps=0,
        weight_decay=0.0,
        learning_rate=1.0,
        gradient_clip=1e-3,
    )
    # A step of at most rate * clip, in float32.
    assert (linear.weight.detach() - before).abs().max().item() == pytest.approx(1e-3, rel=1e-3)


def test_weights_decay_and_biases_do_not(few_digits: DataSet) -> None:
    class Still(nn.Module):
        """Gradients that are tiny, not zero."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(256, 10)
            nn.init.ones_(self.linear.weight)
            nn.init.ones_(self.linear.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.flatten(1)) * 1e-9

    model = Still()
    run(model, few_digits, steps=1, warmup_steps=0, learning_rate=0.1, weight_decay=0.5)
    # 1 - rate * decay; what the gradients add is below float32's resolution here.
    assert model.linear.weight.detach().mean().item() == pytest.approx(0.95, rel=1e-5)
    assert model.linear.bias.detach().mean().item() == pytest.approx(1.0, rel=1e-6)


def test_a_loss_that_is_not_finite_names_the_step_and_the_remedy(tiny_model: nn.Module, few_digits: DataSet) -> None:
    with torch.no_grad():
        tiny_model.get_parameter("linear.weight")[0, 0] = math.nan
    with pytest.raises(ModelError, match=r"the loss became nan at step 1 of 6; lower the learning rate \(now 0.05"):
        run(tiny_model, few_digits)


def test_the_learning_rate_rises_then_falls_as_a_cosine() -> None:
    factors = [rate_factor(step, 14, 4) for step in range(14)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[9] == pytest.approx(0.5)
    assert all(a > b > 0 for a, b in pairwise(factors[4:]))
    assert rate_factor(0, 3, 0) == 1


def test_progress_is_reported_after_every_step(tiny_model: nn.Module, few_digits: DataSet) -> None:
    heard: list[tuple[int, int, str]] = []

    def report(done: int, total: int, note: str = "") -> None:
        heard.append((done, total, note))

    train(tiny_model, few_digits.split("train"), SHORT, seed=0, report=report)
    assert [done for done, _, _ in heard] == list(range(1, 7))
    assert "loss" in heard[0][2]
    assert "images/s" in heard[0][2]


def test_an_interrupt_passes_through_and_the_model_can_be_trained_again(
    tiny_model: nn.Module, few_digits: DataSet
) -> None:
    def interrupt(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_model, few_digits.split("train"), SHORT, seed=0, after_step=interrupt)
    assert len(run(tiny_model, few_digits).losses) == 6


def test_a_split_smaller_than_a_batch_still_trains(tiny_model: nn.Module, few_digits: DataSet) -> None:
    history = train(tiny_model, few_digits.split("train").subset(range(20)), SHORT, seed=0)
    assert history.images == 6 * 20


def test_predictions_are_the_evaluated_models(tiny_model: nn.Module, few_digits: DataSet) -> None:
    tiny_model.train()
    images, _ = next(few_digits.split("val").batches(7))
    logits = predictor(tiny_model)(images)
    assert not tiny_model.training
    with torch.no_grad():
        np.testing.assert_array_equal(logits, tiny_model(torch.from_numpy(images)).numpy())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, "training setting steps is 0; expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected above 0"),
        ({"warmup_steps": 6}, "warmup_steps is 6; expected 0 to 5"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; expected 0 or more and below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, float], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        dataclasses.replace(SHORT, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("images", [1, 1078, 20_000, 1_281_167])
def test_default_settings_hold_for_any_size_of_data(images: int) -> None:
    kinds = (float_settings(images), joint_settings(images), finetune_settings(images))
    assert [type(kind) for kind in kinds] == [FloatSettings, JointSettings, FinetuneSettings]
    assert kinds[1].steps <= max(150, images // 64)


def test_statistics_are_those_of_augmented_images_where_training_augments(few_digits: DataSet) -> None:
    split, norm = few_digits.split("train"), nn.BatchNorm2d(1)
    assert few_digits.augment is not None
    settle_batchnorm(norm, split, images=128, seed=5, augment=few_digits.augment)
    images_NCHW, _ = split.load(split.order((5, 0))[:128], augment=few_digits.augment, seed=(5, 0))
    assert norm.running_mean is not None
    assert norm.running_mean.item() == pytest.approx(float(images_NCHW.mean()), rel=1e-5)
    augmented = norm.running_mean.item()
    settle_batchnorm(norm, split, images=128, seed=5)
    assert norm.running_mean.item() != pytest.approx(augmented, rel=1e-4)
