import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.files import sha256_of
from limpq_deploy.cli.main import main
from limpq_deploy.export.graph.exported import describe_export
from limpq_deploy.export.graph.onnx_files import tensor_bytes
from limpq_deploy.export.graph.storage import STORAGE_KEY, pack_weights, unpack_weights
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime, open_as_written

BITS = st.integers(2, 8)


def bits_of(net: Any) -> dict[str, int]:
    return {name: layer.bits for name, layer in net.layers.items()}


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(entry for entry in model.graph.initializer if entry.name == name)


def written(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def as_written(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Logits of a file with every optimisation off."""
    return open_as_written(model, []).run_feeds({"images": images})["logits"]


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    weight_bits=st.tuples(BITS, BITS, BITS),
    storage=st.sampled_from(["int4", "int2"]),
)
def test_a_stored_file_gives_the_engines_back_byte_for_byte_and_means_the_same_numbers(
    residual: Any, seed: int, weight_bits: Any, storage: Any
) -> None:
    net, logits = residual(seed, weight_bits=weight_bits)
    model = net.qdq(logits)
    stored = onnx.ModelProto.FromString(written(pack_weights(model, bits_of(net), storage)))
    assert written(unpack_weights(stored)) == written(model)
    images = net.images(3)
    np.testing.assert_array_equal(as_written(stored, images), as_written(model, images))


def test_weights_take_their_bits_and_wider_ones_stay_as_they_are(residual: Any) -> None:
    net, logits = residual(1, weight_bits=(8, 4, 2))
    model = net.qdq(logits)
    four, two = (pack_weights(model, bits_of(net), storage) for storage in ("int4", "int2"))
    count = net.layers["block1.conv2"].codes.size
    sizes = [tensor_bytes(tensor(one, "block1.conv2.weight_codes")) for one in (model, four, two)]
    assert sizes == [count, count // 2, count // 4]
    for one, opset in ((four, 21), (two, 25)):
        assert one.opset_import[0].version == opset
        assert tensor(one, "stem.weight_codes") == tensor(model, "stem.weight_codes")
        assert tensor_bytes(tensor(one, "block1.conv1.weight_codes")) * 2 == net.layers["block1.conv1"].codes.size


def test_a_channel_that_was_flipped_to_plus_8_is_stored_unsigned_with_a_zero_point_of_its_own(residual: Any) -> None:
    net, logits = residual(2, weight_bits=(8, 4, 4))
    layer = net.layers["block1.conv1"]
    half = 8 * layer.step
    layer.codes[0, 0, 0, 0], layer.codes[1, 0, 0, 0] = half, -half
    layer.codes[0][layer.codes[0] == -half] = 0
    layer.codes[1][layer.codes[1] == half] = 0
    model = net.qdq(logits)
    stored = pack_weights(model, bits_of(net), "int4")
    codes, zero = (tensor(stored, f"block1.conv1.weight_{part}") for part in ("codes", "zero_point"))
    assert codes.data_type == zero.data_type == TensorProto.UINT4
    assert numpy_helper.to_array(zero).astype(int)[:2].tolist() == [7, 8]
    assert written(unpack_weights(stored)) == written(model)


def test_onnxruntime_runs_a_stored_layer_in_float_so_that_the_file_is_for_storing(residual: Any, saved: Any) -> None:
    net, logits = residual(3, weight_bits=(8, 4, 4))
    precision = OnnxRuntime().engine(saved(pack_weights(net.qdq(logits), bits_of(net), "int4"))).layer_precision
    assert precision["stem"] == "u8s8"
    assert precision["block1.conv2"] == "float32"


def test_codes_that_do_not_fit_stay_as_they_are_and_files_of_others_are_refused(residual: Any) -> None:
    net, logits = residual(4, weight_bits=(8, 8, 4))
    model = net.qdq(logits)
    assert pack_weights(model, {"stem": 2}, "int4").graph == model.graph  # its codes are of 8 bits
    with pytest.raises(ModelError, match="has no stored weights; give the file that --storage wrote"):
        unpack_weights(model)
    stored = pack_weights(model, bits_of(net), "int4")
    for entry in stored.metadata_props:
        if entry.key == STORAGE_KEY:
            entry.value = json.dumps({"steps": {"block1.conv2": 0}, "opset": 21, "ir_version": 10})
    with pytest.raises(ModelError, match="damaged metadata"):
        unpack_weights(stored)


def test_the_command_restores_the_file_and_the_record_holds_all_sizes(residual: Any, tmp_path: Path) -> None:
    net, logits = residual(5, weight_bits=(8, 4, 3))
    model = net.qdq(logits)
    stored = pack_weights(model, bits_of(net), "int4")
    paths = [tmp_path / name for name in ("model.onnx", "stored.onnx", "back.onnx")]
    for path, one in zip(paths, (model, stored), strict=False):
        path.write_bytes(written(one))
    result = CliRunner().invoke(main, ["unpack", str(paths[1]), "-o", str(paths[2]), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["sha256"] == sha256_of(paths[0]) == sha256_of(paths[2])
    counts = {name: (layer.codes.size, layer.bits) for name, layer in net.layers.items()}
    record = describe_export(paths[0], model, target="onnxruntime", weight_bits=counts, stored=(paths[1], stored))
    assert record.stored is not None
    assert record.model.weights == sum(count for count, _ in counts.values())
    assert record.nominal < record.stored.weights < record.model.weights
    assert record.stored.size < record.model.size == paths[0].stat().st_size
