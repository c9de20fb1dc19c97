"""What each way to a quantized network costs, in processor time within one process, and what the cheapest reach."""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from limpq_deploy.importance.all_measures import IMAGES as MEASURED_IMAGES
from limpq_deploy.importance.all_measures import measured
from limpq_deploy.importance.preview import preview
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy
from limpq_deploy.train.finetuned import Top1
from limpq_deploy.train.joint import train_indicators
from limpq_deploy.train.loop import train
from limpq_deploy.train.losses import Pass, Teacher, cross_entropy, distilled
from limpq_deploy.train.ptq import IMAGES, calibrate
from limpq_deploy.train.settings import BATCH_SIZE, finetune_settings, float_settings, joint_settings
from limpq_deploy.train.untuned import take_joint

JOINT_STEPS, FINETUNE_STEPS, POLICIES = 300, 300, 5
"""Of the tournament: of each joint network, of each fine-tuned policy, and policies of a budget in a build."""
SOME = 64
"""Images that measures are timed on."""


def prices(subject: Subject, traced: TracedModel, joint: QuantizedModel, file: Path, *, seed: int, smoke: bool) -> None:
    """Seconds of one core of every part, and the accuracy of uniform policies that are calibrated alone."""
    if file.exists():
        return
    data, bits = subject.joint_data, joint.quant_layer(subject.placement.searched[0].name).bits
    split, held = data.split("train"), data.split("val")
    few, more = (1, 2) if smoke else (2, 8)

    def step_of(run: Callable[[int], Any]) -> float:
        """Seconds of a step: the longer run less the shorter one."""
        run(1)
        return (_seconds(lambda: run(more)) - _seconds(lambda: run(few))) / (more - few)

    def float_steps(steps: int) -> Any:
        settings = replace(float_settings(len(split)), steps=steps, warmup_steps=0)
        return train(copy.deepcopy(traced.graph_module), split, settings, seed=seed, augment=data.augment)

    def joint_steps(steps: int) -> Any:
        settings = replace(joint_settings(len(split)), steps=steps, warmup_steps=0)
        return train_indicators(traced, subject.placement, data, bits=bits, settings=settings, seed=seed)

    def tuned_steps(steps: int) -> Any:
        model = model_of_policy(traced, subject.placement, uniform(4))
        model.initialise_scales(subject.first_images())
        model.set_bits(uniform(4))
        settings = replace(finetune_settings(len(split)), steps=steps, warmup_steps=0, candidates=1)
        loss = distilled(Teacher(traced.graph_module.eval()), cross_entropy(0.0), weight=1.0, temperature=1.0)
        return train(model, split, settings, seed=seed, augment=data.augment, passes=(Pass(loss=loss),))

    def uniform(width: int) -> dict[str, tuple[int, int]]:
        return {layer.name: (width, width) for layer in subject.placement.searched}

    found: dict[str, Any] = {"float_epoch": step_of(float_steps) * len(split) / BATCH_SIZE}
    found["joint_training"] = step_of(joint_steps) * JOINT_STEPS
    step = step_of(tuned_steps)
    found["finetuning"], found["finetuning_epoch"] = step * FINETUNE_STEPS, step * len(split) / BATCH_SIZE
    learned = train_indicators(
        *(traced, subject.placement, data),
        bits=bits,
        settings=replace(joint_settings(len(split)), steps=1, warmup_steps=0),
        seed=seed,
    )[0]
    some = held.subset(np.arange(min(SOME, len(held))))
    found["measures"] = _seconds(lambda: measured(learned, joint, some, seed=seed)) * MEASURED_IMAGES / len(some)
    one = _seconds(lambda: preview(joint, uniform(bits[-1]), train=split, held=held, seed=seed))
    found["previews"] = one * POLICIES
    float_top1 = Top1(val=float("nan"), test=float("nan"))
    common: dict[str, Any] = {"seed": seed, "float_top1": float_top1, "float_model": traced.graph_module}
    found["calibrated"], began = {}, time.process_time()
    for width in (8,) if smoke else (8, 4, 3):
        policy = uniform(width)
        model = model_of_policy(traced, subject.placement, policy)
        made = calibrate(model, policy, subject.dataset, ranges="mse", images=IMAGES, **common)
        found["calibrated"][f"w{width}a{width}"] = {"val": made.top1.val, "test": made.top1.test}
    found["calibration"] = (time.process_time() - began) / len(found["calibrated"])
    policy = uniform(bits[-1] if smoke else 4)
    model = model_of_policy(traced, subject.placement, policy)
    began = time.process_time()
    made = take_joint(model, policy, subject.dataset, joint=joint, **common)
    found["taking_joint"] = time.process_time() - began
    found["taken_joint"] = {"bits": f"w{policy[next(iter(policy))][0]}", "val": made.top1.val, "test": made.top1.test}
    file.write_text(json.dumps(found, indent=1) + "\n")


def _seconds(run: Callable[[], Any]) -> float:
    """Processor time: a machine under load makes a run longer, and this hardly."""
    began = time.process_time()
    run()
    return time.process_time() - began
