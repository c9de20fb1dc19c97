"""The float MobileNetV2 of `mobilenet_v2.py`, its data, and what is made of them."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet, Preprocess, open_dataset
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.ranges import three_sigma
from limpq_deploy.export.lint.check import lint
from limpq_deploy.export.qdq.build import build_qdq, strip_markers
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.export.reference.executor import IntegerReference
from limpq_deploy.export.reference.parity import compare_runtime
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.importance.all_measures import measured
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.model.zoo import create_model
from limpq_deploy.model.zoo.weights import load_weights
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.quant.fold_model import integer_model
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy
from limpq_deploy.quant.torch_parity import Fed, compare_trained
from limpq_deploy.train.evaluate import Evaluation, evaluate
from limpq_deploy.train.joint import train_indicators
from limpq_deploy.train.loop import train
from limpq_deploy.train.losses import Pass, Teacher, cross_entropy, distilled
from limpq_deploy.train.settings import JointSettings, TrainSettings

NAME = "torchvision/mobilenet_v2"
BITS = (4, 5, 6, 7, 8)
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is done. ``images``: of each split that are classified; None: all. ``parity``: images compared code by
    code; ``size``: image side of the joint training, in pixels; ``measure``: images that importance is measured on."""

    joint_steps: int
    joint_batch: int
    size: int
    measure: int
    steps: int
    batch: int
    images: int | None
    parity: int


