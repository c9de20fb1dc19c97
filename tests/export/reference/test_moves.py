"""Padding that an operator leaves to the runtime."""

import pytest
from onnx import helper

from limpq_deploy.export.reference.moves import explicit_pads

SIZE, KERNEL, STRIDES, DILATIONS = (5, 6), (3, 4), (2, 1), (1, 1)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"pads": [1, 2, 3, 4]}, [1, 2, 3, 4]),
        ({}, [0, 0, 0, 0]),
        ({"auto_pad": "VALID"}, [0, 0, 0, 0]),
        ({"auto_pad": "SAME_UPPER"}, [1, 1, 1, 2]),
        ({"auto_pad": "SAME_LOWER"}, [1, 2, 1, 1]),
        ({"ceil_mode": 1}, [0, 0, 0, 0]),
        ({"ceil_mode": 1, "pads": [1, 0, 0, 0]}, [1, 0, 1, 0]),
    ],
)
def test_padding_is_worked_out(attributes: dict[str, object], expected: list[int]) -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], **attributes)  # type: ignore[arg-type]
    assert explicit_pads(node, SIZE, KERNEL, STRIDES, DILATIONS) == expected
