"""Every campaign, with fewer cases: none fails. `just campaigns` runs them at length."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from .a_build import make_build
from .machines import MACHINES
from .run import CAMPAIGNS


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_build(tmp_path_factory.mktemp("build"))


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that other users can be let into, which pytest's own cannot."""
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("readers", 1000),
        ("onnx", 30),
        ("artefacts", 400),
        ("signed", 56),
        ("kills", 5),
        ("folders", 20),
        ("machines", len(MACHINES)),
    ],
)
def test_no_case_of_a_campaign_fails(
    build: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, name: str, cases: int
) -> None:
    monkeypatch.setenv("LIMPQ_CACHE", str(scratch / "cache"))
    tally = CAMPAIGNS[name][0](build, scratch, cases=cases, seed=7)
    assert tally.cases == cases
    assert not tally.failures
