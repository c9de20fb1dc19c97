"""A network priced by building: what its engines move, predicted."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")

from dataclasses import replace

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.timing import pricing
from limpq_deploy.export.timing.cost_table import CostTable
from limpq_deploy.export.timing.pricing import PricingSettings, pairs_of, predicted, price

EDGES = (("stem", "block1.conv1"), ("block1.conv1", "block1.conv2"), ("stem", "block1.conv2"))


def test_engines_are_predicted_and_kept_and_a_run_that_was_stopped_goes_on(
    searched_net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path / "cache"))
    template, placement = searched_net
    placement = replace(placement, target="tensorrt_rtx")
    names = {layer.name for layer in placement.layers}
    edges = [edge for edge in EDGES if names.issuperset(edge)]
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
    monkeypatch.setattr(pricing, "compile_model", lambda *a, **k: (asked.append(1), compile_model(*a, **k))[1])
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


def test_what_is_priced_is_what_runs_the_bits_asked_for_and_all_native_pairs_up_to_16_bits(searched_net: Any) -> None:
    placement = replace(searched_net[1], target="tensorrt_rtx")
    native = {pair for pair in placement.spec.native_pairs if max(pair) <= 16}
    assert set(pairs_of(placement, [(8, 8)])) == native
    assert set(pairs_of(placement, [(4, 4), (8, 8)])) == native | {(8, 7)}
    assert set(pairs_of(placement, [(8, 8), (32, 32)])) == native | {(32, 32)}
