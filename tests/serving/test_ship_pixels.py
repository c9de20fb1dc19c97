"""Shipping a model that takes pixels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

pytest.importorskip("tritonclient", reason="needs the extra limpq-deploy[serve]")

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from limpq_deploy.calibration.datasets import Preprocess
from limpq_deploy.cli.main import main
from limpq_deploy.export.graph.pixel_input import with_pixel_input
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.serving.server import ServedModel, Server, ServerUnhealthy, parse_address

PREPROCESS = Preprocess(height=4, width=4, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))


def test_a_model_of_pixels_is_served_as_uint8_and_its_canaries_are_replayed(make_bundle: Any, tmp_path: Path) -> None:
    make_bundle("plain")
    path = tmp_path / "pixels.onnx"
    onnx.save(with_pixel_input(onnx.load(tmp_path / "plain" / "model.onnx"), PREPROCESS), path)
    pixels = np.random.default_rng(1).integers(0, 256, (16, 3, 4, 4)).astype(np.float32)
    answers = runtime_named("onnxruntime").load(path, threads=1).run(pixels)
    bundle = make_bundle("bundle", canary_inputs_NCHW=pixels, canary_outputs=answers, model_path=path)
    done = CliRunner().invoke(main, ["ship", str(bundle), str(tmp_path / "models"), "--json"])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "models" / "tiny"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.input[0].data_type == model_config_pb2.TYPE_UINT8
    assert {sample.inputs["images"].data_type for sample in config.model_warmup} == {model_config_pb2.TYPE_UINT8}
    assert config.output[0].data_type == model_config_pb2.TYPE_FP32
    replayed = CliRunner().invoke(main, ["verify", str(folder), "--replay", "--json"])
    assert json.loads(replayed.stdout)["canaries"]["bit_equal"], replayed.output


def test_a_server_of_pixels_is_sent_uint8() -> None:
    """With the client library's own request objects; no server is asked."""
    import tritonclient.http as library

    sent: list[Any] = []

    class Stop(Exception):
        """The request is made; there is nobody to answer."""

    class Client:
        def infer(self, model: str, inputs: list[Any], **_: Any) -> None:
            sent.extend(inputs)
            raise Stop

    server = Server(parse_address("http://127.0.0.1:8000/tiny"), Client(), library, 1.0)
    served = ServedModel(input="images", shape=(-1, 3, 4, 4), outputs=("logits",), max_batch=8, datatype="UINT8")
    with pytest.raises(ServerUnhealthy, match="Stop"):
        server.infer(served, np.full((2, 3, 4, 4), 7, np.float32))
    assert (sent[0].datatype(), sent[0].shape()) == ("UINT8", [2, 3, 4, 4])
