"""A build for TensorRT-RTX on a machine that has none of its GPUs: the engine is built all the same, and never run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.runtimes.base import CompiledEngine
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import cannot_run

from .conftest import Command


@pytest.mark.skipif(cannot_run() is None, reason="a GPU that runs the engine is here")
def test_the_engine_is_built_for_gpus_that_are_not_here_and_the_build_goes_as_far_as_a_cpu_can(
    copy: Path, settings: Path, run: Command, refused: Callable[..., str]
) -> None:
    options = ("--ptq", "--importance", "scale", "--gpus", "sm89,sm86", "--batch", "1:8:8")
    arguments = ("build", "--config", settings, "--out", "out", "--target", "tensorrt_rtx", *options, "--json")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    engine = load_record(CompiledEngine, copy / "engine.json")
    assert (engine.capabilities, engine.options["batch"]) == (("sm86", "sm89"), "1:8:8")
    assert engine.integer_layers == engine.layers > 0
    assert engine.moved_bytes["batch_8"]
    word = load_record(LintReport, copy / "lint.json").compiler
    assert word is not None
    assert (word.kernels, word.capabilities) == (engine.kernels, ("sm89", "sm86"))
    assert "built by TensorRT-RTX 1.7 for sm86, sm89" in result.stderr
    assert "not run: none of these GPUs is here" in result.stderr

    parity = load_record(ParityReport, copy / "parity.json")  # the file as written rounds sums to float16
    assert {one.tensor for one in parity.faithful if one.mismatches} <= {"avgpool_codes"}  # a mean in float, at ties
    assert sum(one.elements for one in parity.faithful) > 1e6
    found = json.loads(result.stdout)
    assert found["verdict"]["outcome"] == "incomplete"
    assert found["next"].startswith("limpq-deploy finish out/bundle")
    refused("finish", "out/bundle", words=("TensorRT-RTX runs no engine here", "the bundle itself is whole"))
    refused("ship", "out", "models", "--backend", "tensorrt", words=("found no TensorRT plan",))


def test_gpus_that_make_no_sense_are_refused(here: Path, refused: Callable[..., str]) -> None:
    rtx = ("build", "--target", "tensorrt_rtx")
    refused(*rtx, "--gpus", "sm75,sm86", words=("gpus names sm75 beside sm86", "no int8 convolutions"))
    refused(*rtx, "--gpus", "sm90", words=("sm90 (H100, H200)", "--target tensorrt"))
    refused("build", "--gpus", "sm86", words=("--gpus is sm86", "no effect without --target tensorrt_rtx"))
    refused(*rtx, "--builds", "2", words=("--builds is 2", "no effect without --target tensorrt"))
