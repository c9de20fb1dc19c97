"""Every setting of a build, changed in turn: the stages whose own inputs change, and no others, run again.

What reads their files follows if those come out differently, which is `test_pipeline`'s matter.
"""

import dataclasses
import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from limpq_deploy.calibration.threads import holding_threads
from limpq_deploy.pipeline import context as subject_module
from limpq_deploy.pipeline.config import Config, load_config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.facts import MODEL_FACT
from limpq_deploy.pipeline.stages.listed import STAGES, stages_of
from limpq_deploy.policy.budgets import BUDGETS, TYPES
from limpq_deploy.train.settings import Training
from limpq_deploy.workspace.step import Part
from limpq_deploy.workspace.workspace import whole

FLOAT, JOINT, TUNED = "float", "indicators", "finetune int8"
MODELS = f"{FLOAT} {JOINT} {TUNED}"
RUN = "engine parity accuracy latency candidates study"
"""Stages that start the runtime, beside bundle."""
LIMIT = "search what-if"
"""Stages that keep within budgets and restrictions."""

ON_CPU: dict[str, tuple[Any, str]] = {
    "model": (
        "resnet20",
        f"given {MODELS} export parity accuracy candidates bundle",
    ),  # it takes images of another size
    "weights": ("float.safetensors", f"given {MODELS} export"),
    "bits": ((2, 3, 4, 5, 6, 7), f"{JOINT} finetune"),
    "like": ("w4a4", LIMIT),
    **{name: (5.0, LIMIT) for name in BUDGETS if TYPES[name] is float},
    "max_latency_ms": (5.0, "verdict"),
    "min_speedup": (1.0, "verdict"),
    "max_accuracy_drop": (2.0, "verdict"),
    "max_float_share": (0.5, "verdict"),
    "task": ("none", f"given {MODELS} export parity accuracy candidates bundle"),
    "calibration": ("images", f"given {MODELS} export parity accuracy candidates bundle"),
    "objective": ("size", "verdict"),
    "space": ("w*a5", LIMIT),
    "min_bits": (("layer1.*=4",), LIMIT),
    "pin": (("layer2.conv1=w6a6",), LIMIT),
    "tie": (("layer1.*",), LIMIT),
    "pinned_bits": (7, f"given {JOINT} int8 export"),  # and by placement.json all that trains
    "act_bits": (5, f"given {JOINT} int8 export"),
    **{name: (value, "search") for name, value in (("importance", "kl"), ("alpha", 1.0), ("outliers", "forbid"))},
    "solver": ("own", LIMIT),
    "policy": ("policy.json", LIMIT),  # what other budgets give is not asked
    "ptq": (True, f"{JOINT} {TUNED} verdict"),
    "finetune": (False, f"{TUNED} verdict"),
    "scales": ("pow2", f"{TUNED} export"),
    "storage": ("int4", "export candidates"),
    "input": ("uint8", "export bundle"),
    "latency_seconds": (0.2, "latency study"),
    "seed": (1, f"given {MODELS} export"),
    "target": ("tensorrt", f"given {JOINT} int8 export {RUN} audit verdict bundle"),
    "engine": (False, f"{RUN} verdict what-if bundle"),  # those are left away
    "out": (Path("elsewhere"), ""),
}
"""Setting -> another value, and stages: of a build on ONNX Runtime. ``report`` holds the command, so it always runs."""

WITH_PTQ: dict[str, tuple[Any, str]] = {
    "ranges": ("minmax", f"{JOINT} {TUNED}"),
    "calibration_images": (64, f"{JOINT} {TUNED}"),
    "bits": ((2, 3, 4, 5, 6, 7), JOINT),
    "seed": (1, f"given {MODELS} export"),
}
BUILDER = "profile export engine parity accuracy latency audit candidates study bundle"
ON_TENSORRT: dict[str, tuple[Any, str]] = {
    "tensorrt": ("11", "given profile export"),
    "batch": ("1:2:4", f"{BUILDER} verdict"),
    "float_type": ("float32", f"{BUILDER} verdict"),
    **{name: (value, BUILDER) for name, value in (("tf32", False), ("workspace_mib", 100), ("builder_level", 5))},
    "builds": (2, BUILDER),
    "latency_rounds": (2, LIMIT),
    "max_latency_ms": (6.0, f"{LIMIT} verdict"),
    "latency_seconds": (0.2, "profile latency study"),
}
"""Of a build that measures until a latency limit holds."""

