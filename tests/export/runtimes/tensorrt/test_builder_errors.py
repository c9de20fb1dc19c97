"""What a builder says when it gives up, and what we make of it."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.runtimes.tensorrt.build import BuildFailed
from limpq_deploy.export.runtimes.tensorrt.log import BuildLog
from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt

from .trt_stand_in import Bindings, Builder, HostMemory

NO_KERNEL = (
    "10: [optimizer.cpp::computeCosts::3869] Error Code 10: Internal Error (Could not find any implementation for node "
    "conv.weight + conv.weight_codes + conv.)"
)
NO_ENGINE = (
    "2: [builder.cpp::buildSerializedNetwork::636] Error Code 2: Internal Error (Assertion engine != nullptr failed. )"
)
"""As in NVIDIA/TensorRT#2719 and NVIDIA/Model-Optimizer#50."""


def test_the_reason_is_told_and_not_that_there_is_no_engine() -> None:
    log = BuildLog()
    assert log.last_error is None
    log.add("INTERNAL_ERROR", NO_ENGINE)
    assert log.last_error == NO_ENGINE
    log = BuildLog()
    for message in ("another", NO_KERNEL, NO_ENGINE):
        log.add("ERROR", message)
    assert log.last_error == NO_KERNEL


def test_a_layer_without_a_kernel_is_named_with_what_can_be_done(
    memory: HostMemory, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Builder, network: Any, config: Any) -> None:
        for message in (NO_KERNEL, NO_ENGINE):
            self._logger.log(Bindings.ILogger.Severity.ERROR, message)

    monkeypatch.setattr(Builder, "build_serialized_network", refuse)
    with pytest.raises(BuildFailed, match=r"implementation for node conv\.weight.*leave the layer in float \(16 bits"):
        TensorRt().built(model)
