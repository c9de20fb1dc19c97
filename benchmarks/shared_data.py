"""Images and weights that benchmarks share: LIMPQ_SHARED, or ``../shared`` beside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

FEW = {"train": 400, "val": 100, "test": 100}
"""Images of a split in a smoke run."""

SHEET = (25, 40, 32)
"""Rows, columns and pixels of the tiles of one file of CIFAR-10 images."""


def data_folder() -> Path:
    """``data`` of the shared folder; ends the program with a sentence where there is none."""
    shared = Path(os.environ.get("LIMPQ_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (shared / "data" / "unpack.py").is_file():
        sys.exit(f"no shared data: set LIMPQ_SHARED to its folder ({shared / 'data' / 'unpack.py'} does not exist)")
    return shared / "data"


def cifar10(out: Path, *, smoke: bool = False) -> tuple[Path, Path]:
    """Images, unpacked once beside the results, and the weights file of ResNet-20; for a smoke run a few images."""
    weights = data_folder() / "weights" / "resnet20-cifar10.safetensors"
    return _few_cifar10(out / "few-images") if smoke else _unpacked("cifar10", out), weights


def imagenet(out: Path, *, smoke: bool = False) -> tuple[Path, Path, Path]:
    """Images, unpacked once beside the results, the list of classes and the weights file of MobileNetV2."""
    data = data_folder()
    images = _few_imagenet(out / "few-images") if smoke else _unpacked("imagenet", out)
    return images, data / "imagenet" / "wnids.json", data / "weights" / "mobilenet_v2-imagenet.safetensors"


def _unpacked(name: str, out: Path) -> Path:
    command: list[str | Path] = [sys.executable, data_folder() / "unpack.py", name, out / "images"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return out / "images"


def _few_cifar10(folder: Path) -> Path:
    import numpy as np
    from PIL import Image

    rows, columns, side = SHEET
    stored = data_folder() / "cifar10"
    for split, count in FEW.items():
        labels = (stored / f"{split}-labels.txt").read_text().split("\n")[:count]
        pixels = np.asarray(Image.open(stored / f"{split}-00.webp").convert("RGB"))
        tiles = pixels.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)
        for number, label in enumerate(labels):
            place = folder / split / f"class{label.split(' ', 1)[0]}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tiles[number]).save(place / f"{number:05d}.png")
    return folder


def _few_imagenet(folder: Path) -> Path:
    for archive, split in (("imagenette_train", "train"), ("imagenette_val", "val"), ("ilsvrc_val-dev", "test")):
        with zipfile.ZipFile(data_folder() / "imagenet" / f"{archive}.zip") as stored:
            names = [name for name in stored.namelist() if not name.endswith("/")]
            stored.extractall(folder / split, names[:: max(1, len(names) // FEW[split])])
    return folder
