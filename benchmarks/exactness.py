"""Exactness: integer reference, optimised ONNX Runtime, trained torch model and TensorRT's file, code by code.

Needs the shared data (LIMPQ_SHARED, or ../shared beside the checkout). ResNet-18 and ResNet-50 have torchvision's
architecture, fresh weights, gammas of both signs, and 2 to 8 bits drawn for each layer; ResNet-20 is fine-tuned for
``steps`` steps at w4a4 (CIFAR-10); MobileNetV2 has its weights and w8a8 without training. Scales come from real images,
once free and once powers of two (``pow2``).

Keys of ``models``: ``mismatches_reference``: codes and logits that differ between the integer reference and the
optimised graph, end to end; ``layer_mismatches`` and ``max_lsb``: trained model, layer by layer, fed the same codes;
``elements``; ``top1_agreement``, ``disagreements`` ([image, trained class, class on the runtime]); ``end_to_end_*``:
trained model, folded and rounded as its accuracy is recorded, from the images on; ``float_conv_add_gemm``.
``pow2``: the same with powers of two; ``pow2_tensorrt``: trained model against TensorRT's file executed as written.
``pow2_mismatches``: every code that differs in any of these comparisons, and 1 where logits do. ``accuracy``
(ResNet-20, MobileNetV2): top-1 of exported file and trained model.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exactness_bench import Case, accuracies, case_of, compare_as_written, compare_integers, settled
from shared_data import cifar10, data_folder, imagenet

from limpq_deploy.calibration.datasets import DataSet, Preprocess, Split, open_dataset
from limpq_deploy.calibration.numbers.params import Scales
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.layers import trace
from limpq_deploy.model.zoo import create_model
from limpq_deploy.model.zoo.weights import load_weights
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.train.finetune import finetune
from limpq_deploy.train.finetuned import Top1
from limpq_deploy.train.settings import FinetuneSettings

SEED = 0
BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is done: images compared code by code on ResNet-18, ResNet-50, ResNet-20, MobileNetV2 and in TensorRT's
    form; steps of fine-tuning; images classified (None: all)."""

    resnet18: int
    resnet50: int
    resnet20: int
    mobilenet: int
    tensorrt: int
    steps: int
    classified: int | None


FULL = Extent(resnet18=64, resnet50=64, resnet20=5000, mobilenet=64, tensorrt=16, steps=156, classified=None)
QUICK = Extent(resnet18=4, resnet50=2, resnet20=250, mobilenet=2, tensorrt=2, steps=4, classified=100)

