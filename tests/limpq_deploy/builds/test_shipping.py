"""What a build recommends, where it says so, and how another file is shipped."""

import json
from pathlib import Path

from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.calibration.records import load_record
from limpq_deploy.verdict.record import Verdict

from .conftest import Command, Result, limpq_deploy

NAMES = {"float", "int8", "uniform", "mixed"}


def test_a_build_holds_the_same_table_of_candidates_and_names_one_of_its_files(finished: Path) -> None:
    found = json.loads((finished / "verdict.json").read_text())
    table = {one["name"]: one for one in found["candidates"]}
    assert set(table) == NAMES
    for one in table.values():
        assert one["bytes"] == (finished / one["file"]).stat().st_size
        assert one["accuracy_low"] <= one["accuracy"] <= one["accuracy_high"]
        assert one["latency_ms"] > 0
        assert one["moved_bytes"] is None
        assert one["bitops_nominal"] <= one["bitops_realised"]
    assert table["int8"]["how"] == table["mixed"]["how"] == "trained"
    assert table["int8"]["parity"]["mismatches"] == table["mixed"]["parity"]["mismatches"] == 0
    recommendation = found["recommendation"]
    assert recommendation["candidate"] in NAMES
    assert (finished / recommendation["file"]).is_file()
    assert recommendation["why"]
    assert {one["candidate"] for one in recommendation["dominated"]} <= NAMES - {recommendation["candidate"]}


def test_closing_line_report_and_bundle_say_which_file_to_ship(finished: Path, first_result: Result) -> None:
    found = load_record(Verdict, finished / "verdict.json").recommendation
    assert found is not None
    last = " ".join(first_result.stdout.split("\n\n")[-1].split())
    assert f"hip {found.candidate} ({found.file})" in last
    page = (finished / "report.html").read_text()
    assert f'<h2 id="verdict-word">Ship {found.candidate}</h2>' in page
    assert ('<div class="verdict amber">' in page) == (not found.own_on_front)
    manifest = json.loads((finished / "bundle" / "manifest.json").read_text())
    assert manifest["verdict"]["recommendation"]["candidate"] == found.candidate


def test_another_candidate_is_shipped_by_its_name_and_one_that_is_not_there_is_refused(
    finished: Path, here: Path
) -> None:
    verdict = load_record(Verdict, finished / "verdict.json")
    for version, one in enumerate(verdict.candidates, start=1):
        done = limpq_deploy("ship", finished, "models", "--candidate", one.name, "--name", "net", "--keep", "9")
        assert done.exit_code == 0, done.output
        assert sha256_of(here / f"models/net/{version}/model.onnx") == sha256_of(finished / one.file)
    assert limpq_deploy("verify", "models/net").exit_code == 0
    refused = limpq_deploy("ship", finished, "models", "--candidate", "fp8")
    assert refused.exit_code == 1
    assert "--candidate fp8 is not in" in refused.stderr


def test_shipping_the_policy_tells_of_a_recommendation_that_is_another_file(finished: Path, here: Path) -> None:
    found = load_record(Verdict, finished / "verdict.json").recommendation
    assert found is not None
    done = limpq_deploy("ship", finished, "models")
    assert (f"--candidate {found.candidate} ships that" in done.stderr) == (not found.ships_own)


def test_the_objective_is_a_setting_of_the_verdict_alone(copy: Path, settings: Path, run: Command) -> None:
    again = run("build", "--config", settings, "--out", "out", "--objective", "size", "--json")
    assert again.exit_code == 0, again.output
    ran = {one["name"] for one in json.loads(again.stdout)["stages"] if one["ran"]}
    assert ran == {"verdict", "report", "bundle"}
    verdict = json.loads(again.stdout)["verdict"]
    assert verdict["recommendation"]["objective"] == "size"
