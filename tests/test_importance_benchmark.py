"""What the benchmarks of importance keep: figures of other settings are not taken for those that are asked for."""

import json
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
NETWORKS = ("mobilenet", "efficientnet", "convnext", "resnet20")
ASKED = {"model": "float_nets_made:resnet20", "joint_steps": 300, "start": "float", "steps": 300}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module


@pytest.mark.parametrize(("setting", "other"), [("model", "resnet20"), ("joint_steps", 10), ("steps", 10)])
def test_lines_of_other_settings_are_kept_apart(benchmark: Any, setting: str, other: str | int) -> None:
    importance = benchmark("importance")
    assert importance.of_settings(Namespace(**ASKED)) != importance.of_settings(Namespace(**ASKED | {setting: other}))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_page_has_the_table_of_the_committed_lines(benchmark: Any, network: str) -> None:
    importance = benchmark("importance")
    kept = (FOLDER / f"float_nets/{network}-lines.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [importance.Line(**json.loads(line)) for line in kept]
    table = list(importance.table(lines))
    assert len(table) == 2 + len({(line.budget, line.policy) for line in lines})
    told = (FOLDER / "importance_x86_2cores.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in table if line not in told] == []


@pytest.mark.parametrize("network", NETWORKS)
def test_the_page_of_importance_has_the_means_of_the_committed_lines(benchmark: Any, network: str) -> None:
    importance = benchmark("importance")
    kept = (FOLDER / f"float_nets/{network}-lines.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [importance.Line(**json.loads(line)) for line in kept]
    page = (FOLDER.parent / "docs/importance.md").read_text(encoding="utf-8")
    for row in list(importance.table(lines))[2:]:
        _, budget, policy, seeds, *_, test, gain, _ = (cell.strip() for cell in row.split("|"))
        if gain and int(seeds) == 3:
            said = f"{test.partition(' ')[0]} ({gain.replace(' (', ', ')}"
            assert said in page, (budget, policy)


def test_the_page_of_variants_has_what_a_quarter_of_the_weights_importance_changes(benchmark: Any) -> None:
    lines = {
        network: [
            json.loads(line)
            for kind in ("lines", "quarter")
            for line in (FOLDER / f"float_nets/{network}-{kind}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for network in NETWORKS
        if (FOLDER / f"float_nets/{network}-quarter.jsonl").exists()
    }
    table = list(benchmark("importance_variants_page").quarters(lines))
    assert len(table) > 2 + len(lines) > 4
    told = (FOLDER / "importance_variants_x86_2cores.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in table if line not in told] == []


def test_one_epoch_of_a_network_is_not_taken_for_all_of_them(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    float_nets = benchmark("float_nets")
    kept = {
        float_nets.folder("mobilenet", float_nets.Training(**length))
        for length in ({"float_epochs": 1}, {"float_epochs": 30}, {"float_steps": 2})
    }
    assert len(kept) == 3
    monkeypatch.setattr(sys, "argv", ["float_nets.py", "--quick", "--keep"])
    with pytest.raises(SystemExit):
        float_nets.main()
    assert "--keep is for the whole training" in capsys.readouterr().err
