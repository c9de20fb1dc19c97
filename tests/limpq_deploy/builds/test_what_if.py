"""Other budgets and answers of a finished build: records, the commands on its page, and a page of two builds."""

import itertools
import json
import re
import shlex
from pathlib import Path

import pytest

from limpq_deploy.calibration.records import load_record
from limpq_deploy.pipeline.config import load_config
from limpq_deploy.pipeline.stages.what_if import FEW, FEWEST_IMAGES, MANY, MOST_IMAGES, effort
from limpq_deploy.pipeline.stages.what_if_commands import commands_of
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.what_if import WhatIf
from limpq_deploy.verdict.answers import Answers
from limpq_deploy.verdict.record import Verdict

from .conftest import limpq_deploy


def test_every_point_is_previewed_within_its_interval_and_proved(finished: Path) -> None:
    found = load_record(WhatIf, finished / "what-if.json")
    assert len(found.points) >= 4
    assert (found.swept, found.figure, found.unit) == ("max_gbitops", "top-1", "%")
    for point in (*found.points, *found.uniform):
        assert point.preview is not None
        assert point.preview.low <= point.preview.value <= point.preview.high
    for point in found.points:
        assert point.solver is not None
        assert point.solver.status == "optimal"
    assert [one.bitops for one in found.points] == sorted(one.bitops for one in found.points)


def test_a_search_with_the_options_of_a_command_finds_the_points_bits(finished: Path, tmp_path: Path) -> None:
    found = load_record(WhatIf, finished / "what-if.json")
    commands = commands_of(found, load_config(finished / "config.json"))
    page = (finished / "report.html").read_text()
    for point in (found.points[1], found.uniform[-1]):
        words = shlex.split(commands[point.name])
        asked = dict(itertools.pairwise(words))
        names = ("--max-gbitops", "--like", "--importance", "--alpha", "--outliers", "--min-bits")
        options = [word for name in names if name in asked for word in (name, asked[name])]
        out = tmp_path / "policy.json"
        result = limpq_deploy("search", finished / "indicators.json", *options, "-o", out)
        assert result.exit_code == 0, result.output
        assert load_record(Policy, out).bits == point.bits
    assert all(f"--max-gbitops {point.settings['max_gbitops']}" in page for point in found.points)


def test_answers_count_what_the_accuracies_say(finished: Path) -> None:
    found = load_record(Answers, finished / "answers.json")
    verdict = load_record(Verdict, finished / "verdict.json")
    assert verdict.accuracy is not None
    for name, accuracy in (("float", verdict.accuracy.float), ("mixed", verdict.accuracy.mixed)):
        right = sum(one == other for one, other in zip(found.labels, found.predictions[name], strict=True))  # type: ignore[index]
        assert right == accuracy.correct  # type: ignore[union-attr]


def test_the_page_shows_every_part_of_a_build(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    for name in ("what-if", "prices", "answers", "training", "bits", "candidates"):
        assert f'<section id="{name}"' in page
    assert len(re.findall(r'<polyline points="[^"]+" class="curve', page)) >= 3


def test_a_report_of_one_build_is_its_page_and_of_two_sets_them_side_by_side(copy: Path, finished: Path) -> None:
    one = limpq_deploy("report", finished, "-o", "one.html", "--json")
    assert json.loads(one.stdout)["output"] == "one.html"
    assert Path("one.html").read_bytes() == (finished / "report.html").read_bytes()
    other = copy.rename(copy.with_name("other"))
    both = limpq_deploy("report", finished, other, "-o", "both.html")
    assert both.exit_code == 0, both.output
    page = Path("both.html").read_text()
    assert "2 builds side by side" in page
    assert 'class="mark front s1"' in page


def test_folders_that_are_no_builds_and_one_named_twice_are_refused(finished: Path, tmp_path: Path) -> None:
    for folders, words in (((tmp_path,), "has no config.json"), ((finished, finished), "named twice")):
        refused = limpq_deploy("report", *folders, "-o", tmp_path / "page.html")
        assert refused.exit_code == 1
        assert words in refused.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_changed_record_is_refused(copy: Path, finished: Path) -> None:
    (copy / "policy.json").write_text((copy / "policy.json").read_text().replace("objective", "objectivf", 1))
    refused = limpq_deploy("report", copy, finished, "-o", "page.html")
    assert refused.exit_code == 1
    assert "policy.json is not what the stage" in refused.stderr


@pytest.mark.parametrize(("macs", "points"), [(3 * 10**6, MANY), (41 * 10**6, MANY), (4 * 10**9, FEW)])
def test_larger_networks_get_fewer_images_then_fewer_points(macs: int, points: int) -> None:
    number, images = effort(macs)
    assert number == points
    assert FEWEST_IMAGES <= images <= MOST_IMAGES
    assert effort(2 * macs)[1] <= images
