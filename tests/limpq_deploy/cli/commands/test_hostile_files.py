"""ONNX files of strangers, each hostile in one way: commands refuse them in one short sentence."""

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from ....campaigns.onnx_files import forms
from ....campaigns.tally import command


@pytest.mark.parametrize("words", [("parity",), ("evaluate", "--data", "digits")])
def test_metadata_names_and_shapes_of_every_hostile_form_are_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    if words[0] == "evaluate":
        pytest.importorskip("sklearn", reason="needs the extra limpq-deploy[train]")
    file, found = tmp_path / "hostile.onnx", {}
    for name, data in forms():
        file.write_bytes(data)
        found[name] = command(words[0], file, *words[1:])
    assert len(found) > 70
    assert {name: one for name, one in found.items() if one != ("refused", None)} == {}
