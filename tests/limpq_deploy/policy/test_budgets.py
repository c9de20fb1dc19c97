"""A budget is one field: in a copy of the program that has more of them, all else knows them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import limpq_deploy
from limpq_deploy.calibration.errors import RecordError, SettingError
from limpq_deploy.pipeline.config import Config, make_config
from limpq_deploy.policy.budgets import BUDGETS, COST_FILES, LIMITING, budgets_from_options
from limpq_deploy.policy.indicators import Indicators, LayerIndicators

COSTS = '''
"""Weights of more than 4 bits, and what a file says of each layer by the bits of its weights."""

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WideWeights:
    name: str = "wide_weights"
    unit: str = "weights"
    pinned: bool = False

    def of_layer(self, layer, weight_bits, act_bits):
        return layer.num_weights if weight_bits > 4 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    name: str
    unit: str
    told: dict
    pinned: bool = False

    def of_layer(self, layer, weight_bits, act_bits):
        return self.told[self.name][layer.name][str(weight_bits)]


def load(path):
    return json.loads(path.read_text())
'''

ROWS = """
    max_wide_weights: float | None = _setting(
        BudgetRow(
            metavar="N",
            help="Weights of more than 4 bits.",
            counts="wide_weights",
            make=lambda asked: asked.at_most(told_costs.WideWeights(), "wide weights"),
        )
    )
    told_table: Path | None = _setting(
        CostFile(metavar="FILE.json", help="What layers cost.", holds="what layers cost", load=told_costs.load)
    )
    max_told_mib: float | None = _setting(
        BudgetRow(
            metavar="M",
            help="Bytes moved, in MiB.",
            counts="moved",
            make=lambda asked: asked.at_most(
                told_costs.Told(name="moved", unit="bytes", told=asked.source), "MiB moved", 2**20
            ),
            source="told_table",
        )
    )
    max_told_kernels: float | None = _setting(
        BudgetRow(
            metavar="N",
            help="Kernels of the engine.",
            counts="kernels",
            make=lambda asked: asked.at_most(
                told_costs.Told(name="kernels", unit="kernels", told=asked.source), "kernels"
            ),
            source="told_table",
        )
    )
"""

LAYERS = {"a": 100, "b": 300, "c": 600}
INDICATORS = {
    "format": "limpq.indicators/1",
    "model": "three layers",
    "bits": [2, 4, 8],
    "layers": [
        {"name": name, "macs": 1000, "num_weights": count, "weight": [4.0, 2.0, 1.0], "act": [4.0, 2.0, 1.0]}
        for name, count in LAYERS.items()
    ],
}
TABLE = {
    "moved": {name: {"2": count << 10, "4": count << 11, "8": count << 12} for name, count in LAYERS.items()},
    "kernels": {name: {"2": 3, "4": 2, "8": 1} for name in LAYERS},
}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the program whose `BudgetSettings` has more fields, with indicators and a cost table."""
    folder = tmp_path_factory.mktemp("grown")
    package = Path(limpq_deploy.__file__).parent
    shutil.copytree(package, folder / "limpq_deploy", ignore=shutil.ignore_patterns("__pycache__"))
    rooms = folder / "limpq_deploy/policy"
    (rooms / "told_costs.py").write_text(COSTS)
    text = (rooms / "budgets.py").read_text()
    for place, more in (
        ("from limpq_deploy.policy.admitted ", "from limpq_deploy.policy import told_costs\n"),
        ("    latency_table: Path", ROWS),
    ):
        assert text.count(place) == 1
        text = text.replace(place, more + place)
    (rooms / "budgets.py").write_text(text)
    (folder / "indicators.json").write_text(json.dumps(INDICATORS))
    (folder / "costs.json").write_text(json.dumps(TABLE))
    return folder


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "limpq_deploy", *words)


@pytest.mark.parametrize("command", ["search", "sweep", "build"])
def test_a_new_budget_is_an_option_of_every_command_that_searches(grown: Path, command: str) -> None:
    told = run(grown, command, "--help")
    assert told.returncode == 0, told.stderr
    for line in (
        "--max-wide-weights N",
        "Weights of more than 4 bits.",
        "--told-table FILE.json",
        "--max-told-kernels N",
    ):
        assert line in told.stdout


def test_a_new_budget_is_kept_by_the_search_and_named_by_the_policy(grown: Path) -> None:
    found = run(grown, "search", "indicators.json", "--max-wide-weights", "400", "--json")
    assert found.returncode == 0, found.stderr
    policy = json.loads(found.stdout)
    assert [name for name in LAYERS if policy["bits"][name]["weight"] > 4] == ["a", "b"]
    [cost] = policy["costs"]
    assert cost == {"name": "wide_weights", "used": 400, "limit": 400, "unit": "weights"}
    for value, sentence in (("0", "--max-wide-weights is 0.0; expected a number above 0"), ("much", "--max-wide-wei")):
        refused = run(grown, "search", "indicators.json", "--max-wide-weights", value)
        assert refused.returncode in (1, 2)
        assert sentence in refused.stderr


