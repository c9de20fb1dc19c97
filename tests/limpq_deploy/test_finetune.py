import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.checkpoints import CheckpointInfo, load_module, save_module
from limpq_deploy.export.placement import Placement
from limpq_deploy.export.targets import ONNXRUNTIME
from limpq_deploy.finetune import candidate_steps, finetune, tensor_quants
from limpq_deploy.finetuned import FineTuned, Top1
from limpq_deploy.float_training import train_float
from limpq_deploy.integers import integer_model
from limpq_deploy.layers import TracedModel, trace
from limpq_deploy.placement import place
from limpq_deploy.quantized import QuantizedModel, inherit, joint_model, model_of_policy
from limpq_deploy.settings import FinetuneSettings, FloatSettings
from limpq_deploy.training import predictor, top1

Tiny = tuple[TracedModel, Placement]
POLICY = {"conv2": (4, 3), "conv3": (3, 4), "shortcut": (6, 3)}
SHORT = FinetuneSettings(
    steps=9,
    batch_size=32,
    learning_rate=0.02,
    scale_learning_rate=0.005,
    warmup_steps=1,
    weight_decay=2.5e-5,
    label_smoothing=0.1,
    candidates=3,
    batchnorm_images=128,
)
FLOAT_TOP1 = Top1(val=90.0, test=80.0)


def start(tiny: Tiny, data: DataSet) -> QuantizedModel:
    """A policy model that inherits from an untrained joint one."""
    joint = joint_model(*tiny, (2, 3, 4, 6))
    images, _ = next(data.split("train").batches(64))
    joint.initialise_scales(torch.from_numpy(images))
    model = model_of_policy(*tiny, POLICY)
    inherit(model, joint)
    return model


def tuned(tiny: Tiny, data: DataSet, **changes: float) -> tuple[FineTuned, QuantizedModel]:
    model = start(tiny, data)
    settings = dataclasses.replace(SHORT, **changes)  # type: ignore[arg-type]
    return finetune(model, POLICY, data, settings=settings, seed=0, float_top1=FLOAT_TOP1), model


def test_the_best_checkpoint_on_val_is_kept_and_the_later_one_among_equals(tiny: Tiny, few_digits: DataSet) -> None:
    record, model = tuned(tiny, few_digits)
    assert [candidate.step for candidate in record.candidates] == [0, 3, 6, 9]
    best = max(candidate.val for candidate in record.candidates)
    assert record.chosen_step == max(c.step for c in record.candidates if c.val == best)
    assert record.top1 == Top1(val=best, test=top1(model, few_digits.split("test")))
    assert top1(model, few_digits.split("val")) == best


def test_a_harmful_fine_tuning_is_not_kept(tiny_model: nn.Module, few_digits: DataSet) -> None:
    """From a trained model, a learning rate that destroys it: the model as it came wins."""
    settings = FloatSettings(
        steps=100,
        batch_size=32,
        learning_rate=0.2,
        scale_learning_rate=0.01,
        warmup_steps=5,
        weight_decay=1e-4,
        label_smoothing=0.0,
        batchnorm_images=256,
    )
    history = train_float(tiny_model, few_digits, settings=settings, seed=0).history
    assert history.losses[-1][0] < history.losses[0][0]
    traced = trace(tiny_model, (1, 16, 16))
    tiny = traced, place(traced, ONNXRUNTIME, model="tiny")
    record, model = tuned(tiny, few_digits, learning_rate=1e4, scale_learning_rate=1.0, gradient_clip=1e6, steps=3)
    assert record.chosen_step == 0
    assert top1(model, few_digits.split("val")) == record.candidates[0].val


def test_fine_tuning_is_repeatable(tiny: Tiny, few_digits: DataSet) -> None:
    first, second = (dataclasses.replace(tuned(tiny, few_digits)[0], seconds=0) for _ in range(2))
    assert first == second


def test_saving_and_loading_gives_bit_equal_logits(tiny: Tiny, few_digits: DataSet, tmp_path: Path) -> None:
    record, model = tuned(tiny, few_digits)
    info = CheckpointInfo(kind="finetuned", model="tiny", target="onnxruntime", bits=POLICY)
    save_module(tmp_path / "finetuned.safetensors", model, info)
    write_record(record, tmp_path / "finetuned.json")

    again = load_record(FineTuned, tmp_path / "finetuned.json")
    assert again == record
    loaded = model_of_policy(*tiny, again.pairs())
    load_module(tmp_path / "finetuned.safetensors", loaded, info)

    images, _ = next(few_digits.split("test").batches(60))
    expected = predictor(model)(images)
    assert expected.std() > 0
    assert (predictor(loaded)(images) == expected).all()


def test_the_record_keeps_grid_and_scale_of_every_tensor_as_exported(tiny: Tiny, few_digits: DataSet) -> None:
    record, model = tuned(tiny, few_digits, steps=3)
    layers, acts = integer_model(model, POLICY)
    assert {quant.tensor: quant.params for quant in record.activations} == acts
    assert [quant.tensor for quant in record.weights] == list(layers)
    assert [quant.params.grid.bits for quant in record.weights] == [8, 4, 3, 6, 8]
    assert tensor_quants(model, POLICY) == (record.weights, record.activations)


def test_the_record_says_what_was_done(tiny: Tiny, few_digits: DataSet) -> None:
    record, _ = tuned(tiny, few_digits, steps=3)
    assert (record.model, record.target, record.seed, record.float_top1) == ("tiny", "onnxruntime", 0, FLOAT_TOP1)
    assert record.epochs == pytest.approx(3 * 32 / 256)
    assert record.pairs() == POLICY


def test_candidates_are_evenly_spaced_and_end_with_the_last_step() -> None:
    assert candidate_steps(dataclasses.replace(SHORT, steps=10, candidates=4)) == {2, 5, 7, 10}
    assert candidate_steps(dataclasses.replace(SHORT, candidates=1)) == {9}
