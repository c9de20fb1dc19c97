"""A runtime that breaks down on a file, or never answers, takes nobody with it."""

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.reference.self_test import tiny_model
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime
from limpq_deploy.export.runtimes.trial_apart import trial_apart


def in_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """Have the runtime of the process do something else: Python reads this module at its start."""
    (tmp_path / "sitecustomize.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_what_the_runtime_says_is_what_it_says_in_this_process() -> None:
    mine, others = OnnxRuntime().trial(tiny_model()), trial_apart("onnxruntime", tiny_model())
    assert (mine.refused, mine.signal_db) == (others.refused, others.signal_db)
    assert mine.optimized is not None
    assert others.optimized is not None
    assert len(mine.optimized.graph.node) == len(others.optimized.graph.node)


def test_a_runtime_that_aborts_is_a_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_child(monkeypatch, tmp_path, "import os, sys\nif 'trial_apart' in ' '.join(sys.orig_argv): os.abort()\n")
    found = trial_apart("onnxruntime", tiny_model())
    assert found.refused == "the runtime itself broke down on the file (SIGABRT)"
    assert found.optimized is None


def test_a_runtime_that_never_answers_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_child(monkeypatch, tmp_path, "import sys, time\nif 'trial_apart' in ' '.join(sys.orig_argv): time.sleep(60)\n")
    assert trial_apart("onnxruntime", tiny_model(), seconds=0.3).refused == "the runtime gave no answer within 0.3 s"
