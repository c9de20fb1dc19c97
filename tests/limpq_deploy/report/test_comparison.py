"""Several builds on one page."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from limpq_deploy.report import ReportInputs
from limpq_deploy.report.comparison import ComparedBuild, render_comparison

from ..verdict.test_recommendation import candidate
from .test_report_page import Reader


def build_of(inputs: ReportInputs, name: str) -> ComparedBuild:
    return ComparedBuild(
        name=name,
        command=f"limpq-deploy build --out {name}",
        verdict=inputs.verdict,
        policy=inputs.policy,
        placement=inputs.placement,
        what_if=inputs.what_if,
    )


@pytest.fixture(scope="module")
def builds(whole: ReportInputs) -> tuple[ComparedBuild, ComparedBuild]:
    assert whole.what_if is not None
    other = replace(whole, policy=replace(whole.policy, bits=whole.what_if.points[0].bits))
    return build_of(whole, "first"), build_of(other, "second")


def test_the_page_asks_for_nothing_and_sets_facts_side_by_side(builds: tuple[ComparedBuild, ...]) -> None:
    page = render_comparison(builds)
    reader = Reader(page)
    assert "<script" not in page
    assert not reader.values("src")
    assert "default-src 'none'" in page
    for word in ("first", "second", "2 builds side by side", "--out second", "Mean bits of layers"):
        assert word in reader.words
    assert page == render_comparison(builds)


def test_fronts_of_all_builds_stand_in_one_picture_and_each_policy_in_its_own_colour(
    builds: tuple[ComparedBuild, ...],
) -> None:
    page = render_comparison(builds)
    assert builds[0].what_if is not None
    for series in (0, 1):
        assert page.count(f'class="mark front s{series}"') == 2 * len(builds[0].what_if.points)
        assert page.count(f'class="mark own s{series}"') == 2


def test_bytes_moved_are_told_with_their_batch(builds: tuple[ComparedBuild, ...]) -> None:
    file = candidate("int8", 90.0, 1, None, moved_bytes=5000, kernels=7)
    pair = [
        replace(build, verdict=replace(build.verdict, candidates=(replace(file, batch=batch),)))
        for build, batch in zip(builds, (1, 8), strict=True)
    ]
    words = Reader(render_comparison(pair)).words
    assert "5,000 bytes moved at batch 1, 7 kernels" in words
    assert "5,000 bytes moved at batch 8, 7 kernels" in words


def test_layers_with_other_bits_are_counted_and_marked(builds: tuple[ComparedBuild, ...]) -> None:
    one, two = (build.policy.pairs() for build in builds)
    differ = sum(one[name] != two[name] for name in one)
    reader = Reader(render_comparison(builds))
    assert f"{differ} of {len(builds[0].placement.layers)} layers have other bits" in reader.words


def test_figures_of_other_tasks_are_not_drawn_in_one_picture(builds: tuple[ComparedBuild, ...]) -> None:
    assert builds[1].what_if is not None
    other = replace(builds[1], what_if=replace(builds[1].what_if, figure="mIoU"))
    assert 'id="fronts"' not in render_comparison((builds[0], other))


def test_networks_of_other_layers_keep_their_own_tables(
    builds: tuple[ComparedBuild, ...], whole_build: Callable[[Callable[[str], str]], ReportInputs]
) -> None:
    other = build_of(whole_build(lambda name: f"net.{name}"), "other")
    assert "networks with other layers" in Reader(render_comparison((builds[0], other))).words


def test_hostile_names_stay_text(builds: tuple[ComparedBuild, ...]) -> None:
    hostile = "<script>alert(1)</script>"
    page = render_comparison((replace(builds[0], name=hostile, command=hostile), builds[1]))
    assert "<script" not in page
    assert hostile in Reader(page).words
