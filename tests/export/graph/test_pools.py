"""Max pools with ceil_mode, written with explicit padding."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.pools import missing_padding, write_ceil_padding
from limpq_deploy.export.reference.moves import max_pool

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")


def pool(size: int, kernel: int, stride: int, pad: int, dilation: int, *, known: bool = True) -> onnx.ModelProto:
    node = helper.make_node(
        "MaxPool",
        ["x"],
        ["y"],
        name="pool",
        kernel_shape=[kernel] * 2,
        strides=[stride] * 2,
        pads=[pad] * 4,
        dilations=[dilation] * 2,
        ceil_mode=1,
    )
    shape: list[str | int | None] = ["batch", 1, size, size] if known else ["batch", 1, "height", "width"]
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    return helper.make_model(
        helper.make_graph([node], "g", [images], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    )


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(5, 14),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 4),
    pad=st.integers(0, 1),
    dilation=st.integers(1, 2),
    seed=st.integers(0, 100),
)
def test_a_pool_with_written_padding_is_torchs(
    size: int, kernel: int, stride: int, pad: int, dilation: int, seed: int
) -> None:
    pad = min(pad, kernel // 2)
    codes = np.random.default_rng(seed).integers(0, 256, (2, 1, size, size)).astype(np.uint8)
    expected = torch.nn.functional.max_pool2d(
        torch.from_numpy(codes).float(), kernel, stride, pad, dilation, ceil_mode=True
    )
    model = pool(size, kernel, stride, pad, dilation)
    write_ceil_padding(model)
    np.testing.assert_array_equal(max_pool(model.graph.node[0], [codes]), expected.numpy())


def test_the_last_window_begins_inside_the_image() -> None:
    """Three elements, windows of 1, stride 2: windows at 0 and 2; a third one would begin behind the image."""
    assert missing_padding(3, reach=1, stride=2, before=0, after=0) == 0
    assert missing_padding(4, reach=3, stride=2, before=0, after=0) == 1
    assert missing_padding(4, reach=1, stride=3, before=0, after=0) == 0


def test_an_image_of_unknown_size_is_refused() -> None:
    with pytest.raises(ModelError, match="'pool' pools with ceil_mode an image of unknown size"):
        write_ceil_padding(pool(8, 3, 2, 0, 1, known=False))
