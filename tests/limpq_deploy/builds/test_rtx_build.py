"""A build for TensorRT-RTX on a machine that has none of its GPUs: the engine is built all the same, and never run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.reference.parity import ParityReport
from limpq_deploy.export.runtimes.base import CompiledEngine
from limpq_deploy.export.runtimes.tensorrt.inspect import planned_precision
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import cannot_run
from limpq_deploy.policy.policy import Policy
from limpq_deploy.verdict.record import Verdict

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
    for one in parity.faithful:
        if one.tensor == "avgpool_codes":  # a mean in float, at ties
            assert one.mismatches <= 1e-3 * one.elements
            assert one.max_lsb <= 1
            assert (one.max_tie_distance or 0) < 1e-3
        else:
            assert one.mismatches == 0, one.tensor
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


def test_formats_that_no_gpu_asked_for_executes_are_refused(here: Path, refused: Callable[..., str]) -> None:
    rtx = ("build", "--target", "tensorrt_rtx")
    refused("build", "--formats", "fp8", words=("target onnxruntime executes no layer in fp8", "--target tensorrt_rtx"))
    refused("build", "--target", "tensorrt", "--formats", "int8,fp8", words=("executes no layer in fp8",))
    refused(*rtx, "--formats", "fp8", "--gpus", "sm86,sm89", words=("layers in FP8", "sm86 (GeForce RTX 30"))
    refused(*rtx, "--formats", "nvfp4", words=("--formats names 'nvfp4'", "dynamic scales"))
    refused(*rtx, "--formats", "fp16", words=("leaves nothing to quantize",))
    refused(*rtx, "--formats", "fp8", "--bits", "8", words=("--formats is fp8", "bits says otherwise"))
    refused(*rtx, "--formats", "fp8", "--importance", "scale", words=("--importance is scale", "give kl"))


@pytest.mark.parametrize("ptq", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_build_in_fp8_computes_in_its_file_what_it_does_in_pytorch_and_in_numpy(
    copy: Path, settings: Path, run: Command, ptq: bool
) -> None:
    options = ("--formats", "fp8", "--like", "w8a8", *(("--ptq",) if ptq else ()), "--no-engine")
    result = run("build", "--config", settings, "--out", "out", "--target", "tensorrt_rtx", *options, "--json")
    assert result.exit_code in (0, 3), result.output
    policy = load_record(Policy, copy / "policy.json")
    assert set(policy.pairs().values()) == {(FP8, FP8)}
    assert policy.costs[0].used == policy.costs[0].limit  # w8a8's BitOps
    verdict = load_record(Verdict, copy / "verdict.json")
    mixed = next(one for one in verdict.bitops if one.name == "mixed")
    assert mixed.nominal_all == mixed.realised_all
    parity = load_record(ParityReport, copy / "parity.json")
    assert parity.elements > 0
    assert parity.mismatches == 0  # NumPy, the file as written
    assert sum(part.elements for part in parity.faithful) > 100_000
    assert sum(part.mismatches for part in parity.faithful) <= 1e-5 * sum(part.elements for part in parity.faithful)
    word = load_record(LintReport, copy / "lint.json").compiler
    assert word is not None
    assert (word.fp8_layers, word.as_floats) == (len(policy.bits), ())
    assert word.capabilities == ("sm89", "sm120")
    table = {one.name: one for one in verdict.candidates}  # the policy is uniform FP8: one file has three names
    assert {table[name].file for name in ("mixed", "uniform", "fp8")} == {"model.qdq.onnx"}
    assert (table["fp8"].bits, table["fp8"].accuracy) == ("fp8", table["mixed"].accuracy)
    assert not (copy / "fp8.safetensors").exists()


@pytest.mark.parametrize("ptq", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_formats_with_fp8_give_a_candidate_of_fp8_alone_with_its_file_and_figures(
    copy: Path, settings: Path, run: Command, ptq: bool
) -> None:
    options = ("--formats", "int8,fp8,fp16", "--like", "w8a8", "--importance", "kl")
    options = (*options, *(("--ptq",) if ptq else ()), "--no-engine")
    result = run("build", "--config", settings, "--out", "out", "--target", "tensorrt_rtx", *options, "--json")
    assert result.exit_code in (0, 3), result.output
    verdict = load_record(Verdict, copy / "verdict.json")
    table = {one.name: one for one in verdict.candidates}
    fp8, eight = table["fp8"], table["int8"]
    assert (fp8.file, fp8.bits, fp8.how) == ("baselines/fp8.qdq.onnx", "fp8", eight.how)
    assert (fp8.bitops_nominal, fp8.bitops_realised) == (eight.bitops_nominal, eight.bitops_realised)
    assert fp8.kernels == eight.kernels
    assert fp8.moved_bytes == eight.moved_bytes  # both have a byte for each number
    precision = planned_precision(load_model(copy / fp8.file))
    assert list(precision.values()).count("float8") == len(load_record(Policy, copy / "policy.json").bits)
    assert fp8.parity is not None
    assert fp8.parity.codes > 0
    assert fp8.parity.mismatches == 0  # NumPy and the file as written
    assert verdict.recommendation is not None
    others = {one.candidate for one in verdict.recommendation.dominated} | {verdict.recommendation.candidate}
    assert "fp8" in others  # it was weighed