class Bench:
    """The float model, its data, and what is made of them."""

    def __init__(self, extent: Extent, images: Path, classes: Path, weights: Path, out: Path) -> None:
        self.extent, self.out, self.weights = extent, out, weights
        self.images, self.classes = images, classes
        self.data = self.dataset(224, resize=227)
        self.traced = self.float_model(224)
        self.placement = place(self.traced, ONNXRUNTIME, model=NAME)
        self.template = float_template(self.traced, self.placement)
        self.float_file = out / "float.onnx"
        onnx.save(strip_markers(self.template), self.float_file)
        first, _ = next(iter(self.data.split("train").batches(64, shuffle=SEED)))
        self.first_images = torch.from_numpy(first)

    def dataset(self, size: int, resize: int | None) -> DataSet:
        normal = (0.5, 0.5, 0.5)
        preprocess = Preprocess(height=size, width=size, resize=resize, mean=normal, std=normal)
        return open_dataset(f"imagefolder:{self.images}", preprocess, self.classes)

    def float_model(self, size: int, *, equalised: bool = True) -> TracedModel:
        model, _ = create_model(NAME)
        load_weights(model, self.weights)
        traced = trace(model.eval(), (3, size, size))
        if equalised:
            equalise_channels(traced)
        return traced

    def indicators(self) -> Indicators:
        """Learned and measured on smaller images; MACs are those at 224 px."""
        small = self.float_model(self.extent.size)
        settings = JointSettings(
            steps=self.extent.joint_steps,
            batch_size=self.extent.joint_batch,
            learning_rate=0.01,
            scale_learning_rate=0.02,
            warmup_steps=self.extent.joint_steps // 10,
            weight_decay=0.0,
            label_smoothing=0.1,
            first_images=32,
            freeze_weights=True,
            inplace_distill=True,
        )
        placement = place(small, ONNXRUNTIME, model=NAME)
        data = self.dataset(self.extent.size, resize=self.extent.size)
        found, joint = train_indicators(small, placement, data, bits=BITS, settings=settings, seed=SEED)
        found = measured(found, joint, data.split("train"), images=self.extent.measure, seed=SEED)
        macs = {layer.name: layer.macs for layer in self.placement.layers}
        return replace(
            found,
            layers=tuple(replace(layer, macs=macs[layer.name]) for layer in found.layers),
            pinned=tuple(replace(layer, macs=macs[layer.name]) for layer in found.pinned),
            moments=None,
        )

    def contrast(self, indicators: Indicators) -> dict[str, Any]:
        """Scales of depthwise layers against those of pointwise ones, medians by bit-width."""
        plain = self.float_model(224, equalised=False).graph_module
        kinds: dict[str, list[LayerIndicators]] = {"depthwise": [], "pointwise": []}
        for layer in indicators.layers:
            module = plain.get_submodule(layer.name)
            kinds["depthwise" if isinstance(module, nn.Conv2d) and module.groups > 1 else "pointwise"].append(layer)
        told: dict[str, Any] = {"layers": {kind: len(layers) for kind, layers in kinds.items()}}
        for key in ("steps", "seconds", "median_weight_movement", "median_act_movement", "warnings"):
            told[key] = indicators.source[key]
        for row, bits in enumerate(indicators.bits):
            medians = {
                kind: {
                    "weight": statistics.median(layer.weight[row] for layer in layers),
                    "act": statistics.median(layer.act[row] for layer in layers),
                    "first_weight_not_equalised": statistics.median(
                        three_sigma(_weight(plain, layer), QuantGrid(bits=bits, signed=True)) for layer in layers
                    ),
                }
                for kind, layers in kinds.items()
            }
            usual = medians["pointwise"]["weight"]
            told[f"{bits} bits"] = {
                **medians,
                "ratio": {
                    name: medians["depthwise"][name] / medians["pointwise"][name] for name in medians["pointwise"]
                },
                "depthwise_above_the_median_pointwise": sum(layer.weight[row] > usual for layer in kinds["depthwise"]),
            }
        return told

    def trained(self, pairs: Mapping[str, BitPair], steps: int) -> QuantizedModel:
        """First scales from 64 training images, then ``steps`` of distillation."""
        model = model_of_policy(self.traced, self.placement, pairs)
        model.initialise_scales(self.first_images)
        model.set_bits(pairs)
        if steps:
            settings = TrainSettings(
                steps=steps,
                batch_size=self.extent.batch,
                learning_rate=0.001,
                scale_learning_rate=0.002,
                warmup_steps=steps // 10,
                weight_decay=0.0,
                label_smoothing=0.0,
                freeze_batchnorm=True,
                augment=False,
            )
            teacher = Teacher(self.traced.graph_module.eval())
            loss = distilled(teacher, cross_entropy(0.0), weight=1.0, temperature=1.0)
            train(model, self.data.split("train"), settings, seed=SEED, passes=(Pass(loss=loss),))
        return model.eval()

    def export(self, name: str, model: QuantizedModel, pairs: Mapping[str, BitPair]) -> Path:
        layers, acts = integer_model(model, dict(pairs))
        path = self.out / f"{name.replace(' ', '-')}.qdq.onnx"
        onnx.save(build_qdq(self.template, self.placement, layers, acts, {}), path)
        report = lint(path, ONNXRUNTIME)
        assert report.passed, report.findings
        assert not report.float_nodes, report.float_nodes
        return path

    def accuracies(self, path: Path) -> dict[str, Any]:
        session = runtime_named("onnxruntime").load(path)
        return {f"top1_{split}": self._evaluate(session.run, split).accuracy.top1 for split in ("test", "val")}

    def _evaluate(self, run: Any, split: str) -> Evaluation:
        images = self.data.split(split)
        if self.extent.images is not None:
            images = images.subset(range(0, len(images), max(len(images) // self.extent.images, 1)))
        return evaluate(run, images.batches(25))

    def parity(self, path: Path, model: QuantizedModel, pairs: Mapping[str, BitPair]) -> dict[str, Any]:
        runtime, reference = runtime_named("onnxruntime"), IntegerReference(path)
        session = runtime.load(path)
        chosen = self.data.split("test").subset(range(self.extent.parity))
        batches = [images for images, _ in chosen.batches(8)]
        report = compare_runtime(path, batches, runtime)
        layers, acts = integer_model(model, dict(pairs))
        fed = []
        for images in batches:
            _, codes = reference.run(images, keep=reference.code_tensors)
            fed.append(Fed(images_NCHW=images, codes=codes, logits=session.run(images)))
        trained = compare_trained(self.traced, model, layers, acts, fed)
        exported = self._evaluate(session.run, "test")
        integers = self._evaluate(lambda images: reference.run(images)[0], "test")
        torch_model = self._evaluate(lambda images: _predict(model, images), "test")
        differ = np.flatnonzero(exported.predictions != torch_model.predictions)
        return {
            "parity": {
                "images": report.images,
                "codes": report.elements,
                "mismatches_reference": report.mismatches,
                "logits_bit_equal": report.logits_equal,
                "layer_codes": sum(entry.elements for entry in trained.faithful),
                "layer_mismatches": sum(entry.mismatches for entry in trained.faithful),
                "max_lsb": max(entry.max_lsb for entry in trained.faithful),
                "largest_tie_distance": max(entry.max_tie_distance or 0.0 for entry in trained.faithful),
            },
            "reference": {
                "images": integers.accuracy.images,
                "top1_exported": exported.accuracy.top1,
                "top1_reference": integers.accuracy.top1,
                "other_class_than_exported": int((exported.predictions != integers.predictions).sum()),
                "top1_trained": torch_model.accuracy.top1,
                "images_with_another_class_in_torch": differ.tolist(),
            },
        }


def _predict(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(torch.from_numpy(images)).numpy()
    return logits


def _weight(module: nn.Module, layer: LayerIndicators) -> torch.Tensor:
    weight = module.get_submodule(layer.name).weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach()
