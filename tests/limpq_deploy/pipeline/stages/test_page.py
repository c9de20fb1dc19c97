"""What of a build's folder is told on its page: nothing that an earlier build left there."""

from pathlib import Path

from limpq_deploy.calibration.records import write_record
from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.comparison import Comparison
from limpq_deploy.pipeline.stages.page import _sizes, training_logs
from limpq_deploy.workspace.file_names import COMPARISON, FLOAT_MODEL, FP8_MODEL, MODEL, STORED, UNIFORM8_MODEL


def test_losses_and_files_of_fp8_are_told_only_where_this_build_has_them(tmp_path: Path) -> None:
    for name in (MODEL, FLOAT_MODEL, UNIFORM8_MODEL, FP8_MODEL, STORED):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"model")
    subject = Subject(Config(out=tmp_path))
    for fp8 in (True, False):
        write_record(Comparison(pair=(4, 4), same=False, fp8=fp8), tmp_path / COMPARISON)
        assert ("training/fp8.jsonl" in training_logs(subject, tmp_path)) is fp8
        assert (FP8_MODEL in _sizes(subject, tmp_path)) is fp8
    assert STORED not in _sizes(subject, tmp_path)
    assert STORED in _sizes(Subject(Config(out=tmp_path, storage="int4")), tmp_path)
