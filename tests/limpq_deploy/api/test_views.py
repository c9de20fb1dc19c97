"""Records in a notebook: rows, frames, tables, pictures."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import limpq_deploy
from limpq_deploy.calibration.errors import MissingExtra

VIEWS = ("indicators", "policy", "verdict")


def test_every_record_is_a_table_and_a_picture(tiny_build: Path, tmp_path: Path) -> None:
    report = limpq_deploy.load(tiny_build)
    front = limpq_deploy.sweep(report, (0.05, 0.1))
    for record in (report, front, *(getattr(report, name) for name in VIEWS)):
        rows = record.rows()
        html = record._repr_html_()
        assert html.count("<tr>") == len(rows) + 1
        ElementTree.fromstring(f"<div>{html}</div>")
        drawn = record.plot()
        assert ElementTree.fromstring(drawn._repr_svg_()).tag.endswith("svg")
        assert drawn.save(tmp_path / "drawn.svg").read_text() == drawn.svg


def test_what_a_table_shows_is_escaped() -> None:
    policy = limpq_deploy.Policy(bits={}, objective=0.0, alpha=1.0, model="<script>")
    assert "<script>" not in policy._repr_html_()


def test_a_frame_has_the_rows_or_says_what_is_missing(tiny_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = limpq_deploy.load(tiny_build).policy
    assert policy is not None
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match="pip install pandas"):
        policy.to_frame()
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas", reason="frames need pandas")
    assert policy.to_frame().equals(pandas.DataFrame(policy.rows()))


def test_bits_of_a_layer_unpack_and_equal_a_pair() -> None:
    bits = limpq_deploy.search("tests/golden/resnet50_official_macs.indicators.json", like="w4a4").bits
    weight, act = bits["layer1.0.conv2"]
    assert bits["layer1.0.conv2"] == (weight, act)
    assert {name: tuple(pair) for name, pair in bits.items()} == dict(bits)
