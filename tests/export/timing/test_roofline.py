"""The least time that bytes and operations leave to an engine, by published peaks."""

from dataclasses import replace

import pytest

from limpq_deploy.export.timing.cost_table import CostTable, Moved, PartCost
from limpq_deploy.export.timing.gpu_peaks import GPUS
from limpq_deploy.export.timing.roofline import expectations, floors

PAIRS = {"int8": (8, 8), "fp16": (16, 16)}


def table(int8: tuple[float, float], fp16: tuple[float, float], macs: int = 0) -> CostTable:
    """Two layers that move so many bytes in each format, for one call of 4 images."""
    sizes = {"int8": int8, "fp16": fp16}
    return CostTable(
        model="net",
        target="tensorrt_rtx",
        compiler="TensorRT-RTX 1.7",
        capabilities=("sm89",),
        batch=4,
        network="",
        model_sha256="",
        units={"a": "a", "b": "b"},
        macs={"a": macs, "b": macs},
        parts=tuple(
            PartCost(layer=layer, weight_bits=pair[0], act_bits=pair[1], moved=Moved(activations=sizes[name][at]))
            for name, pair in PAIRS.items()
            for at, layer in enumerate("ab")
        ),
    )


def test_a_layer_takes_as_long_as_its_bytes_or_its_operations_take_at_least() -> None:
    gpu = GPUS["RTX 4090"]
    found = floors(table((1008e6, 0), (504e6, 504e6), macs=10**9), gpu)
    ops_ms = 2 * 4 * 1e9 / 660.6e12 * 1e3
    assert found["int8"].floor_ms == pytest.approx(1.0 + ops_ms)
    assert found["int8"].compute_ms == pytest.approx(2 * ops_ms)
    assert found["fp16"].floor_ms == pytest.approx(1.0)  # 0.5 ms of memory each, above 0.024 of operations


def test_what_moves_more_than_fp16_is_not_expected_to_pay_and_the_layers_are_named() -> None:
    [word] = expectations(table((900e6, 100e6), (400e6, 300e6)), GPUS["L4"])
    assert (word.format, word.pays, word.eaters) == ("int8", False, ("a",))
    assert "int8 is not expected to pay on L4 at batch 4" in word.why
    assert "take fp16" in word.why
    assert "what eats the gain: a" in word.why


def test_what_moves_less_or_computes_more_than_memory_lets_through_may_pay() -> None:
    [word] = expectations(table((100e6, 100e6), (300e6, 300e6)), GPUS["H100"])
    assert word.pays
    [word] = expectations(table((1e6, 1e6), (1e6, 1e6), macs=10**11), GPUS["A10"])
    assert word.pays


def test_every_gpu_names_its_source_and_only_newer_ones_have_fp8() -> None:
    assert set(GPUS) >= {"RTX 3090", "RTX 4090", "RTX 5090", "A10", "L4", "A100", "H100", "H200", "Jetson AGX Orin"}
    for gpu in GPUS.values():
        assert gpu.source
        assert gpu.rates["int8"] == pytest.approx(2 * gpu.rates["fp16"], rel=0.01)
    assert {name for name, gpu in GPUS.items() if "fp8" not in gpu.rates} == {
        "RTX 3090", "A10", "A100", "Jetson AGX Orin"
    }  # fmt: skip


def test_a_format_that_no_policy_takes_has_its_bound_beside_the_others() -> None:
    plain = table((100e6, 100e6), (300e6, 300e6))
    fp8 = tuple(PartCost(layer=one, weight_bits=9, act_bits=9, moved=Moved(activations=50e6)) for one in "ab")
    found = floors(replace(plain, bounds=fp8), GPUS["L4"])
    assert found["fp8"].floor_ms == pytest.approx(100e6 / 300e9 * 1e3)
    assert {name: found[name] for name in ("int8", "fp16")} == floors(plain, GPUS["L4"])
    assert {one.format for one in expectations(replace(plain, bounds=fp8), GPUS["L4"])} == {"int8", "fp8"}
