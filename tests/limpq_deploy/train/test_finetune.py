import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet, Split
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.quant.fold_model import integer_model
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit, joint_model, model_of_policy
from limpq_deploy.train.accuracy import predictor, top1
from limpq_deploy.train.checkpoints import CheckpointInfo, load_module, save_module
from limpq_deploy.train.finetune import candidate_steps, finetune, tensor_quants
from limpq_deploy.train.finetuned import FineTuned, Top1
from limpq_deploy.train.float_training import train_float
from limpq_deploy.train.settings import FinetuneSettings, FloatSettings

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
    val, test = few_digits.split("val"), few_digits.split("test")
    reached = Top1(val=best, test=top1(model, test), val_images=len(val), test_images=len(test))
    assert record.top1 == reached
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


def test_the_float_model_teaches_without_labels(tiny: Tiny, few_digits: DataSet) -> None:
    """With the whole loss from the teacher, wrong labels change nothing; without a teacher there is a sentence."""
    split = few_digits.split("train")
    wrong = Split(
        labels=(split.labels + 1) % 10,
        read=lambda index: split._read(index),
        preprocess=split.preprocess,
    )
    mislabelled = DataSet(
        name="wrong",
        classes=few_digits.classes,
        splits={**few_digits.splits, "train": wrong},
        fingerprint="wrong",
        augment=few_digits.augment,
    )
    teacher = tiny[0].graph_module
    states = []
    for data in (few_digits, mislabelled):
        model = start(tiny, few_digits)
        settings = dataclasses.replace(SHORT, distill=1.0, temperature=2.0)
        finetune(model, POLICY, data, settings=settings, seed=0, float_top1=FLOAT_TOP1, teacher=teacher)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(SettingError, match="distill is 1 and there is no float model to learn from"):
        tuned(tiny, few_digits, distill=1.0)


def test_a_teacher_stays_as_it_was(tiny: Tiny, few_digits: DataSet) -> None:
    teacher = tiny[0].graph_module
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    model, settings = start(tiny, few_digits), dataclasses.replace(SHORT, distill=0.5, steps=3)
    finetune(model, POLICY, few_digits, settings=settings, seed=0, float_top1=FLOAT_TOP1, teacher=teacher)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_with_an_average_what_is_kept_is_the_average_and_its_own_statistics(tiny: Tiny, few_digits: DataSet) -> None:
    plain, averaged = tuned(tiny, few_digits), tuned(tiny, few_digits, ema=0.5)
    first = start(tiny, few_digits).quant_layer("conv2").weight
    moved = [(model.quant_layer("conv2").weight - first).norm().item() for _, model in (plain, averaged)]
    assert plain[0].chosen_step == averaged[0].chosen_step == 9
    assert 0 < moved[1] < moved[0]  # an average lags behind
    assert top1(averaged[1], few_digits.split("val")) == averaged[0].top1.val


def test_the_record_says_when_the_float_weights_may_have_seen_the_validation_images(
    tiny: Tiny, few_digits: DataSet
) -> None:
    held_out = dataclasses.replace(few_digits, val_held_out=True)
    settings = dataclasses.replace(SHORT, steps=3)
    seen = [
        finetune(
            start(tiny, data), POLICY, data, settings=settings, seed=0, float_top1=FLOAT_TOP1, foreign_weights=foreign
        ).val_may_be_seen
        for data, foreign in ((held_out, True), (held_out, False), (few_digits, True))
    ]
    assert seen == [True, False, False]


def test_candidates_are_evenly_spaced_and_end_with_the_last_step() -> None:
    assert candidate_steps(dataclasses.replace(SHORT, steps=10, candidates=4)) == {2, 5, 7, 10}
    assert candidate_steps(dataclasses.replace(SHORT, candidates=1)) == {9}
