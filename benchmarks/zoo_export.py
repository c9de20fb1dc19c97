"""One network of the zoo exported: fresh weights, scales from random images, 8 bits everywhere, nothing trained."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import save_file

from limpq_deploy.calibration.batchnorm import reestimate_batchnorm
from limpq_deploy.calibration.datasets import DataSet, Preprocess, Split
from limpq_deploy.model.zoo import create_model
from limpq_deploy.pipeline.config import make_config
from limpq_deploy.pipeline.stages.run import run_build

CLASSES, IMAGES = 10, 16


def export_all(name: str, targets: Sequence[str]) -> None:
    """Raises what stops an export, and what the ONNX checker says of a file."""
    torch.manual_seed(0)
    model, info = create_model(name, CLASSES)
    shape = (3, 224, 224) if info.preprocess is None else info.preprocess.shape
    reestimate_batchnorm(model, [torch.randn(8, *shape)])
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
        for target in targets:
            out = Path(folder) / target
            settings = {"model": name, "weights": weights, "data": "zoo_export:data", "target": target, "ptq": True}
            quantized = {"bits": (4, 8), "like": "w8a8", "calibration_images": IMAGES, "out": out}
            run_build(make_config(settings | quantized), until="export", say=lambda _: None)
            onnx.checker.check_model(str(out / "model.qdq.onnx"), full_check=True)


def data(preprocess: Preprocess | None) -> DataSet:
    """Random pictures with random labels."""
    assert preprocess is not None
    random = np.random.default_rng(0)

    def split(count: int) -> Split:
        pixels = random.integers(0, 256, (count, preprocess.height, preprocess.width, 3), dtype=np.uint8)
        return Split(labels=np.arange(count) % CLASSES, read=lambda index: pixels[index], preprocess=preprocess)

    splits = {"train": split(4 * IMAGES), "val": split(IMAGES), "test": split(IMAGES)}
    return DataSet(name="noise", classes=tuple(map(str, range(CLASSES))), splits=splits, fingerprint="0")
