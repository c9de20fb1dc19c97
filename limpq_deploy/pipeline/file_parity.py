"""Parity of an ONNX file that any tool quantized: which images it is shown, and the comparison. No torch here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from limpq_deploy.calibration.datasets import Preprocess, open_dataset
from limpq_deploy.calibration.errors import DataError, ModelError
from limpq_deploy.export.graph.code_grids import grid_at
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.onnx_files import constants
from limpq_deploy.export.reference.foreign_parity import FileParity, compare_file
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime
from limpq_deploy.model.zoo.torchvision import IMAGENET_MEAN, IMAGENET_STD
from limpq_deploy.pipeline.inspect_model import preprocess_of

Array = NDArray[Any]

IMAGES = 32
BATCH = 8
SEED = 0
SPLITS = ("test", "val", "train")
"""The first of these that a data set has is compared on."""


def check_file(path: Path, *, data: str | None = None, images: int = IMAGES, seed: int = SEED) -> FileParity:
    """Compare a file's integer reference with ONNX Runtime's optimised graph, on a data set or on random images.

    Raises ModelError for a file outside of what the reference reads, DataError for data that it does not fit.
    """
    runtime = OnnxRuntime()
    if reason := runtime.unavailable():
        raise ModelError(reason)
    model = load_model(path)
    name, dtype, shape = _input(path, model)
    sizes = _batches(images, shape[0])
    if data is None:
        note = (
            f"images: {images} random ones (seed {seed}), over the range of the input's own quantizer where it has one"
        )
        batches = _random(model, name, dtype, shape, sizes, seed)
    else:
        preprocess, note = _preprocess(path, model, data, dtype, shape)
        batches = _from_data(data, preprocess, dtype, sizes, shape[0])
    return compare_file(path, batches, runtime, notes=(note,))


def _input(path: Path, model: onnx.ModelProto) -> tuple[str, np.dtype[Any], list[int | None]]:
    """Name, type and shape of the first input that is no constant; a batch that is left open is None."""
    fixed = constants(model.graph)
    value = next(entry for entry in model.graph.input if entry.name not in fixed)
    tensor = value.type.tensor_type
    shape = [dim.dim_value or None for dim in tensor.shape.dim]
    if not shape or any(size is None for size in shape[1:]):
        raise ModelError(
            f"{path} leaves the size of its input {value.name!r} open ({_shown(shape)}); parity needs all but "
            "the batch fixed: onnxruntime.tools.make_dynamic_shape_fixed does that"
        )
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if dtype not in (np.float32, np.uint8, np.int8):
        raise ModelError(f"{path} takes {dtype.name}; parity compares models of float32, uint8 or int8 images")
    return value.name, dtype, shape


def _batches(images: int, fixed: int | None) -> list[int]:
    """Sizes of the batches: of the model's own where it is fixed, and then so many that all images fit."""
    if fixed:
        return [fixed] * -(-images // fixed)
    return [BATCH] * (images // BATCH) + ([images % BATCH] if images % BATCH else [])


def _random(
    model: onnx.ModelProto,
    name: str,
    dtype: np.dtype[Any],
    shape: list[int | None],
    sizes: list[int],
    seed: int,
) -> Iterator[Array]:
    """Normal noise around the middle of the input's range, of which some leaves it; codes over all of theirs."""
    random = np.random.default_rng(seed)
    low, high = _range(model, name)
    for size in sizes:
        full = (size, *(length or 1 for length in shape[1:]))
        if dtype == np.float32:
            yield random.normal((low + high) / 2, (high - low) / 5, full).astype(np.float32)
        else:
            ends = np.iinfo(dtype)
            yield random.integers(ends.min, ends.max, full, dtype, endpoint=True)


def _range(model: onnx.ModelProto, name: str) -> tuple[float, float]:
    """Reals that the quantizer of the input can represent; around zero where there is none."""
    fixed = constants(model.graph)
    for node in model.graph.node:
        grid = grid_at(node, 1, fixed) if node.op_type == "QuantizeLinear" and node.input[0] == name else None
        if grid is not None and grid.scale.size == 1 and np.isfinite(grid.scale).all():
            ends, zero = np.iinfo(grid.dtype), int(grid.zero_point.reshape(-1)[0])
            scale = abs(float(grid.scale.reshape(-1)[0]))
            return (ends.min - zero) * scale, (ends.max - zero) * scale
    return -3.0, 3.0


def _preprocess(
    path: Path, model: onnx.ModelProto, data: str, dtype: np.dtype[Any], shape: list[int | None]
) -> tuple[Preprocess, str]:
    """How images are made, and the note that says so: as the file's metadata has it, else resized to its input and
    normalised as the data set itself does, or as ImageNet is."""
    known = preprocess_of(path, model)
    if known is not None:
        return known, f"images: {data}, prepared as the file says"
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise ModelError(
            f"{path} takes inputs of shape {_shown(shape)}; --data needs images NCHW of 1 or 3 channels: leave it away"
        )
    channels, height, width = (int(length or 1) for length in shape[1:])
    whose = "ImageNet's"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if data.partition(":")[0] in ("digits", "cifar10"):
        own = next(iter(open_dataset(data, needs=()).splits.values())).preprocess
        mean, std, whose = own.mean, own.std, "its own"
    if len(mean) != channels:
        mean, std = (float(np.mean(mean)),) * channels, (float(np.mean(std)),) * channels
    found = Preprocess(height=height, width=width, mean=mean, std=std, channels=channels)
    if dtype != np.float32:
        return found.of_pixels(), f"images: {data}, resized to {height}x{width}, as pixels"
    return found, (
        f"images: {data}, resized to {height}x{width}, with {whose} mean and deviation (the file does not say how its "
        "images are made; what is compared here does not depend on it)"
    )


def _from_data(
    data: str, preprocess: Preprocess, dtype: np.dtype[Any], sizes: list[int], fixed: int | None
) -> Iterator[Array]:
    """So many images, or all there are; for a model of a fixed batch the first ones again, to fill the last batch."""
    dataset = open_dataset(data, preprocess, needs=())
    split = next((dataset.splits[name] for name in SPLITS if name in dataset.splits), None)
    if split is None:
        raise DataError(f"data set {data!r} has no images; expected a split {', '.join(SPLITS)}")
    chosen = np.linspace(0, len(split) - 1, min(sum(sizes), len(split))).round().astype(int)
    if fixed:
        chosen = np.resize(chosen, -(-len(chosen) // fixed) * fixed)
    for batch, _ in split.subset(chosen).batches(sizes[0]):
        yield batch if dtype == np.float32 else batch.astype(dtype)


def _shown(shape: list[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "no shape"
