"""The page: complete, self-contained, safe, deterministic."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from limpq_deploy.calibration.errors import OutputError, RecordError
from limpq_deploy.export.reference.given_comparison import GivenComparison
from limpq_deploy.policy.policy import BudgetUse, PolicyCandidate, Tournament
from limpq_deploy.report import ReportInputs, render_report, write_report
from limpq_deploy.report.costs import weight_sizes
from limpq_deploy.verdict.checks import judge
from limpq_deploy.verdict.record import Limits, Undecided


class Reader(HTMLParser):
    """Checks that tags close in order, and collects text, attributes and identifiers."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.pieces: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> at {self.getpos()} closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.pieces.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.pieces))


@pytest.fixture(scope="module")
def page(small: ReportInputs) -> str:
    return render_report(small)


def test_the_page_asks_for_nothing_from_outside_and_runs_no_script(page: str) -> None:
    for outside in ("http:", "https:", "url(", "src=", "@import", "<script", "<link", "<iframe", "javascript:"):
        assert outside not in page.lower()
    assert all(target.startswith("#") for target in Reader(page).values("href"))


def test_every_tag_is_closed_in_order_and_identifiers_are_unique(page: str) -> None:
    reader = Reader(page)
    identifiers = reader.values("id")
    assert len(set(identifiers)) == len(identifiers)
    assert {target[1:] for target in reader.values("href")} <= set(identifiers)


