"""What is said of 8-bit weights, on CPUs that are described, not present."""

import pytest

from limpq_deploy.export.runtimes.cpu import Cpu, describe_cpu
from limpq_deploy.export.runtimes.onnxruntime.session import EXACT_PAIR_WEIGHT
from limpq_deploy.export.runtimes.vnni_advice import EXACT_WEIGHT_BITS, saturation_advice, saturation_note

AVX2 = describe_cpu("old", {"avx2"}, "x86_64")
UNKNOWN = describe_cpu("", frozenset(), "AMD64")
EXACT = [describe_cpu("new", {"avx2", "avx512_vnni"}, "x86_64"), describe_cpu("arm", {"asimd"}, "aarch64")]


@pytest.mark.parametrize("cpu", EXACT, ids=lambda cpu: cpu.model)
def test_nothing_is_said_where_products_are_added_in_32_bits(cpu: Cpu) -> None:
    assert saturation_note(cpu) is None
    assert saturation_advice(cpu, bits=(2, 8), pinned_bits=8) is None


def test_an_old_cpu_is_named_with_both_remedies() -> None:
    note = saturation_note(AVX2)
    assert note is not None
    assert note.startswith("This CPU has no VNNI: 8-bit weights may saturate")
    assert "--pinned-bits 7" in note
    assert "--bits up to 7" in note


def test_a_cpu_that_does_not_tell_is_taken_for_an_old_one_and_called_unknown() -> None:
    assert (saturation_note(UNKNOWN) or "").startswith("This CPU is not known to have VNNI")


@pytest.mark.parametrize(
    ("bits", "pinned_bits", "offered"),
    [
        (
            (2, 3, 4, 5, 6),
            8,
            "(pinned layers) may saturate here and run on slower exact kernels; --pinned-bits 7 would",
        ),
        ((2, 4, 8), 7, "(searched layers) may saturate here and run on slower exact kernels; --bits 2,4,7 would"),
        ((7, 8), 8, "--pinned-bits 7 --bits 7 would"),
        ((2, 7), 7, None),
    ],
)
def test_the_advice_offers_what_this_build_would_have_to_change(
    bits: tuple[int, ...], pinned_bits: int, offered: str | None
) -> None:
    advice = saturation_advice(AVX2, bits=bits, pinned_bits=pinned_bits)
    assert advice is None if offered is None else offered in (advice or "")


def test_the_bound_is_the_one_that_sessions_decide_by() -> None:
    assert 2 ** (EXACT_WEIGHT_BITS - 1) == EXACT_PAIR_WEIGHT
    assert 2 * 255 * EXACT_PAIR_WEIGHT < 2**15 <= 2 * 255 * (2 * EXACT_PAIR_WEIGHT)
