"""Tables of figures are those of the benchmarks' JSON."""

import json
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("module", "figures", "page"),
    [
        ("compiler", "compiler_x86.json", "compiler_x86.md"),
        ("rtx", "rtx.json", "rtx.md"),
        ("int4_blocks", "int4_blocks.json", "../docs/gpu.md"),
        ("rtx_prices", "rtx_prices.json", "rtx_prices.md"),
        ("fp8", "fp8_moved_mobilenet.json", "fp8.md"),
        ("fp8_trained", "fp8_trained.json", "fp8.md"),
        ("fp8_trained", "fp8_trained_mobilenet.json", "fp8.md"),
        ("zoo_page", "zoo.json", "zoo.md"),
        ("trained_nets", "trained_nets_x86_2cores.json", "trained_nets_x86_2cores.md"),
        ("ptq_previews", "ptq_previews_x86_2cores.json", "ptq_previews_x86_2cores.md"),
        ("judges_page", "judges_x86_2cores.json", "judges_x86_2cores.md"),
        ("learned_bits", "learned_bits_x86_2cores.json", "learned_bits_x86_2cores.md"),
        ("method_cost", "method_cost_x86_2cores.json", "method_cost_x86_2cores.md"),
        ("memory", "memory_x86_2cores.json", "memory_x86_2cores.md"),
        ("batches", "batches_x86_2cores.json", "memory_x86_2cores.md"),
        ("importance_variants_page", "importance_variants.json", "importance_variants_x86_2cores.md"),
    ],
)
def test_a_page_has_the_table_of_its_figures(
    module: str, figures: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    found = json.loads((FOLDER / figures).read_text(encoding="utf-8"))
    table = [line for line in import_module(module).page(found).splitlines() if line.startswith("|")]
    assert len(table) > 3
    told = (FOLDER / page).read_text(encoding="utf-8").splitlines()
    assert [line for line in table if line not in told] == []


def test_the_page_of_the_compiler_is_as_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    found = json.loads((FOLDER / "compiler_x86.json").read_text(encoding="utf-8"))
    assert import_module("compiler").page(found) == (FOLDER / "compiler_x86.md").read_text(encoding="utf-8")


def test_what_the_zoo_comes_to_is_as_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    text = (FOLDER / "zoo.md").read_text(encoding="utf-8")
    found = json.loads((FOLDER / "zoo.json").read_text(encoding="utf-8"))
    assert import_module("zoo_page").renewed(text, found) == text
    assert import_module("zoo_page").page(found) in text