def test_every_picture_says_what_it_shows_and_every_table_has_a_caption_and_headers(page: str) -> None:
    reader = Reader(page)
    pictures = [label for tag, name, label in reader.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(pictures) > 15
    assert all(pictures)
    assert reader.tags.count("table") == reader.tags.count("caption") == reader.tags.count("thead")
    assert reader.tags.count("figure") == reader.tags.count("figcaption")


def test_the_verdict_stands_first_with_every_check_and_its_detail(small: ReportInputs, page: str) -> None:
    words = Reader(page).words
    assert words.index("Passed") < words.index("What was built")
    for check in small.verdict.checks:
        assert check.detail in words


def test_nominal_and_realised_bitops_are_both_given_in_exact_integers(small: ReportInputs, page: str) -> None:
    words = Reader(page).words
    for entry in small.verdict.bitops:
        assert f"{entry.nominal_all:,} {entry.realised_searched:,} {entry.realised_all:,}" in words
    assert small.verdict.bitops[0].nominal_all != small.verdict.bitops[0].realised_all


def test_accuracies_latencies_parity_and_sizes_are_the_numbers_given(small: ReportInputs, page: str) -> None:
    words = Reader(page).words
    assert "97.78 %" in words
    assert "3,520 of 3,600" in words
    assert small.latency is not None
    assert small.parity is not None
    for series in small.latency.series:
        assert f"{len(series.samples_ms):,}" in words
    assert f"{small.parity.elements:,} codes differ" in words
    assert "99.44 %" in words
    for size in weight_sizes(small):
        assert f"{size.num_bits:,}" in words
    assert small.command in words


def test_the_comparison_with_the_users_module_is_said_for_each_form(small: ReportInputs) -> None:
    assert small.parity is not None
    before = GivenComparison(
        images=8, differences={"placed graph": 2.4e-7}, not_compared={"float template": "nothing here can execute it"}
    )
    after = GivenComparison(images=16, differences={"exported float model": 3e-6})
    page = render_report(replace(small, parity=replace(small.parity, given=(before, after))))
    words = " ".join(Reader(page).words.split())
    assert "The graph that is trained, its quantizers off: 2e-07 of their size (0.0001 allowed), 8 images" in words
    assert "That graph as it is exported, with the first weights: not compared, nothing here can execute it" in words
    assert "The exported float model, with the last weights: 3e-06 of their size (0.0001 allowed), 16 images" in words


def test_equal_inputs_give_equal_bytes(small: ReportInputs, page: str) -> None:
    assert render_report(replace(small)) == page


def test_hostile_names_and_texts_stay_text(
    small_build: Callable[[Callable[[str], str]], ReportInputs], page: str
) -> None:
    evil = "\"><script>alert(1)</script><i x='"
    inputs = small_build(lambda name: f"{evil}{name}")
    inputs = replace(
        inputs,
        title=evil,
        command=evil,
        built={evil: evil},
        versions={evil: evil},
        files={evil: 1},
        class_names=(evil,) * 10,
        verdict=replace(inputs.verdict, notes=(evil,)),
    )
    hostile = render_report(inputs)
    assert "<script" not in hostile
    reader = Reader(hostile)
    assert reader.tags.count("i") == Reader(page).tags.count("i")
    assert f"{evil}layer1.0.conv1" in "".join(reader.pieces)


def test_a_page_shows_no_character_that_a_reader_obeys_and_cuts_long_texts(
    small_build: Callable[[Callable[[str], str]], ReportInputs],
) -> None:
    evil = "\x1b[2J\u202e\u2066\x9b"
    inputs = small_build(lambda name: f"{name}{evil}")
    inputs = replace(inputs, title=evil, command="c" * 300_000, built={evil: evil}, class_names=(evil,) * 10)
    hostile = render_report(inputs)
    assert not {one for one in hostile if not one.isprintable()} - {"\n"}
    assert "\\x1b[2J\\u202e" in hostile
    assert "c" * 3000 not in hostile


def test_what_was_not_measured_is_said_with_its_reason(small: ReportInputs) -> None:
    verdict = judge(
        model="resnet8",
        target="onnxruntime",
        budgets=small.verdict.budgets,
        bitops=small.verdict.bitops,
        limits=Limits(max_latency_ms=1.0),
        reasons={"latency": "the engine was not built", "parity": "no runtime here", "accuracy": "no images given"},
    )
    bare = replace(small, verdict=verdict, latency=None, parity=None, indicators=None, uniform=None)
    words = Reader(render_report(bare)).words
    assert "Incomplete" in words
    assert "Passed" not in words
    for reason in ("The engine was not built.", "No runtime here.", "No images given."):
        assert reason in words


def test_what_is_not_decided_stands_first_with_what_would_decide(small: ReportInputs) -> None:
    left = Undecided(name="accuracy_against_float", detail="not decided by these images", needs="about 2,000 images")
    checks = tuple(check for check in small.verdict.checks if check.name != left.name)
    verdict = replace(small.verdict, checks=checks, undecided=(left,), outcome="undecided", passed=False)
    page = render_report(replace(small, verdict=verdict))
    words = Reader(page).words
    assert "Not decided All 5 checks made passed, but 1 check is not decided." in words
    assert "not decided by these images; what would decide: about 2,000 images" in words
    assert page.index("mark not-decided") < page.index("mark passed")
    assert ".mark.not-decided" in page  # it has a colour of its own
    assert "Passed" not in words


def test_a_failed_check_makes_the_page_say_failed_and_stands_above_the_others(small: ReportInputs) -> None:
    over = BudgetUse(name="size", used=2_000_000, limit=1_000_000, unit="bits")
    verdict = judge(
        model="resnet8",
        target="onnxruntime",
        budgets=(*small.verdict.budgets, over),
        bitops=small.verdict.bitops,
        limits=Limits(),
        accuracy=small.verdict.accuracy,
        parity=small.verdict.parity,
        layer_parity=small.verdict.layer_parity,
        float_nodes=(),
        latency=small.latency,
    )
    words = Reader(render_report(replace(small, verdict=verdict))).words
    assert "Failed 1 of 7 checks failed." in words
    assert words.index("Weight size budget") < words.index("Integer parity")
    assert "ABOVE the limit" in words


def test_scales_that_hardly_moved_are_warned_of(small: ReportInputs) -> None:
    assert small.indicators is not None
    assert "hardly learned" not in Reader(render_report(small)).words
    still = tuple(
        replace(layer, act_init=tuple(value * 1.001 for value in layer.act)) for layer in small.indicators.layers
    )
    lazy = replace(small, indicators=replace(small.indicators, layers=still))
    assert "hardly learned" in Reader(render_report(lazy)).words


def test_a_policy_of_another_model_is_refused_with_the_layer_it_lacks(small: ReportInputs) -> None:
    bits = {name: bits for name, bits in small.policy.bits.items() if name != "layer2.0.conv1"}
    with pytest.raises(RecordError, match=r"'layer2\.0\.conv1' \(missing: 1 of 8 layers\)"):
        replace(small, policy=replace(small.policy, bits=bits))


def test_the_page_is_written_whole_or_not_at_all(small: ReportInputs, page: str, tmp_path: Path) -> None:
    path = tmp_path / "out" / "report.html"
    write_report(path, small)
    assert path.read_text(encoding="utf-8") == page
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(OutputError, match="cannot write"):
        write_report(path / "below" / "a.html", small)


def test_the_published_resnet50_policy_fits_on_the_page(resnet50: ReportInputs) -> None:
    page = render_report(resnet50)
    words = Reader(page).words
    assert len(page) < 1_000_000
    assert "Failed" in words
    for layer in resnet50.placement.layers:
        assert f" {layer.name} {layer.kind}" in words


def test_a_model_that_was_not_trained_is_not_said_to_have_learned(small: ReportInputs) -> None:
    words = Reader(render_report(replace(small, trained=False))).words
    assert "Ranges only, not trained: these scales are the sizes of tensors" in words
    assert "earned scales" not in words
    assert "jointly trained" not in words


def test_a_given_policy_is_not_said_to_have_been_searched(small: ReportInputs) -> None:
    words = Reader(render_report(replace(small, given="mine.json"))).words
    assert "It was given in mine.json; nothing was searched." in words
    assert "no other policy competed" not in words


def test_candidates_are_listed_with_their_previews_and_scales_of_another_measure_carry_no_crosses(
    small: ReportInputs,
) -> None:
    bits = small.policy.bits
    candidates = tuple(
        PolicyCandidate(name=name, bits=bits, top1=top1, loss=loss)
        for name, top1, loss in (("kl", 91.25, 0.31), ("uniform w4a4", 90.5, 0.42))
    )
    tournament = Tournament(
        candidates=candidates, chosen="kl", why="kl: preview loss 0.3100", images=1234, batchnorm_images=2000
    )
    page = render_report(replace(small, policy=replace(small.policy, importance="kl", tournament=tournament)))
    text = " ".join(Reader(page).pieces)
    for word in ("How the policy was chosen", "kl: preview loss 0.3100.", "uniform w4a4", "91.25 %", "0.4200", "1,234"):
        assert word in text, word
    assert "found by another measure (kl)" in text
    assert "A cross marks an entry" not in text
    alone = " ".join(Reader(render_report(small)).pieces)
    assert "no other policy competed" in alone


def test_powers_of_two_are_named_where_nothing_differs_from_the_images_on(small: ReportInputs, page: str) -> None:
    assert small.parity is not None
    equal = tuple(replace(part, mismatches=0, max_lsb=0) for part in small.parity.end_to_end)
    parity = replace(small.parity, end_to_end=equal, trained_logits_equal=True, scales="pow2")
    words = Reader(render_report(replace(small, parity=parity))).words
    assert "All scales are powers of two." in words
    codes = sum(part.elements for part in equal)
    assert f"0 of {codes:,} codes differ between the two from the images on".replace(",", "") in words.replace(",", "")
    assert "powers of two" not in Reader(page).words
