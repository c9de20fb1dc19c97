"""Which builds can be profiled."""

from pathlib import Path

import pytest

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import write_record
from limpq_deploy.export.records.placement import ActQuantizer, LayerPlacement, Placement
from limpq_deploy.latency.profiling import profiled_files
from limpq_deploy.workspace.file_names import FLOAT_MODEL, INDICATORS, PLACEMENT


def test_a_build_of_weights_alone_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for name in (FLOAT_MODEL, INDICATORS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    layer = LayerPlacement(name="up", kind="linear", input="in", macs=64, num_weights=64, out_channels=1)
    reads = ActQuantizer(name="in", tensor="x", signed=True, bits=16, layers=("up",))
    placement = Placement(
        model="net", target="tensorrt_rtx", input_shape=(1, 8, 8), layers=(layer,), quantizers=(reads,)
    )
    write_record(placement, tmp_path / PLACEMENT)
    with pytest.raises(ModelError, match="is a build with --act-bits, whose activations are floats"):
        profiled_files(tmp_path)
