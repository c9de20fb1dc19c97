"""Trainings that tests run in processes of their own: python scenario.py NAME FOLDER, under torchrun or not."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from limpq_deploy.calibration.datasets import Augment, DataSet, Split, open_dataset
from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.model.zoo import create_model
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit, joint_model, model_of_policy
from limpq_deploy.train.accuracy import settle_batchnorm_together, top1_together
from limpq_deploy.train.checkpoints import CheckpointInfo, load_module
from limpq_deploy.train.execution import Checkpoint, Execution
from limpq_deploy.train.finetune import finetune
from limpq_deploy.train.finetuned import Top1
from limpq_deploy.train.float_training import train_float
from limpq_deploy.train.joint import train_indicators
from limpq_deploy.train.loop import train
from limpq_deploy.train.losses import Pass
from limpq_deploy.train.processes import add_up, count, joined, leads, rank
from limpq_deploy.train.settings import FinetuneSettings, JointSettings, TrainSettings, float_settings
from limpq_deploy.train.synced import synced_batchnorm

FLOAT = CheckpointInfo(kind="float", model="resnet8")
BITS = (2, 4)
POLICY_BITS = (4, 2)


def few_digits() -> DataSet:
    """256 training, 60 validation and 60 test images of the digits."""
    digits = open_dataset("digits")
    sizes = {"train": 256, "val": 60, "test": 60}
    return DataSet(
        name="few digits",
        classes=digits.classes,
        splits={name: digits.split(name).subset(range(size)) for name, size in sizes.items()},
        fingerprint=digits.fingerprint,
        augment=Augment(pad=1, flip=False),
    )


def float_model(data: DataSet, steps: int = 60) -> nn.Module:
    """A ResNet-8 that knows a little."""
    torch.manual_seed(0)
    model, _ = create_model("resnet8", 10)
    settings = dataclasses.replace(float_settings(len(data.split("train"))), steps=steps, warmup_steps=5)
    train_float(model, data, settings=settings, seed=0)
    return model


def traced_model(folder: Path) -> TracedModel:
    """The float model that the test has put beside the folder."""
    model, _ = create_model("resnet8", 10)
    load_module(folder.parent / "float.safetensors", model, FLOAT)
    return trace(model.eval(), (1, 16, 16))


def gradients(folder: Path) -> dict[str, Any]:
    """Gradients of every scale and weight after one joint step in double precision, BatchNorm statistics frozen,
    nothing clipped."""
    with _double_precision():
        return _gradients(folder)


def _gradients(folder: Path) -> dict[str, Any]:
    traced, dataset = in_double(folder)
    model = joint_model(traced, place(traced, ONNXRUNTIME, model="resnet8"), BITS)
    split = dataset.split("train")
    model.initialise_scales(torch.from_numpy(next(split.batches(64))[0]))
    settings = TrainSettings(
        steps=1,
        batch_size=63,  # shares of 32 and 31 images
        learning_rate=1e-9,
        scale_learning_rate=1e-9,
        warmup_steps=0,
        weight_decay=0.0,
        label_smoothing=0.1,
        gradient_clip=1e9,
        accumulate=3,
        freeze_batchnorm=True,
    )
    passes = [Pass(name=str(bits), choose=partial(_uniform, model, bits)) for bits in BITS]
    history = train(model, split, settings, seed=0, augment=dataset.augment, passes=passes)
    found = {name: p.grad.flatten().tolist() for name, p in model.named_parameters() if p.grad is not None}
    return {"gradients": found, "losses": history.losses}


def indicators(folder: Path) -> dict[str, Any]:
    """Indicators after 50 steps, BatchNorm statistics live, as the search reads them."""
    return to_dict(_indicators(folder, steps=50, freeze_batchnorm=False))


def double_indicators(folder: Path) -> dict[str, Any]:
    """Indicators after 6 steps in double precision, BatchNorm statistics live and frozen."""
    with _double_precision():
        return {
            kind: {layer.name: [*layer.weight, *layer.act] for layer in found.layers}
            for kind, found in (
                (kind, _indicators(folder, steps=6, freeze_batchnorm=kind == "frozen")) for kind in ("live", "frozen")
            )
        }


def _indicators(folder: Path, *, steps: int, freeze_batchnorm: bool) -> Indicators:
    double = torch.get_default_dtype() == torch.float64
    traced, dataset = in_double(folder) if double else (traced_model(folder), few_digits())
    settings = JointSettings(
        steps=steps,
        batch_size=32,
        learning_rate=0.01,
        scale_learning_rate=0.02,
        warmup_steps=2,
        weight_decay=2.5e-5,
        label_smoothing=0.1,
        freeze_batchnorm=freeze_batchnorm,
    )
    found, _ = train_indicators(
        traced, place(traced, ONNXRUNTIME, model="resnet8"), dataset, bits=BITS, settings=settings, seed=0
    )
    return found


def in_double(folder: Path) -> tuple[TracedModel, DataSet]:
    """The float model and the training images in float64."""
    traced, dataset = traced_model(folder), few_digits()
    traced.graph_module.double()
    return traced, dataclasses.replace(dataset, splits={"train": InDouble.of(dataset.split("train"))})


class InDouble(Split):
    """A split whose images are float64."""

    @classmethod
    def of(cls, split: Split) -> "InDouble":
        return cls(labels=split.labels, read=split._read, preprocess=split.preprocess)

    def load(self, *arguments: Any, **options: Any) -> Any:
        images_NCHW, labels = super().load(*arguments, **options)
        return images_NCHW.astype(np.float64), labels


@contextlib.contextmanager
def _double_precision() -> Iterator[None]:
    """Within it new tensors are float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def batchnorm(folder: Path) -> dict[str, Any]:
    """One BatchNorm on ten images, forward and back: gradients, statistics, and this process's share of the outputs."""
    generator = torch.Generator().manual_seed(0)
    images = 5 + 3 * torch.randn(10, 3, 4, 4, generator=generator)
    weights = torch.randn(10, 3, 4, 4, generator=generator)
    part = slice(rank(), None, count())
    norm, mine = nn.BatchNorm2d(3), images[part].clone().requires_grad_()
    with synced_batchnorm():
        out = norm(mine)
    (out * weights[part]).sum().backward()
    assert mine.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    add_up([norm.weight.grad, norm.bias.grad])
    tensors = {
        "out": out.detach()[:5],
        "grad": mine.grad[:5],
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
    }
    return {name: tensor.tolist() for name, tensor in tensors.items() if tensor is not None}