COMPILED: dict[str, tuple[Any, str]] = {"gpus": ("sm89", "export engine parity accuracy candidates bundle")}
"""Of a build whose engine runs elsewhere."""

FORMATS: dict[str, tuple[Any, str]] = {"formats": (("int8", "fp8"), f"indicators {LIMIT} finetune")}
"""Of a build that chooses among formats."""

WITH_FP16: dict[str, tuple[Any, str]] = {"formats": (("int8", "fp8", "fp16"), "indicators search what-if finetune")}
"""Of one that chose among int8 and FP8 before."""

WITH_PRICES: dict[str, tuple[Any, str]] = {"cost_table": ("cost-table.json", LIMIT), "max_kernels": (60, LIMIT)}

WITH_A_TABLE: dict[str, tuple[Any, str]] = {
    "latency_table": ("latency-table.json", LIMIT),
    "max_latency_ms": (6.0, f"{LIMIT} verdict"),
}

OF_TRAINING: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("float_epochs", "float_lr"), (1.0, FLOAT)),
    **dict.fromkeys(("joint_epochs", "joint_lr", "data_fraction"), (1.0, JOINT)),
    **dict.fromkeys(("finetune_epochs", "finetune_lr"), (1.0, TUNED)),
    **{
        name: (7, stages)
        for name, stages in (("float_steps", FLOAT), ("joint_steps", JOINT), ("finetune_steps", TUNED))
    },
    "data_fraction": (0.5, JOINT),
    "finetune_start": ("joint", TUNED),
    "freeze_weights": (True, JOINT),
    "inplace_distill": (True, JOINT),
    "distill": (0.5, f"{JOINT} {TUNED}"),
    "temperature": (2.0, TUNED),
    "ema": (0.5, TUNED),
    **{name: (value, MODELS) for name, value in (("batch_size", 32), ("label_smoothing", 0.5), ("warmup", 0.5))},
    **{name: (value, MODELS) for name, value in (("accumulate", 2), ("precision", "bf16"), ("channels_last", False))},
    "freeze_batchnorm": (True, MODELS),
    **dict.fromkeys(("workers", "checkpoint_steps"), (1, "")),
    **{name: (value, "") for name, value in (("log", False), ("tensorboard", True))},
    "checkpoint_minutes": (1.0, ""),
}
"""Keys of ``[training]``; how often is saved, how many read and what is logged changes no number."""


