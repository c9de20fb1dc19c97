"""Commands around the search, run for real on the published indicators."""

import json
import pickle
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.cli.main import main
from limpq_deploy.policy.front import uniform_points
from limpq_deploy.policy.indicators import Indicators, LayerIndicators

GOLDEN = Path(__file__).parents[3] / "golden"
INDICATORS = str(GOLDEN / "resnet50_official_macs.indicators.json")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("policy") / "policy.json"
    found = run("search", INDICATORS, "--like", "w3a4", "--compression-ratio", "12.2", "-o", file)
    assert found.exit_code == 0, found.output
    return file


def test_a_sweep_writes_every_budget_with_its_bound_and_draws_it(tmp_path: Path) -> None:
    front, picture = tmp_path / "front.json", tmp_path / "front.svg"
    found = run("sweep", INDICATORS, "--gbitops", "20:60:5", "-o", front, "--picture", picture, "--json")
    assert found.exit_code == 0, found.output
    written = json.loads(front.read_text())
    assert json.loads(found.stdout) == written
    assert written["format"] == "limpq.front/1"
    assert [point["gbitops_limit"] for point in written["infeasible"]] == [20.0]
    assert [point["gbitops_limit"] for point in written["points"]] == [30.0, 40.0, 50.0, 60.0]
    for point in written["points"]:
        assert point["solver"]["status"] == "optimal"
        assert point["solver"]["bound"] <= point["policy"]["objective"]
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(("across", "title"), [("bitops", "G BitOps"), ("size", "MiB of weights")])
def test_a_picture_has_the_cost_asked_for_across(tmp_path: Path, across: str, title: str) -> None:
    picture = tmp_path / "front.svg"
    found = run(
        *("sweep", INDICATORS, "--gbitops", "40:80:3", "--x", across, "--picture", picture),
        *("-o", tmp_path / "front.json"),
    )
    assert found.exit_code == 0, found.output
    assert title in picture.read_text()
    dots = picture.read_text().count("no policy below")
    uniform = [one for one in uniform_points(load_record(Indicators, Path(INDICATORS))) if 40e9 <= one.bitops <= 80e9]
    limits = {one.bitops for one in uniform} | {40 * 10**9, 60 * 10**9, 80 * 10**9}
    assert dots == len(limits)  # three budgets, and the best policy beside each uniform one


def test_costs_that_are_not_known_are_refused_with_what_would_tell_them(tmp_path: Path) -> None:
    common = ("sweep", INDICATORS, "--gbitops", "40:80:3", "--picture", tmp_path / "p.svg", "-o", tmp_path / "f.json")
    for across, words in (("latency", "--latency-table"), ("bytes", "learn them again")):
        refused = run(*common, "--x", across)
        assert refused.exit_code == 1
        assert words in refused.output


def test_all_supported_points_need_no_budgets_and_admit_none(tmp_path: Path) -> None:
    found = run("sweep", INDICATORS, "--all", "-o", tmp_path / "front.json", "--json")
    assert found.exit_code == 0, found.output
    points = json.loads(found.stdout)["points"]
    assert len(points) > 200
    assert all(point["solver"]["gap"] < 1e-9 for point in points)
    refused = run("sweep", INDICATORS, "--all", "--max-mib", "5", "-o", tmp_path / "other.json")
    assert refused.exit_code == 1
    assert run("sweep", INDICATORS).exit_code == 1
    solved = run("sweep", INDICATORS, "--all", "--solver", "cbc", "-o", tmp_path / "other.json")
    assert solved.exit_code == 1
    assert "asks no solver" in solved.output


def test_a_sweep_names_the_solver_that_it_was_told_to_ask(tmp_path: Path) -> None:
    front = tmp_path / "front.json"
    found = run("sweep", INDICATORS, "--gbitops", "40:50:2", "--solver", "cbc", "-o", front)
    assert found.exit_code == 0, found.output
    points = json.loads(front.read_text())["points"]
    assert all(point["solver"]["name"].startswith("CBC") for point in points)
    assert all(point["solver"]["status"] == "optimal" for point in points)


@pytest.mark.parametrize("option", [("--like", "w4a4"), ("--max-gbitops", "30")])
def test_a_sweep_refuses_a_second_limit_on_bitops(option: tuple[str, str], tmp_path: Path) -> None:
    found = run("sweep", INDICATORS, "--gbitops", "20:60:5", *option, "-o", tmp_path / "front.json")
    assert found.exit_code == 1
    assert "--gbitops already limits BitOps" in found.output
    assert not (tmp_path / "front.json").exists()


def test_a_policy_goes_to_a_table_and_comes_back_the_same(policy: Path, tmp_path: Path) -> None:
    csv, again = tmp_path / "policy.csv", tmp_path / "again.json"
    assert run("table", policy, "--indicators", INDICATORS, "-o", csv).exit_code == 0
    assert run("table", csv, "--indicators", INDICATORS, "-o", again).exit_code == 0
    first, second = json.loads(policy.read_text()), json.loads(again.read_text())
    assert second["bits"] == first["bits"]
    assert second["objective"] == pytest.approx(first["objective"], rel=1e-12)


def test_a_policy_is_shown_as_a_table_without_a_file_and_without_indicators(policy: Path) -> None:
    bare = run("table", policy)
    assert bare.exit_code == 0, bare.output
    assert re.search(r"^layer1\.0\.conv1 +w\da\d", bare.stdout, re.MULTILINE)
    full = run("table", policy, "--indicators", INDICATORS)
    assert re.search(r"^layer1\.0\.conv1 +w\da\d +[\d,]+ +[\d,]+ +[\d.]+ %", full.stdout, re.MULTILINE)
    assert "conv1*" in full.stdout
    assert len(json.loads(run("table", policy, "--json").stdout)["layers"]) == len(
        json.loads(policy.read_text())["bits"]
    )