def test_new_budgets_take_their_costs_from_one_file_of_another_setting(grown: Path) -> None:
    asked = ("search", "indicators.json", "--max-told-mib", "3", "--max-told-kernels", "4")
    found = run(grown, *asked, "--told-table", "costs.json", "--json")
    assert found.returncode == 0, found.stderr
    policy = json.loads(found.stdout)
    bits = {name: str(entry["weight"]) for name, entry in policy["bits"].items()}
    used = [sum(TABLE[name][layer][bits[layer]] for layer in LAYERS) for name in ("moved", "kernels")]
    assert [(cost["name"], cost["used"], cost["limit"]) for cost in policy["costs"]] == [
        ("moved", used[0], 3 << 20),
        ("kernels", used[1], 4),
    ]
    assert used[0] <= 3 << 20
    assert used[1] <= 4
    without = run(grown, *asked)
    assert without.returncode == 1
    assert "--max-told-mib needs what layers cost; give --told-table FILE.json" in without.stderr
    alone = run(grown, "search", "indicators.json", "--like", "w4a4", "--told-table", "costs.json")
    assert alone.returncode == 1
    assert "--told-table limits nothing by itself; give --max-told-mib or --max-told-kernels too" in alone.stderr
    hopeless = run(grown, "search", "indicators.json", "--max-told-kernels", "2", "--told-table", "costs.json")
    assert "--max-told-kernels 2.0 allows 2 kernels, and the smallest reachable is 3 kernels" in hopeless.stderr


BUILD = """
import json
from pathlib import Path
from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.pipeline.config import load_config, make_config, write_config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages.choose import SEARCHED_POLICY
from limpq_deploy.pipeline.stages.plan import plan_build

def refused(file, **options):
    try:
        plan_build(make_config(options, Path(file)))
    except LimpqError as error:
        return str(error)

config = make_config({}, Path("both.toml"))
write_config(config, Path("config.json"))
one, two = (
    SEARCHED_POLICY.inputs(Subject(make_config(more, Path("both.toml")))) for more in ({}, {"max_told_kernels": 5})
)
[search] = [stage for stage in plan_build(make_config({}, Path("one.toml"))) if stage.name == "search"]
print(json.dumps({
    "command": config.command_line(), "like": config.budget_like,
    "changed": [key for key in one if one[key] != two[key]],
    "table": one["told_table"], "kept": str(load_config(Path("config.json")).told_table),
    "settings": search.settings, "hopeless": refused("one.toml", min_bits=("*=5",)), "negative": refused("bad.toml"),
}))
"""


def test_a_new_budget_is_a_setting_of_a_build_and_of_its_search(grown: Path) -> None:
    (grown / "one.toml").write_text("max-wide-weights = 400\n")
    (grown / "both.toml").write_text('max-wide-weights = 400\ntold_table = "costs.json"\nmax_told_kernels = 4\n')
    (grown / "bad.toml").write_text("max-wide-weights = -1\n")
    done = python(grown, "-c", BUILD)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    command = "limpq-deploy build --max-wide-weights 400.0 --told-table costs.json --max-told-kernels 4.0"
    assert (told["command"], told["like"], told["changed"]) == (command, None, ["max_told_kernels"])
    assert told["table"] == hashlib.sha256((grown / "costs.json").read_bytes()).hexdigest()
    assert told["kept"] == str(grown / "costs.json")
    assert {"max_wide_weights", "told_table", "max_told_mib", "max_told_kernels"} <= set(told["settings"])
    assert "--max-wide-weights 400.0 allows 400 wide weights, and the smallest reachable is" in told["hopeless"]
    assert told["negative"].endswith("bad.toml: max_wide_weights is -1.0; expected a number above 0")


def test_a_new_budget_has_a_line_in_the_documentation(grown: Path) -> None:
    docs = Path(__file__).parents[3] / "docs"
    for name in ("renew_budgets.py", "formats.md"):
        shutil.copy(docs / name, grown)
    told = python(grown, "renew_budgets.py")
    assert told.returncode == 0, told.stderr
    page = (grown / "formats.md").read_text()
    assert "| `--max-wide-weights N` | `max_wide_weights` | `wide_weights` | Weights of more than 4 bits. |" in page
    assert "Kernels of the engine. Costs are read from `--told-table FILE.json`." in page


MODEL = Indicators(
    model="one", bits=(2, 4), layers=(LayerIndicators(name="a", macs=1, num_weights=1, weight=(2, 1), act=(2, 1)),)
)


def test_a_budget_says_what_its_file_is_for_and_a_file_what_it_is_for() -> None:
    with pytest.raises(SettingError, match=r"^--max-latency-ms needs the times of this model's layers; give --lat"):
        budgets_from_options(MODEL, max_latency_ms=1)
    with pytest.raises(SettingError, match=r"^--latency-table limits nothing by itself; give --max-latency-ms too$"):
        budgets_from_options(MODEL, like="w4a4", latency_table=Path("table.json"))
    with pytest.raises(SettingError, match=r"^--like and --max-gbitops both limit BitOps; give one of them$"):
        budgets_from_options(MODEL, like="w4a4", max_gbitops=1)
    with pytest.raises(TypeError, match="max_size"):
        budgets_from_options(MODEL, max_size=1)


def test_every_setting_of_a_budget_limits_a_build_but_the_one_that_it_measures() -> None:
    assert {*BUDGETS, *COST_FILES} - set(LIMITING) == {"max_latency_ms"}
    for name in LIMITING:
        value = Path("table.json") if name in COST_FILES else {"like": "w4a4"}.get(name, 1.0)
        assert make_config({name: value}).limited
        assert make_config({name: value}).asked_budgets[name] == value
    assert Config(max_latency_ms=1.0, like="w4a4").asked_budgets["max_latency_ms"] is None
    table = Config(max_latency_ms=1.0, latency_table=Path("table.json"))
    assert table.asked_budgets["max_latency_ms"] == 1.0


@pytest.mark.parametrize("name", [name for name in BUDGETS if name != "like"])
def test_a_limit_in_a_file_is_above_0(name: str, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(f"{name} = 0\n")
    with pytest.raises(RecordError, match=f"{name} is 0.0; expected a number above 0"):
        make_config({}, tmp_path / "settings.toml")