def digests(config: Config, folder: Path) -> dict[str, str]:
    """The digest of every stage's inputs, with the files that lie in the folder."""
    about, found = Subject(config), {}
    for stage in stages_of(about):
        if stage.needed(about, folder):
            step = stage.step(about, folder)
            files = [one.file if isinstance(one, Part) else one for one in step.reads]
            absent = [name for name in files if not (folder / name).exists()]
            found[stage.name] = whole(step, step.digests(folder, without=absent))
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.fixture
def base(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The finished build's settings; one data set is opened once."""
    monkeypatch.setattr(subject_module, "open_dataset", functools.cache(subject_module.open_dataset))
    training = Training(float_steps=60, joint_steps=5, finetune_steps=40)
    return replace(load_config(finished / "config.json"), training=training)


def expect(base: Config, folder: Path, table: dict[str, tuple[Any, str]]) -> None:
    before = digests(base, folder)
    (folder / "images").mkdir(exist_ok=True)
    Image.new("L", (16, 16)).save(folder / "images/one.png")
    files = ("weights", "policy", "latency_table", "calibration")
    for name, (value, stages) in table.items():
        given = folder / value if name in files else value
        config = replace(base, **{name: given})
        expected = {*stages.split(), "report"}
        assert changed(before, digests(config, folder)) == expected, name


def test_each_setting_of_a_build_on_the_cpu_repeats_the_stages_that_it_is_about(base: Config, finished: Path) -> None:
    expect(base, finished, ON_CPU)


def test_each_setting_without_training_repeats_the_stages_that_it_is_about(base: Config, finished: Path) -> None:
    expect(replace(base, ptq=True), finished, WITH_PTQ)


def test_each_setting_of_an_engine_repeats_the_stages_that_it_is_about(base: Config, finished: Path) -> None:
    rounds = replace(base, target="tensorrt", max_latency_ms=5.0, space="native:tensorrt", bits=(8,), like=None)
    expect(rounds, finished, ON_TENSORRT)


def test_other_gpus_are_another_engine(base: Config, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "compiles_only", True)
    expect(replace(base, target="tensorrt_rtx"), finished, COMPILED)
    formats = replace(base, target="tensorrt_rtx", like="w8a8")
    expect(formats, finished, FORMATS)
    expect(replace(formats, formats=("int8", "fp8")), finished, WITH_FP16)


def test_latencies_with_another_number_of_threads_are_measured_anew(base: Config, finished: Path) -> None:
    before = digests(base, finished)
    with holding_threads(1):
        assert changed(before, digests(base, finished)) == {"latency", "study"}


def test_a_latency_table_repeats_the_search(base: Config, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{}")
    table = replace(base, latency_table=tmp_path / "table.json", max_latency_ms=5.0)
    expect(table, finished, {"max_latency_ms": WITH_A_TABLE["max_latency_ms"]})
    before = digests(table, finished)
    (tmp_path / "table.json").write_text("{ }")
    assert changed(before, digests(table, finished)) == {*LIMIT.split()}  # other times under one name


def test_a_table_of_costs_repeats_the_search(base: Config, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text("{}")
    table = replace(base, cost_table=tmp_path / "costs.json", max_kernels=50)
    expect(table, finished, {"max_kernels": WITH_PRICES["max_kernels"]})
    before = digests(table, finished)
    (tmp_path / "costs.json").write_text("{ }")
    # other costs under one name, which the page shows too
    assert changed(before, digests(table, finished)) == {*LIMIT.split(), "report"}


def test_each_setting_of_training_repeats_the_models_that_it_is_about(base: Config, finished: Path) -> None:
    before = digests(base, finished)
    for name, (value, stages) in OF_TRAINING.items():
        other = {f"{name.removesuffix('_epochs')}_steps": None} if name.endswith("_epochs") else {}
        training = replace(base.training, **{name: value, **other})
        assert changed(before, digests(replace(base, training=training), finished)) == {*stages.split(), "report"}, name


def test_which_weights_of_a_file_are_meant_repeats_what_the_weights_do(
    base: Config, finished: Path, tmp_path: Path
) -> None:
    state = load_file(finished / "float.safetensors")
    averaged_state = {name: tensor.clone() for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": averaged_state}, tmp_path / "two.pth")
    averaged = replace(base, weights=tmp_path / "two.pth", weights_key="model_ema")
    other = digests(replace(averaged, weights_key="model"), finished)
    assert changed(digests(averaged, finished), other) == {*ON_CPU["weights"][1].split(), "report"}


def test_published_weights_are_of_all_stages_that_the_model_is_of() -> None:
    """None are on this machine to be changed."""
    assert {stage.name for stage in STAGES if MODEL_FACT in stage.facts} >= {*ON_CPU["weights"][1].split()}
    assert all("pretrained" in stage.depends_on for stage in STAGES if MODEL_FACT in stage.facts)


def test_no_setting_is_left_out() -> None:
    tried = {
        *ON_CPU,
        *WITH_PTQ,
        *ON_TENSORRT,
        *COMPILED,
        *FORMATS,
        *WITH_PRICES,
        *WITH_A_TABLE,
        "data",
        "classes",
        "training",
        "weights_key",
        "pretrained",
    }
    assert tried == {field.name for field in dataclasses.fields(Config)}
    assert OF_TRAINING.keys() == {field.name for field in dataclasses.fields(Training)}


def test_other_images_and_another_order_of_the_classes_repeat_all_that_sees_images(
    base: Config, finished: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    names = [f"class{number}" for number in range(10)]
    for split in ("train", "test"):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = random.integers(0, 255, (16, 16), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    sees = {"given", *MODELS.split(), "export", "parity", "accuracy", "candidates", "bundle", "report"}
    images = replace(base, data=f"imagefolder:{tmp_path}")
    before = digests(images, finished)
    assert changed(digests(base, finished), before) == sees
    (tmp_path / "classes.json").write_text(json.dumps(names[::-1]))
    assert changed(before, digests(replace(images, classes=tmp_path / "classes.json"), finished)) == sees
