"""A network priced by building: what its engines move, predicted."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")

from dataclasses import replace

import onnx
from click.testing import CliRunner
from onnx import helper

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.cli.main import main
from limpq_deploy.cli.output.prices import price_table
from limpq_deploy.export.graph.markers import MARKERS_KEY, markers_text
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.timing import pricing
from limpq_deploy.export.timing.cost_table import CostTable, Moved
from limpq_deploy.export.timing.predictions import built_of, predicted
from limpq_deploy.export.timing.pricing import PricingSettings, pairs_of, price
from limpq_deploy.policy.indicators import Indicators, LayerEdge, LayerIndicators, PinnedLayer
from limpq_deploy.policy.policy import Policy

EDGES = (("stem", "block1.conv1"), ("block1.conv1", "block1.conv2"), ("stem", "block1.conv2"))

Priced = tuple[onnx.ModelProto, Placement, list[tuple[str, str]]]


@pytest.fixture
def net(searched_net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Priced:
    """Template, placement on TensorRT-RTX and edges of a net that is to be priced; engines are kept in a cache of its
    own."""
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path / "cache"))
    template, placement = searched_net
    names = {layer.name for layer in placement.layers}
    return template, replace(placement, target="tensorrt_rtx"), [edge for edge in EDGES if names.issuperset(edge)]


def test_engines_are_predicted_and_kept_and_a_run_that_was_stopped_goes_on(
    net: Priced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, placement, edges = net
    settings = PricingSettings(batch=2, graphs=3)
    built: list[str] = []

    def report(done: int, total: int, note: str) -> None:
        if len(built) == 3:
            raise KeyboardInterrupt
        built.append(note)

    pairs = ((8, 8), (16, 16))
    with pytest.raises(KeyboardInterrupt):
        price(template, placement, edges, pairs, settings, model_sha256="", report=report)
    kept = set((tmp_path / "cache" / "priced").iterdir())
    assert len(kept) >= 2
    compile_model, asked = pricing.compile_model, []

    def counted(*arguments: Any, **named: Any) -> Any:
        asked.append(arguments)
        return compile_model(*arguments, **named)

    monkeypatch.setattr(pricing, "compile_model", counted)
    table = price(template, placement, edges, pairs, settings, model_sha256="", report=lambda *a: None)
    assert len(asked) == len(set((tmp_path / "cache" / "priced").iterdir())) - len(kept)
    write_record(table, tmp_path / "table.json")
    assert load_record(CostTable, tmp_path / "table.json") == table
    for pair in pairs:  # what is wholly at one precision is known
        policy = {layer.name: pair for layer in placement.searched}
        moved = pricing.built_moved(template, placement, policy, settings)
        assert predicted(table, policy).bytes == pytest.approx(sum(one.bytes for one in moved.values()), rel=1e-3)
    assert table.compiler.startswith("TensorRT-RTX")
    assert (table.batch, table.capabilities) == (2, ("sm89",))


def test_what_is_priced_is_what_runs_the_bits_asked_for_and_all_native_pairs_up_to_16_bits(net: Priced) -> None:
    placement = net[1]
    native = {pair for pair in placement.spec.native_pairs if max(pair) <= 16}
    assert set(pairs_of(placement, [(8, 8)])) == native
    assert set(pairs_of(placement, [(4, 4), (8, 8)])) == native | {(8, 7)}
    assert set(pairs_of(placement, [(8, 8), (32, 32)])) == native | {(32, 32)}


def test_fp8_has_prices_of_its_own_where_all_gpus_execute_it_and_none_elsewhere(
    net: Priced,
) -> None:
    template, placement, edges = net
    priced, said = {}, list[str]()
    for gpus in (("sm89",), ("sm86", "sm89")):
        settings = PricingSettings(gpus=gpus, graphs=1)
        pairs = ((8, 8), (FP8, FP8), (16, 16))
        table = price(
            template, placement, edges, pairs, settings, model_sha256="", report=lambda *found: said.append(found[-1])
        )
        priced[gpus] = {(part.weight_bits, part.act_bits) for part in table.parts if part.layer == "block1.conv1"}
        if gpus == ("sm89",):
            policy = {layer.name: (FP8, FP8) for layer in placement.searched}
            built = pricing.built_moved(template, placement, policy, settings)
            assert predicted(table, policy).bytes == pytest.approx(sum(one.bytes for one in built.values()), rel=1e-3)
            assert price_table(table).split()[4:7] == ["w8a8", "fp8", "w16a16"]
    assert list(priced.values()) == [{(8, 8), (FP8, FP8), (16, 16)}, {(8, 8), (16, 16)}]
    assert "fp8" in said


def test_a_policy_is_built_with_others_around_it_and_given_again(net: Priced) -> None:
    template, placement, edges = net
    settings, pairs = PricingSettings(batch=2, graphs=3), ((8, 8), (16, 16))
    names = [layer.name for layer in placement.searched]
    policy = dict.fromkeys(names, (8, 8)) | {names[0]: (16, 16)}

    def priced(*near: dict[str, tuple[int, int]]) -> CostTable:
        return price(
            template, placement, edges, pairs, settings, model_sha256="", report=lambda *found: None, near=near
        )

    table, mended = priced(), priced({**policy, names[-1]: (4, 4)})  # of 4 bits: they run at 8
    own, *others = mended.near
    assert own.pairs == policy
    assert own.built == sum(pricing.built_moved(template, placement, policy, settings).values(), Moved())
    assert [sum(one.pairs[name] != policy[name] for name in names) for one in others] == [1] * len(others)
    for one in mended.near:
        without = predicted(table, one.pairs).bytes  # of a net this small, a mixed engine may be one of these
        assert one.predicted.bytes == pytest.approx(without, rel=0.01)
        assert predicted(mended, one.pairs).bytes == pytest.approx(one.built.bytes, rel=0.01)  # as nearly as pairs can
    assert built_of(mended, policy) == own
    assert built_of(table, {**policy, names[0]: (8, 8)}) is None
    with pytest.raises(SettingError, match=f"gives layer '{names[0]}' w32a32, and priced are w8a8, w16a16"):
        priced({**policy, names[0]: (32, 32)})
    with pytest.raises(SettingError, match=f"gives layer '{names[0]}' no bits"):
        priced({})


def test_the_command_prices_a_build_and_the_search_keeps_to_its_bytes(net: Priced, tmp_path: Path) -> None:
    template, placement, edges = net
    float_model = strip_markers(template)
    helper.set_model_props(float_model, {MARKERS_KEY: markers_text(template)})
    build = tmp_path / "build"
    (build / "baselines").mkdir(parents=True)
    (build / "baselines/float.onnx").write_bytes(float_model.SerializeToString())
    write_record(placement, build / "placement.json")
    indicators = Indicators(
        model=placement.model,
        bits=(8, 16),
        layers=tuple(
            LayerIndicators(
                name=one.name, macs=one.macs, num_weights=one.num_weights, weight=(1.0, 0.0), act=(1.0, 0.0),
                pairs=((8, 8), (16, 16)),
            )
            for one in placement.searched
        ),
        pinned=tuple(
            PinnedLayer(name=one.name, macs=one.macs, num_weights=one.num_weights, weight_bits=8, act_bits=8)
            for one in placement.pinned
        ),
        edges=tuple(LayerEdge(producer=one, consumer=other, elements=8) for one, other in edges),
    )  # fmt: skip
    write_record(indicators, build / "indicators.json")
    file = tmp_path / "moved.json"
    words = ["profile", str(build), "--runtime", "tensorrt_rtx", "--batch", "2", "--graphs", "2", "-o", str(file)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "batch 2; planned, not run" in done.stdout
    assert "bound in ms, no latency" in done.stdout
    assert "fp8: for the bounds alone, as no policy of this build takes it" in done.stdout
    table = load_record(CostTable, file)
    assert {(one.weight_bits, one.act_bits) for one in table.bounds} == {(FP8, FP8)}
    assert all(FP8 not in (one.weight_bits, one.act_bits) for one in table.parts)
    assert len(list((tmp_path / "cache" / "priced").iterdir())) <= 2 + 2 + 1  # uniform, mixed, and one for the bounds
    done = CliRunner().invoke(main, [*words, "--gpus", "sm86,sm89"])
    assert done.exit_code == 0, done.output
    priced = load_record(CostTable, file)
    assert (priced.capabilities, priced.bounds) == (("sm86", "sm89"), ())
    most = max(predicted(table, {one.name: pair for one in placement.searched}).bytes for pair in ((8, 8), (16, 16)))
    search = ["search", str(build / "indicators.json"), "--cost-table", str(file), "-o", str(tmp_path / "policy.json")]
    done = CliRunner().invoke(main, [*search, "--max-moved-mib", str(1.5 * most / 2**20), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["costs"][0]["name"] == "moved"
    found = load_record(Policy, tmp_path / "policy.json")
    assert priced.groups
    assert found.costs[0].used == predicted(priced, found.pairs()).bytes
    done = CliRunner().invoke(main, [*words, "--gpus", "sm86,sm89", "--near", str(tmp_path / "policy.json")])
    assert done.exit_code == 0, done.output
    assert "given with --near and of some around them, predicted by a table made without them" in done.stdout
    table = load_record(CostTable, file)
    assert table.near[0].pairs == found.pairs()
    done = CliRunner().invoke(main, [*search, "--max-moved-mib", str(1.5 * most / 2**20)])
    assert done.exit_code == 0, done.output
    again = load_record(Policy, tmp_path / "policy.json")
    assert ("an engine of this policy was built" in done.stdout) == (built_of(table, again.pairs()) is not None)
    done = CliRunner().invoke(main, [*search, "--max-moved-mib", "0.0001"])
    assert (done.exit_code, "the smallest reachable is" in done.output) == (1, True), done.output
    done = CliRunner().invoke(main, [*search[:2], "--max-kernels", "3"])
    assert (done.exit_code, "give --cost-table FILE.json" in done.output) == (1, True), done.output
