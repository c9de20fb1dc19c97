"""50,000 images of 10,000 classes stream: what is held at once does not grow with their number."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES, CLASSES = 50_000, 10_000
ROOM_MIB = 200
"""Paths, sizes and times of 50,000 files, one batch of logits, and what each image leaves behind. The logits alone of
all images would take 1,907 MiB."""

EVALUATE = """
import resource, sys
from pathlib import Path
import numpy as np
from limpq_deploy.calibration.datasets import Preprocess, open_dataset
from limpq_deploy.train.evaluate import evaluate

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def logits(images):
    answers = np.zeros((len(images), {classes}), np.float32)
    answers[:, 7] = 1
    return answers

before = peak_mib()
preprocess = Preprocess(height=8, width=8, mean=(0.0,) * 3, std=(1.0,) * 3)
dataset = open_dataset("imagefolder:images", preprocess, None, needs=("test",))
found = evaluate(logits, dataset.split("test").batches(64))
print(found.accuracy.images, len(dataset.classes), found.accuracy.correct, peak_mib() - before)
"""


def test_many_images_of_many_classes_stream(tmp_path: Path) -> None:
    one = tmp_path / "one.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(one)
    for label in range(CLASSES):
        folder = tmp_path / f"images/test/class-{label:05}"
        folder.mkdir(parents=True)
        for number in range(IMAGES // CLASSES):
            os.link(one, folder / f"{number}.png")
    code = EVALUATE.format(classes=CLASSES)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    images, classes, correct, grown = done.stdout.split()
    assert (int(images), int(classes), int(correct)) == (IMAGES, CLASSES, IMAGES // CLASSES)
    assert float(grown) < ROOM_MIB
