"""The page of a build that was finished on another machine: what travelled stands there, and whose it is."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="needs the extra limpq-deploy[serve]")

from limpq_deploy.export.ship.manifest import MANIFEST
from limpq_deploy.pipeline.config import load_config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.handed_over import HandedOver
from limpq_deploy.pipeline.stages.handover import carried_files

Command = Callable[..., Any]


def test_the_page_shows_what_the_machine_that_trained_found_and_says_so(
    built: Path, bundle: Path, gpu: None, run: Command, here: Path
) -> None:
    assert run("finish", bundle).exit_code == 0
    there, page = (built / "report.html").read_text(), (here / "limpq-finish/report.html").read_text()
    for name in ("what-if", "prices", "answers"):
        assert _section(there, name)
        assert f'href="#{name}"' in page
    points = re.findall(r'<details class="point".*?</details>', page, re.DOTALL)
    assert points == re.findall(r'<details class="point".*?</details>', there, re.DOTALL)  # figures and commands
    assert len(points) >= 3
    assert str(built) in points[0]
    assert _section(page, "prices") == _section(there, "prices")
    matrix = re.findall(r'<svg class="confusion".*?</svg>', page, re.DOTALL)
    assert matrix == re.findall(r'<svg class="confusion".*?</svg>', there, re.DOTALL) != []
    said = " ".join(page.split())
    assert "The engine that was built here ran none of these policies but its own" in said
    assert "its own answers to them are not known" in said
    assert "On the machine that trained; then" in said
    assert page.count("<pre") == there.count("<pre")
    assert not [name for name in ("what-if.json", "answers.json") if not (here / "limpq-finish" / name).is_file()]


def test_losses_travel_and_those_of_earlier_builds_in_the_folder_do_not(bundle: Path, built: Path) -> None:
    assert {path.name for path in (built / "training").iterdir()} > {"float.jsonl", "finetune.jsonl"}
    assert [path.name for path in (bundle / "build/training").iterdir()] == ["float.jsonl"]  # nothing else was trained
    for page in (built / "report.html", bundle / "report.html"):
        assert "Fine-tuning of the policy" not in page.read_text()
        assert "Float model" in page.read_text()


def test_of_a_bundle_that_carries_neither_front_nor_answers_the_page_says_so(
    bundle: Path, gpu: None, run: Command, here: Path
) -> None:
    """As bundles of earlier versions are."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    absent = ("build/what-if.json", "build/answers.json", "build/training/float.jsonl")
    manifest["files"] = [file for file in manifest["files"] if file["name"] not in absent]
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    for name in absent:
        (bundle / name).unlink()
    done = run("finish", bundle)
    assert done.exit_code == 0, done.output
    page = " ".join((here / "limpq-finish/report.html").read_text().split())
    assert "The bundle carries no front" in page
    assert "The bundle carries no answers" in page
    assert "<script" not in page


def test_a_table_of_costs_travels_and_commands_are_those_of_the_machine_that_trained(
    built: Path, bundle: Path, tmp_path: Path
) -> None:
    asked = replace(load_config(built / "config.json"), cost_table=tmp_path / "prices.json")
    carried = carried_files(Subject(asked), built)
    assert carried["build/cost-table.json"] == tmp_path / "prices.json"
    config = carried["build/config.json"]
    assert isinstance(config, bytes)
    (bundle / "build/config.json").write_bytes(config)
    without = HandedOver(bundle / "build")
    assert without.config.cost_table is None  # there is no file of that name here
    (bundle / "build/cost-table.json").write_text("{}")
    subject = HandedOver(bundle / "build")
    assert subject.config.cost_table == bundle / "build/cost-table.json"
    assert subject.asked == asked
    assert str(built) in subject.asked.command_line()


def test_records_of_another_model_are_refused(bundle: Path, gpu: None, refused: Command) -> None:
    text = (bundle / "build/what-if.json").read_text()
    name = next(iter(json.loads(text)["points"][0]["bits"]))
    (bundle / "build/what-if.json").write_text(text.replace(f'"{name}"', '"another"'))
    manifest = json.loads((bundle / MANIFEST).read_text())
    for file in manifest["files"]:
        data = (bundle / file["name"]).read_bytes()
        file |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    refused("finish", bundle, words=("among what other budgets give has no entry for layer",))


def _section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    return found[0] if found is not None else ""
