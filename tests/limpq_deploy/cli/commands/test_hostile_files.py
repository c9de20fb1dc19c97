"""ONNX files of strangers, each hostile in one way: commands refuse them in one short sentence."""

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from ....campaigns.onnx_files import forms
from ....campaigns.tally import command


def not_refused(words: tuple[str, ...], file: Path, hostile: dict[str, bytes]) -> dict[str, object]:
    """What a command answered to each form that it did not refuse in a clean sentence."""
    found = {}
    for name, data in hostile.items():
        file.write_bytes(data)
        found[name] = command(words[0], file, *words[1:])
    return {name: one for name, one in found.items() if one != ("refused", None)}


def test_every_hostile_form_is_refused(tmp_path: Path) -> None:
    hostile = dict(forms())
    assert len(hostile) > 70
    assert not_refused(("parity",), tmp_path / "hostile.onnx", hostile) == {}


def test_classes_and_preprocessing_of_wrong_kinds_and_sizes_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs the extra limpq-deploy[train]")
    hostile = {name: data for name, data in forms() if name.startswith(("limpq.classes", "limpq.preprocess"))}
    assert len(hostile) >= 18
    assert not_refused(("evaluate", "--data", "digits"), tmp_path / "hostile.onnx", hostile) == {}