def test_a_table_needs_the_layers_that_it_is_checked_against(policy: Path, tmp_path: Path) -> None:
    csv = tmp_path / "policy.csv"
    run("table", policy, "--indicators", INDICATORS, "-o", csv)
    refused = run("table", csv)
    assert refused.exit_code == 2
    assert "give --indicators" in refused.output
    shown = run("table", csv, "--indicators", INDICATORS)
    assert "share of BitOps" in shown.stdout


def test_a_difference_names_the_layers(policy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    assert run("search", INDICATORS, "--like", "w3a3", "-o", other).exit_code == 0
    found = run("diff", policy, other, "--indicators", INDICATORS, "--json")
    assert found.exit_code == 0, found.output
    assert "layer1.0.conv1" in {layer["name"] for layer in json.loads(found.stdout)["layers"]}
    same = run("diff", policy, policy, "--json")
    assert json.loads(same.stdout)["layers"] == []


@pytest.mark.parametrize("objective", ["NaN", "-Infinity", "1e999"])
def test_an_objective_that_is_no_number_is_refused(policy: Path, tmp_path: Path, objective: str) -> None:
    text, count = re.subn(r'"objective": [^,]+', f'"objective": {objective}', policy.read_text())
    assert count == 1
    (tmp_path / "odd.json").write_text(text)
    found = run("diff", policy, tmp_path / "odd.json", "--json")
    assert found.exit_code == 1
    assert "odd.json is not valid JSON" in found.stderr


def test_uniform_8_bits_can_be_compared_and_made_a_table(policy: Path, tmp_path: Path) -> None:
    csv, wide = tmp_path / "policy.csv", tmp_path / "w8a8.csv"
    assert run("table", policy, "--indicators", INDICATORS, "-o", csv).exit_code == 0
    header, *lines = csv.read_text().splitlines()
    bare = [",".join((line.split(",")[0], "8", "8")) for line in lines]
    wide.write_text("\n".join((",".join(header.split(",")[:3]), *bare)))
    made = run("table", wide, "--indicators", INDICATORS, "-o", tmp_path / "w8a8.json")
    assert made.exit_code == 0, made.output
    assert "no importance was learned at 8 bits" in made.output
    found = run("diff", policy, tmp_path / "w8a8.json", "--indicators", INDICATORS)
    assert found.exit_code == 0, found.output
    assert "objectives are estimates" in found.output
    assert run("table", tmp_path / "w8a8.json", "--indicators", INDICATORS, "-o", wide).exit_code == 0


def test_a_search_explains_what_one_more_bit_buys_and_why_nothing_fits(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    found = run("search", INDICATORS, "--like", "w4a4", "--explain", "--json", "-o", file)
    assert found.exit_code == 0, found.output
    explanation = json.loads(found.stdout)["explanation"]
    assert explanation["budgets"][0]["shadow_price"] > 0
    assert "explanation" not in json.loads(file.read_text())
    refused = run("search", INDICATORS, "--like", "w2a2", "--compression-ratio", "30", "--explain", "-o", file)
    assert refused.exit_code == 1
    assert "cannot be met, even alone" in refused.output


def test_a_budget_that_limits_nothing_is_told(tmp_path: Path) -> None:
    layers = [
        LayerIndicators(name=name, macs=100, num_weights=10, weight=(0.4, 0.2, 0.1), act=(0.8, 0.4, 0.2))
        for name in "ab"
    ]
    file = tmp_path / "indicators.json"
    write_record(Indicators(model="two", bits=(2, 4, 6), layers=tuple(layers)), file)
    assert "The budget limits nothing" in run("search", file, "--max-mib", "1", "-o", tmp_path / "p.json").output
    assert "The budget limits nothing" not in run("search", file, "--like", "w4a4", "-o", tmp_path / "p.json").output


def test_bits_that_no_layer_can_have_are_refused_where_they_would_limit_nothing(tmp_path: Path) -> None:
    layers = [LayerIndicators(name="a", macs=100, num_weights=10, weight=(0.4, 0.2, 0.1), act=(0.8, 0.4, 0.2))]
    file = tmp_path / "indicators.json"
    write_record(Indicators(model="one", bits=(2, 4, 6), layers=tuple(layers)), file)
    for like in ("w9a9", "w8a8", "w6a8"):
        found = run("search", file, "--like", like, "-o", tmp_path / "p.json")
        assert found.exit_code == 1
        assert f"--like {like} asks for the BitOps of bits that no layer can have" in found.output
        assert "the candidates are 2, 4, 6; ask for w6a6 or less" in found.output
    for like in ("w6a6", "w8a4", "w3a3"):  # what they limit can be reached, or has these bits
        assert run("search", file, "--like", like, "-o", tmp_path / "p.json").exit_code == 0


def test_every_solver_gives_the_published_objective(tmp_path: Path) -> None:
    for solver in ("own", "cbc"):
        words = ("--like", "w3a4", "--compression-ratio", "12.2", "--solver", solver)
        found = run("search", INDICATORS, *words, "-o", tmp_path / "p.json", "--json")
        assert json.loads(found.stdout)["objective"] == pytest.approx(4.61743923, abs=1e-8)


def test_a_pickle_that_names_code_is_refused_before_anything_runs(tmp_path: Path) -> None:
    file = tmp_path / "indicators.pkl"
    file.write_bytes(pickle.dumps({"weight": print}))
    found = run("import", file, "-o", tmp_path / "indicators.json")
    assert found.exit_code == 1
    assert "print" in found.output
    assert not (tmp_path / "indicators.json").exists()
