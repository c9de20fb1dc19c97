"""What the verdict says beside its checks."""

from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.stages.notes import float_notes, torch_notes
from limpq_deploy.train.evaluate import Accuracy
from limpq_deploy.train.finetuned import FineTuned, Top1
from limpq_deploy.verdict.record import AccuracyResult


@pytest.mark.parametrize(
    ("settings", "noted"),
    [
        ({"target": "tensorrt", "float_type": "float32"}, True),
        ({"target": "tensorrt", "float_type": "float16"}, False),
        ({"target": "tensorrt"}, False),
        ({}, False),
    ],
)
def test_a_float_baseline_in_fp32_is_told_where_fp16_was_to_be_had(settings: dict[str, Any], noted: bool) -> None:
    assert [
        note.startswith("Float is the float model's engine in FP32") for note in float_notes(Config(**settings))
    ] == ([True] if noted else [])


def test_accuracies_of_the_model_in_torch_and_of_its_file_are_told_apart_where_they_differ() -> None:
    def reached(correct: int) -> Accuracy:
        return Accuracy(images=1000, classes=10, correct=correct, top1=correct / 10)

    def trained(mixed: float) -> FineTuned:
        return FineTuned(
            model="m",
            target="onnxruntime",
            bits={},
            seed=0,
            settings=None,
            epochs=0.0,
            float_top1=Top1(val=99.0, test=91.1),
            top1=Top1(val=95.0, test=mixed),
            chosen_step=0,
            candidates=(),
            weights=(),
            activations=(),
            seconds=0.0,
        )

    deployed = AccuracyResult(float=reached(911), mixed=reached(876))
    [note] = torch_notes(trained(87.3), deployed)
    assert "mixed 87.30 % there and 87.60 % here" in note
    assert "float 9" not in note
    assert not list(torch_notes(trained(87.6), deployed))
