"""What a user says about training, and the settings that come of it."""

import dataclasses
from typing import Any

import pytest

from limpq_deploy.calibration.errors import RecordError, SettingError
from limpq_deploy.pipeline.config import Config, make_config
from limpq_deploy.train.settings import Training, finetune_settings, float_settings, joint_settings


def test_epochs_are_passes_over_the_images_whatever_the_batch() -> None:
    assert finetune_settings(1000, Training(finetune_epochs=3)).steps == round(3 * 1000 / 64)
    assert finetune_settings(1000, Training(finetune_epochs=3, batch_size=250)).steps == 12
    assert float_settings(1000, Training(float_epochs=0.001)).steps == 1


def test_a_larger_batch_has_fewer_default_steps_for_the_same_images() -> None:
    small, large = (joint_settings(1_000_000, Training(batch_size=size)) for size in (64, 256))
    assert small.steps == 1_000_000 // 64
    assert large.steps == 1_000_000 // 256


def test_half_of_the_data_makes_half_as_long_an_epoch_of_joint_training_alone() -> None:
    half = Training(data_fraction=0.5, joint_epochs=2, finetune_epochs=2)
    assert joint_settings(6400, half).steps == 100
    assert joint_settings(6400, half).data_fraction == 0.5
    assert finetune_settings(6400, half).steps == 200
    assert finetune_settings(6400, half).data_fraction == 1


def test_what_is_said_of_fine_tuning_stays_there_and_the_rest_goes_everywhere() -> None:
    training = Training(
        distill=0.5, temperature=4.0, ema=0.99, label_smoothing=0.0, precision="bf16", accumulate=2, warmup=0.2
    )
    tuned, joint = finetune_settings(6400, training), joint_settings(6400, training)
    assert (tuned.distill, tuned.temperature, tuned.ema) == (0.5, 4.0, 0.99)
    for settings in (tuned, joint, float_settings(6400, training)):
        assert (settings.label_smoothing, settings.precision, settings.accumulate) == (0.0, "bf16", 2)
        assert settings.warmup_steps == int(0.2 * settings.steps)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"joint_steps": 5, "joint_epochs": 1.0}, "joint_epochs and joint_steps both say how long to train"),
        ({"ema": 1.0}, "ema is 1.0; expected less than 1"),
        ({"distill": 1.5}, "distill is 1.5; expected at most 1"),
        ({"temperature": 2.0, "distill": 0.0}, "temperature has no effect without distill"),
        ({"workers": -1}, "workers is -1; expected 0 or above"),
        ({"batch_size": 0}, "batch_size is 0; expected a number above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Training(**change)


def test_options_of_the_command_line_go_into_the_section_and_win(tmp_path: Any) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[training]\nema = 0.9\ndistill = 0.5\nprecision = "bf16"\ntensorboard = true\n')
    config = make_config({"ema": 0.99, "workers": 0, "seed": 3}, file)
    assert config.training == Training(ema=0.99, distill=0.5, precision="bf16", tensorboard=True, workers=0)
    assert config.seed == 3
    assert make_config({"distill": 1.0, "training": config.training}).training.ema == 0.99


def test_errors_name_the_option_or_the_key(tmp_path: Any) -> None:
    with pytest.raises(SettingError, match=r"^--ema is 2.0; expected less than 1$"):
        make_config({"ema": 2.0})
    file = tmp_path / "settings.toml"
    file.write_text('[training]\nprecision = "fp8"\n')
    with pytest.raises(RecordError, match=r"training.precision is 'fp8'; expected 'fp32', 'bf16' or 'fp16'"):
        make_config({}, file)


def test_the_command_line_tells_options_as_options_and_the_rest_as_a_comment() -> None:
    config = Config(training=Training(distill=0.5, log=False, float_steps=7))
    assert config.command_line() == "limpq-deploy build --distill 0.5  # [training] float_steps = 7, log = false"


SAMPLES: dict[str, Any] = {
    "batch_size": 32,
    "precision": "bf16",
    "channels_last": False,
    "accumulate": 2,
    "freeze_batchnorm": True,
    "freeze_weights": True,
    "inplace_distill": True,
}
KINDS = (float_settings, joint_settings, finetune_settings)
RUNNING = {"workers", "log", "tensorboard", "checkpoint_minutes", "checkpoint_steps"}
"""Keys that change how a training runs, not what comes of it."""


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Training) if field.name not in RUNNING])
def test_a_key_of_the_section_has_an_effect(name: str) -> None:
    said = Training(**{name: SAMPLES.get(name, 7 if name.endswith("_steps") else 0.3)})
    assert any(settings(6400, said) != settings(6400) for settings in KINDS)


def test_fine_tuning_starts_from_the_float_weights_unless_told_otherwise() -> None:
    assert finetune_settings(1000, Training()).start == "float"
    assert finetune_settings(1000, Training(finetune_start="joint")).start == "joint"


def test_in_place_distillation_takes_the_float_models_place_in_joint_training_only() -> None:
    both = Training(inplace_distill=True, distill=0.5)
    assert (joint_settings(1000, both).distill, joint_settings(1000, both).inplace_distill) == (0.0, True)
    assert finetune_settings(1000, both).distill == 0.5
    assert joint_settings(1000, Training(distill=0.5)).distill == 0.5
