"""Models that take pixels, against the same models of normalised images."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.datasets import Preprocess
from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import from_json
from limpq_deploy.export.graph.pixel_input import PREPROCESS_KEY, as_pixels, with_pixel_input
from limpq_deploy.export.lint.check import lint, static_findings
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime, open_as_written
from limpq_deploy.export.timing.measure import timed_call
from limpq_deploy.export.timing.report import LatencyProtocol

IMAGENET = Preprocess(height=8, width=8, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PLAIN = Preprocess(height=8, width=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def every_pixel() -> np.ndarray:
    """Images that hold every value of a pixel in every channel."""
    values = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    return np.ascontiguousarray(np.broadcast_to(values, (4, 3, 8, 8)))


@pytest.mark.parametrize("preprocess", [IMAGENET, PLAIN], ids=["imagenet", "plain"])
def test_every_pixel_gives_the_logits_of_its_normalised_value_bit_by_bit_and_the_first_layer_stays_in_integers(
    residual: Any, saved: Any, preprocess: Preprocess
) -> None:
    net, logits = residual(1)
    model = net.qdq(logits)
    pixels = with_pixel_input(model, preprocess)
    assert pixels.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    images, path = every_pixel(), saved(pixels)
    runtime = OnnxRuntime()
    expected = runtime.load(saved(model)).run(preprocess.normalise(images))
    for given in (images, images.astype(np.float32)):
        np.testing.assert_array_equal(runtime.load(path).run(given), expected)
    assert set(runtime.engine(path).layer_precision.values()) == {"u8s8"}
    assert lint(path, ONNXRUNTIME).passed
    assert ("Sub" in {node.op_type for node in pixels.graph.node}) == (preprocess is IMAGENET)


def test_for_tensorrt_pixels_are_cast_and_multiplied(edges: Any) -> None:
    net, logits = edges(2)
    model = net.qdq(logits)
    pixels = with_pixel_input(model, IMAGENET, codes=False)
    assert list(static_findings(pixels, TENSORRT)) == []
    assert [node.op_type for node in pixels.graph.node[:3]] == ["Cast", "Mul", "Sub"]
    images = every_pixel()
    np.testing.assert_array_equal(
        open_as_written(pixels).run_feeds({"images": images})["logits"],
        open_as_written(model).run_feeds({"images": IMAGENET.normalise(images)})["logits"],
    )


def test_the_file_says_that_its_images_are_pixels_and_pixels_come_back_from_normalised_images(residual: Any) -> None:
    net, logits = residual(3)
    texts = {entry.key: entry.value for entry in with_pixel_input(net.qdq(logits), IMAGENET).metadata_props}
    raw = from_json(Preprocess, texts[PREPROCESS_KEY], "metadata")
    assert (raw.height, raw.width, raw.channels) == (8, 8, 3)
    images = every_pixel()
    np.testing.assert_array_equal(raw.normalise(images), images.astype(np.float32))
    np.testing.assert_array_equal(IMAGENET.pixels(IMAGENET.normalise(images)), images)
    with pytest.raises(ValueError, match="not made of pixels by this preprocessing"):
        IMAGENET.pixels(IMAGENET.normalise(images) + np.float32(0.001))


def test_it_is_timed_with_pixels_and_refuses_images_that_were_normalised(residual: Any, saved: Any) -> None:
    net, logits = residual(4)
    session = OnnxRuntime().load(saved(with_pixel_input(net.qdq(logits), IMAGENET)))
    timed_call(session, LatencyProtocol(batch=2, min_seconds=0.1))()
    with pytest.raises(ModelError, match="takes pixels, whole numbers from 0 to 255, and found -"):
        session.run(IMAGENET.normalise(every_pixel()))
    assert as_pixels(np.array([[0.0, 255.0]], np.float32)).dtype == np.uint8


def test_a_model_that_takes_pixels_already_is_refused(residual: Any) -> None:
    net, logits = residual(5)
    once = with_pixel_input(net.qdq(logits), IMAGENET)
    with pytest.raises(ModelError, match="does not take one tensor of float32 images"):
        with_pixel_input(once, IMAGENET)