def tuned(folder: Path) -> dict[str, Any]:
    """A fine-tuning of fresh weights with all that has a state: candidates, an average, a teacher."""
    torch.manual_seed(0)
    fresh, _ = create_model("resnet8", 10)
    traced, dataset = trace(fresh.eval(), (1, 16, 16)), few_digits()
    placement = place(traced, ONNXRUNTIME, model="resnet8")
    joint = joint_model(traced, placement, BITS)
    joint.initialise_scales(torch.from_numpy(next(dataset.split("train").batches(64))[0]))
    policy = {layer.name: POLICY_BITS for layer in placement.searched}
    model = model_of_policy(traced, placement, policy)
    inherit(model, joint)
    settings = FinetuneSettings(
        steps=30,
        batch_size=32,
        learning_rate=0.02,
        scale_learning_rate=0.005,
        warmup_steps=2,
        weight_decay=2.5e-5,
        label_smoothing=0.1,
        candidates=5,
        batchnorm_images=128,
        distill=0.5,
        temperature=2.0,
        ema=0.9,
    )
    record = finetune(
        model,
        policy,
        dataset,
        settings=settings,
        seed=0,
        float_top1=Top1(val=0.0, test=0.0),
        teacher=traced.graph_module,
        execution=Execution(
            checkpoint=Checkpoint(path=folder / "state.safetensors", identity={"model": "resnet8"}, every_steps=4),
            log=folder / "log.jsonl",
        ),
    )
    tensors = {name: tensor.flatten().tolist() for name, tensor in model.state_dict().items()}
    tried = [[candidate.step, candidate.val] for candidate in record.candidates]
    return {"tensors": tensors, "tried": tried, "top1": [record.top1.val, record.top1.test]}


def accuracy(folder: Path) -> dict[str, Any]:
    """Statistics re-estimated and accuracy measured with shares of the images."""
    traced, dataset = traced_model(folder), few_digits()
    model = traced.graph_module
    seen = settle_batchnorm_together(model, dataset.split("train"), images=256, seed=0)
    found = top1_together(model, dataset.split("val").subset(range(59)))
    return {"seen": seen, "top1": found, "var": model.get_buffer("bn1.running_var").tolist()}


def _uniform(model: QuantizedModel, bits: int) -> None:
    model.set_bits({layer.name: (bits, bits) for layer in model.placement.searched})


def main(names: str, folder: Path) -> None:
    """Run scenarios, comma-separated, and write what they found to ``NAME.json``."""
    torch.set_num_threads(1)
    with joined():
        for name in names.split(","):
            found = globals()[name](folder)
            if leads():
                (folder / f"{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
