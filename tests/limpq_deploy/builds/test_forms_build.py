"""Exports for versions of TensorRT, and with stored weights."""

from collections.abc import Callable
from pathlib import Path

from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.graph.exported import ExportRecord
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.verdict.record import Verdict

from .conftest import Command


def test_a_version_of_tensorrt_and_its_batches_are_exported_and_recorded(
    copy: Path, settings: Path, run: Command
) -> None:
    options = ("--target", "tensorrt", "--tensorrt", "10", "--batch", "1:8:32", "--storage", "int4", "--no-engine")
    result = run(
        "export", "--config", settings, "--out", "out", "--ptq", "--importance", "scale",
        "--space", "native:tensorrt", "--bits", "8", "--like", "w12a12", *options,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    stored = copy / "model.stored.onnx"
    itself = run("unpack", stored, "-o", stored)
    assert (itself.exit_code, "which would be lost" in itself.output, stored.is_file()) == (1, True, True)
    record = load_record(ExportRecord, copy / "export.json")
    assert (record.tensorrt, record.opset, record.batch) == ("10", 20, "1:8:32")
    assert record.float_layers != ()
    assert record.stored is not None
    checked = load_record(LintReport, copy / "lint.json")
    assert checked.findings == ()
    assert checked.planned_float == record.float_layers
    assert checked.compiler is not None
    assert checked.compiler.accepted in (True, None)  # None without the extra rtx, and then with the reason
    assert ("not the compiler of your TensorRT 10" in checked.compiler.detail) == (checked.compiler.accepted is True)


def test_the_verdict_sets_the_files_size_beside_the_policys(finished: Path) -> None:
    record = load_record(ExportRecord, finished / "export.json")
    assert record.nominal < record.model.weights < record.model.size == (finished / "model.qdq.onnx").stat().st_size
    assert any(f"{record.nominal:,} bytes at the policy's bits" in note for note in _notes(finished))


def _notes(folder: Path) -> tuple[str, ...]:
    return load_record(Verdict, folder / "verdict.json").notes


def test_settings_of_tensorrt_without_that_target_are_refused(here: Path, refused: Callable[..., str]) -> None:
    refused("build", "--tensorrt", "10", words=("--tensorrt is 10", "no effect without --target tensorrt"))
    refused("build", "--batch", "1:8:32", words=("--batch is 1:8:32", "no effect"))
    for option in ("--workspace-mib", "--builder-level", "--builds"):
        refused("compile", option, "2", words=(f"{option} is 2", "no effect without --target tensorrt"))
    refused("build", "--target", "tensorrt", "--builder-level", "6", words=("--builder-level is 6", "0 to 5"))
    refused("export", "--target", "tensorrt", "--batch", "8:1", words=("8:1", "MIN:OPT:MAX"))
    refused("build", "--target", "reference", "--storage", "int4", words=("storage is int4", "never exported"))
