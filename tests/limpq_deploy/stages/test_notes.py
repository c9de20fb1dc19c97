"""What the verdict says beside its checks."""

from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

from limpq_deploy.config import Config
from limpq_deploy.stages.notes import float_notes


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
