"""`--version` names what a fault report needs: version, commit, libraries."""

import json
from pathlib import Path

import pytest

import limpq_deploy
from limpq_deploy.cli.output import version


def test_version_commit_and_libraries_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    baked = tmp_path / "commit.txt"
    baked.write_text("0123abc\n")
    monkeypatch.setattr(version, "BAKED", baked)
    first, second = version.version_lines().splitlines()
    assert first == f"limpq-deploy, version {limpq_deploy.__version__} (commit 0123abc)"
    assert "numpy " in second
    assert "onnxruntime-gpu" not in second


def test_without_a_checkout_the_commit_is_that_of_the_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Installed:
        def read_text(self, name: str) -> str:
            return json.dumps({"url": "git+file:///x", "vcs_info": {"vcs": "git", "commit_id": "f" * 40}})

    monkeypatch.setattr(version, "BAKED", tmp_path / "none")
    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setattr(version.importlib.metadata, "distribution", lambda name: Installed())
    assert version.commit() == "f" * 12
    monkeypatch.setattr(version.importlib.metadata, "distribution", _missing)
    assert version.commit() is None


def _missing(name: str) -> None:
    raise version.importlib.metadata.PackageNotFoundError(name)
