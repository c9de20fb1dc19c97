"""Candidates as people read them."""

import pytest

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.pipeline.stages.candidate_table import _bits
from limpq_deploy.policy.policy import LayerBits, Policy


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (((4, 4), (4, 4)), "w4a4"),
        (((FP8, FP8), (FP8, FP8)), "fp8"),
        (((2, 4), (6, 4)), "weights of 2 to 6 bits"),
        (((4, 4), (4, 8)), "weights of 4 bits"),
        (((8, 8), (FP8, FP8), (8, 8)), "fp8 in 1 of 3 layers, weights of 8 bits"),
    ],
)
def test_bits_of_a_policy_in_words(pairs: tuple[BitPair, ...], said: str) -> None:
    bits = {f"layer{number}": LayerBits.of(pair) for number, pair in enumerate(pairs)}
    assert _bits(Policy(bits=bits, objective=0.0, alpha=1.0)) == said