SMOKE = Extent(resnet18=1, resnet50=1, resnet20=10, mobilenet=1, tensorrt=1, steps=1, classified=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and steps: that it runs, and that it is exact")
    parser.add_argument("--smoke", action="store_true", help="ResNet-20 alone, a few images: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--models", nargs="+", choices=list(MODELS))
    parser.add_argument("--cifar", type=Path, help="unpacked CIFAR-10 images; else they are unpacked first")
    parser.add_argument("--imagenet", type=Path, help="unpacked ImageNet sample; else it is unpacked first")
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        extent = SMOKE if options.smoke else QUICK if options.quick else FULL
        bench = Bench(extent, Path(work), options.cifar, options.imagenet)
        models = {}
        for name in options.models or (["resnet20"] if options.smoke else MODELS):
            models[name] = MODELS[name](bench)
            print(f"{time.perf_counter() - started:6.0f} s  {name} {models[name]}", file=sys.stderr, flush=True)
    environment = read_environment()
    result = {
        "models": models,
        "quick": options.quick,
        "smoke": options.smoke,
        "seconds": round(time.perf_counter() - started),
        "cpu": environment.cpu,
        "python": environment.python,
        "libraries": environment.libraries,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


class Bench:
    """Data and models."""

    def __init__(self, extent: Extent, work: Path, cifar: Path | None, imagenet: Path | None) -> None:
        self.extent, self.work = extent, work
        self._cifar, self._imagenet = cifar, imagenet

    @property
    def shared(self) -> Path:
        return data_folder()

    def cifar(self) -> DataSet:
        folder = self._cifar or cifar10(self.work / "cifar", smoke=self.extent is SMOKE)[0]
        return open_dataset(f"imagefolder:{folder}", create_model("resnet20")[1].preprocess)

    def imagenet(self) -> DataSet:
        folder = self._imagenet or imagenet(self.work / "imagenet", smoke=self.extent is SMOKE)[0]
        normal = (0.5, 0.5, 0.5)
        preprocess = Preprocess(height=224, width=224, resize=227, mean=normal, std=normal)
        return open_dataset(f"imagefolder:{folder}", preprocess, self.shared / "imagenet" / "wnids.json")

    def fresh(self, name: str, images: int) -> dict[str, Any]:
        """A torchvision architecture with fresh weights at mixed bits."""
        data = self.imagenet()
        torch.manual_seed(SEED)
        model, _ = create_model(name)
        first = some(data.split("train"), 32)
        settled(model, first)
        traced = trace(model.eval(), (3, 224, 224))
        case = case_of(name, traced, ONNXRUNTIME, first, self.work)
        policy = case.mixed()
        return self.compared(case, {scales: case.model(policy, scales) for scales in SCALES}, policy, data, images)

    def resnet20(self) -> dict[str, Any]:
        """Trained weights, fine-tuned at w4a4; w8a8 without training beside it."""
        data = self.cifar()
        model, _ = create_model("resnet20")
        load_weights(model, self.shared / "weights" / "resnet20-cifar10.safetensors")
        traced = trace(model.eval(), (3, 32, 32))
        first = some(data.split("train"), 256)
        case = case_of("resnet20", traced, ONNXRUNTIME, first, self.work)
        four, eight = case.uniform(4, 4), case.uniform(8, 8)
        models = {scales: self._tuned(case, four, scales, data) for scales in SCALES}
        result = self.compared(case, models, four, data, self.extent.resnet20)
        for scales, tuned in models.items():
            result["accuracy"][f"w4a4 {scales}, {self.extent.steps} steps"] = self._accuracy(case, tuned, four, data)
            untrained = case.model(eight, scales)
            result["accuracy"][f"w8a8 {scales}, not trained"] = self._accuracy(case, untrained, eight, data)
        return result

    def mobilenet(self) -> dict[str, Any]:
        """Trained weights, w8a8 without training."""
        data = self.imagenet()
        model, _ = create_model("torchvision/mobilenet_v2")
        load_weights(model, self.shared / "weights" / "mobilenet_v2-imagenet.safetensors")
        traced = trace(model.eval(), (3, 224, 224))
        equalise_channels(traced)
        case = case_of("mobilenet_v2", traced, ONNXRUNTIME, some(data.split("train"), 64), self.work)
        policy = case.uniform(8, 8)
        models = {scales: case.model(policy, scales) for scales in SCALES}
        result = self.compared(case, models, policy, data, self.extent.mobilenet)
        for scales, untrained in models.items():
            result["accuracy"][f"w8a8 {scales}, not trained"] = self._accuracy(case, untrained, policy, data)
        return result

    def compared(
        self,
        case: Case,
        models: Mapping[Scales, QuantizedModel],
        policy: Mapping[str, BitPair],
        data: DataSet,
        images: int,
    ) -> dict[str, Any]:
        """Free scales on ONNX Runtime; powers of two there and in TensorRT's file."""
        batches = batches_of(data.split("test"), images, 250 if case.name == "resnet20" else BATCH)
        result = compare_integers(case, models["free"], policy, batches, "free")
        pow2 = compare_integers(case, models["pow2"], policy, batches, "pow2")
        other = case_of(case.name, case.traced, TENSORRT, case.first, self.work)
        policy = other.mixed() if len(set(policy.values())) > 1 else policy
        few = batches_of(data.split("test"), self.extent.tensorrt, BATCH)
        written = compare_as_written(other, other.model(policy, "pow2"), policy, few, "tensorrt")
        return result | {
            "pow2": pow2,
            "pow2_tensorrt": written,
            "pow2_mismatches": sum(found.get(key, 0) for found in (pow2, written) for key in COUNTED)
            + sum(not found["trained_logits_equal"] for found in (pow2, written)),
            "accuracy": {},
        }

    def _tuned(self, case: Case, policy: Mapping[str, BitPair], scales: Scales, data: DataSet) -> QuantizedModel:
        settings = FinetuneSettings(
            steps=self.extent.steps,
            batch_size=64,
            learning_rate=0.01,
            scale_learning_rate=0.005,
            warmup_steps=self.extent.steps // 20,
            weight_decay=2.5e-5,
            label_smoothing=0.1,
            distill=1.0,
            candidates=1,
            batchnorm_images=min(4000, 64 * self.extent.steps),
        )
        model = case.model(policy, scales)
        teacher = case.traced.graph_module
        top1 = Top1(val=0.0, test=0.0)  # goes into a record that is not kept
        held = DataSet(
            name=data.name,
            classes=data.classes,
            splits={**data.splits, "test": data.split("val")},
            fingerprint=data.fingerprint,
            augment=data.augment,
        )
        finetune(model, policy, held, settings=settings, seed=SEED, float_top1=top1, teacher=teacher)
        return model.eval()

    def _accuracy(
        self, case: Case, model: QuantizedModel, policy: Mapping[str, BitPair], data: DataSet
    ) -> dict[str, Any]:
        split = data.split("test")
        wanted = self.extent.classified or len(split)
        chosen = split.subset(range(0, len(split), max(len(split) // wanted, 1)))
        batches = list(chosen.batches(250 if case.name == "resnet20" else 25))
        return accuracies(case, model, policy, batches, "accuracy")


COUNTED = ("mismatches_reference", "layer_mismatches", "end_to_end_mismatches")

SCALES: tuple[Scales, ...] = ("free", "pow2")

MODELS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "resnet18": lambda bench: bench.fresh("torchvision/resnet18", bench.extent.resnet18),
    "resnet50": lambda bench: bench.fresh("torchvision/resnet50", bench.extent.resnet50),
    "resnet20": Bench.resnet20,
    "mobilenet_v2": Bench.mobilenet,
}


def some(split: Split, count: int) -> torch.Tensor:
    images, _ = next(iter(split.batches(count, shuffle=SEED)))
    return torch.from_numpy(images)


def batches_of(split: Split, images: int, size: int) -> list[Any]:
    """Images spread over the split, in batches."""
    chosen = split.subset(np.linspace(0, len(split) - 1, min(images, len(split))).round().astype(int))
    return [batch for batch, _ in chosen.batches(size)]


if __name__ == "__main__":
    main()
