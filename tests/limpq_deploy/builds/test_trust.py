"""The folder of a build may come from anybody: no module that it names is imported unasked."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Command = Callable[..., Result]
Refused = Callable[..., str]

EVIL = """
from pathlib import Path
Path({mark!r}).write_text("ran")
def make(*arguments):
    raise ValueError("ran")
"""


def plant(build: Path, **named: str) -> Path:
    """A folder whose settings name a module beside it, with hashes that fit; returns what the module would write."""
    mark = build.parent / "mark"
    (build.parent / "evil_module.py").write_text(EVIL.format(mark=str(mark)))
    config = json.loads((build / "config.json").read_text()) | named
    (build / "config.json").write_text(json.dumps(config))
    stages = json.loads((build / "stages.json").read_text())
    stages["written"]["config.json"] = hashlib.sha256((build / "config.json").read_bytes()).hexdigest()
    (build / "stages.json").write_text(json.dumps(stages))
    return mark


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)


@pytest.mark.parametrize("named", [{"model": "evil_module:make"}, {"data": "evil_module:make"}])
@pytest.mark.parametrize(
    "command",
    [
        "parity out",
        "preview mine.json --build out",
        "search mine-indicators.json --like w4a4 --preview out -o new.json",
        "sweep mine-indicators.json --gbitops 0.01:0.02:2 --preview out -o new.json",
    ],
)
def test_a_module_that_nobody_named_is_not_imported(
    refused: Refused, run: Command, copy: Path, named: dict[str, str], command: str
) -> None:
    (copy.parent / "mine.json").write_bytes((copy / "policy.json").read_bytes())
    (copy.parent / "mine-indicators.json").write_bytes((copy / "indicators.json").read_bytes())
    mark = plant(copy, **named)
    said = refused(*command.split(), words=("'evil_module:make'", "evil_module.py", "never named", "--trust"))
    assert "config.json" in said
    assert not mark.exists()
    run(*command.split(), "--trust")
    assert mark.exists()
    mark.unlink()
    sys.modules.pop("evil_module")
    run(*command.split())  # remembered
    assert mark.exists()


def test_hashes_are_looked_at_before_any_module(refused: Refused, copy: Path) -> None:
    mark = plant(copy, model="evil_module:make")
    (copy / "finetuned.safetensors").write_bytes(b"other")
    refused("parity", "out", "--trust", words=("finetuned.safetensors", "is not what the stage"))
    assert not mark.exists()


def test_a_module_of_the_same_name_elsewhere_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from limpq_deploy.calibration.trust import NotTrusted, require_trusted, trust

    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "my_nets.py").write_text("")
    monkeypatch.chdir(tmp_path / "a")
    trust("my_nets:make", "digits", "torchvision/resnet18")
    require_trusted(("my_nets:make", "digits", "imagefolder:/data"), "config.json")
    monkeypatch.chdir(tmp_path / "b")
    with pytest.raises(NotTrusted, match="never named yourself"):
        require_trusted(("my_nets:make",), "config.json")
    assert "my_nets" not in sys.modules


def test_a_module_in_the_working_folder_does_not_stand_in_for_a_library(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("import os; os.abort()")
    (tmp_path / "indicators.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "limpq_deploy", "search", "indicators.json", "--like", "w4a4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[3],)))},
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("Error: indicators.json has format None")
