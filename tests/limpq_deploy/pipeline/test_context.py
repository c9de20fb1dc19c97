"""What a build is about is digested whole, and settings without effect are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limpq_deploy.calibration.datasets.base import split_of_arrays
from limpq_deploy.calibration.errors import LimpqError, SettingError
from limpq_deploy.export.runtimes.tensorrt import runtime as trt
from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.early_checks import check_inputs
from limpq_deploy.pipeline.stages.engine import ENGINE_RECORD
from limpq_deploy.train.settings import Training

MODEL = """
from torch import nn
from blocks_of_{name} import block
from limpq_deploy.calibration.datasets import Preprocess

def make():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), block(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(4, 10))
    model.preprocess = Preprocess(height=16, width=16, mean=(0.3,), std=(0.35,), channels=1)
    return model
"""


def structure(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, block: str) -> str | None:
    (folder / f"model_{name}.py").write_text(MODEL.format(name=name))
    (folder / f"blocks_of_{name}.py").write_text(f"from torch import nn\ndef block():\n    return {block}\n")
    monkeypatch.syspath_prepend(folder)
    return Subject(Config(model=f"model_{name}:make")).model_digest()["structure"]


def test_a_change_in_a_module_that_the_model_imports_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = structure(tmp_path, "a", monkeypatch, "nn.Conv2d(4, 4, 3)")
    same = structure(tmp_path, "b", monkeypatch, "nn.Conv2d(4, 4, 3)")
    other = structure(tmp_path, "c", monkeypatch, "nn.Conv2d(4, 4, 3, padding=1)")
    assert first is not None
    assert first == same
    assert first != other


def test_a_batch_larger_than_the_training_split_is_refused() -> None:
    config = Config(training=Training(batch_size=5000))
    with pytest.raises(SettingError, match="batch_size is 5000, and 'digits' has 1078 training images"):
        check_inputs(Subject(config), engine=False)


def test_builder_settings_reach_the_runtime_and_the_digest_of_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trt, "unavailable", lambda: None)
    plain = Subject(Config(target="tensorrt"))
    set_up = Subject(Config(target="tensorrt", workspace_mib=256, builder_level=1, builds=2))
    runtime = set_up.runtime()
    assert isinstance(runtime, TensorRt)
    assert (runtime.options.workspace_mib, runtime.options.level, runtime.options.builds) == (256, 1, 2)
    inputs, before = ENGINE_RECORD.inputs(set_up), ENGINE_RECORD.inputs(plain)
    assert {name for name in inputs if inputs[name] != before.get(name)} == {"workspace_mib", "builder_level", "builds"}
    assert inputs["builder_level"] == 1


CLASSES = """
from torch import nn
from limpq_deploy.calibration.datasets import Preprocess

class Net(nn.Module):
    num_classes = 7

    def __init__(self, outputs=10, flat=True):
        super().__init__()
        self.conv, self.pool, self.flat = nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), flat
        self.classifier = nn.Linear(6, outputs)
        self.embed = nn.Linear(6, 6)
        self.preprocess = Preprocess(height=16, width=16, mean=(0.3,), std=(0.35,), channels=1)

    def forward(self, x):
        x = self.pool(self.conv(x).relu())
        return self.classifier(self.embed(x.flatten(1)).relu()) if self.flat else x

def ten():
    return Net()

def five():
    return Net(5)

def a_map():
    return Net(flat=False)
"""


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("ten", None),
        ("five", "'digits' has 10 classes, the model has 5"),
        ("a_map", r"a tensor of shape \[1, 6, 1, 1\] for one image .*; expected logits \[1, classes\]"),
    ],
)
def test_classes_are_counted_by_what_the_model_gives_not_by_its_modules(
    factory: str, sentence: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counted_net.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    subject = Subject(Config(model=f"counted_net:{factory}", target="reference"))
    if sentence is None:
        check_inputs(subject, engine=False)
        return
    with pytest.raises(LimpqError, match=sentence):
        check_inputs(subject, engine=False)


@pytest.mark.parametrize(("images", "looked_at"), [(1_000, 100), (9_990, 990), (12_000, 1_200), (40_000, 2_000)])
def test_policies_are_previewed_on_a_thousand_held_out_images_where_there_are_and_on_all_else(
    images: int, looked_at: int
) -> None:
    subject = Subject(Config())
    labels = np.arange(images) % 10
    split = split_of_arrays(np.zeros((images, 1, 1), np.uint8), labels, subject.preprocess)
    subject.dataset = replace(subject.dataset, splits={**subject.dataset.splits, "train": split})
    train, held = subject.joint_data.split("train"), subject.joint_data.split("val")
    assert len(held) == looked_at
    assert np.bincount(held.labels).min() > 0
    assert len(train) == images - images // 10 + (images // 10 - 10 * (images // 100))


@pytest.mark.parametrize(
    ("task", "width", "names"),
    [("classification", 10, 10), ("none", 10, 10), ("none", 7, 7), ("embedding", 10, 0), ("embedding", 6, 0)],
)
def test_only_logits_have_the_names_of_classes(
    task: str, width: int, names: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"model_{task}_{width}"
    made = f"nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, {width}))"
    (tmp_path / f"{name}.py").write_text(f"from torch import nn\n\n\ndef make():\n    return {made}\n")
    monkeypatch.syspath_prepend(tmp_path)
    subject = Subject(Config(model=f"{name}:make", task=task))
    assert subject.class_names == tuple(map(str, range(names)))
