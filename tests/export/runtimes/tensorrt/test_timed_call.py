"""Timed calls: what runs ahead, what waits for what, and what must stay until a copy has been done.

On the stand-in, whose streams and host have clocks: each step of a stream takes 0.5 ms unless a test says otherwise.
"""

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.reference.self_test import tiny_images
from limpq_deploy.export.runtimes.base import DeviceCall
from limpq_deploy.export.runtimes.tensorrt import timed_call as trt_call
from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt
from limpq_deploy.export.runtimes.tensorrt.session import TensorRtSession

from .trt_stand_in import Context, Graph, HostMemory

IMAGES = [tiny_images(1, seed=number) for number in range(2)]


@pytest.fixture
def session(memory: HostMemory, model: Path) -> TensorRtSession:
    return TensorRt().load(model)


def lanes_of(memory: HostMemory, session: TensorRtSession) -> list[int]:
    """Two lanes of a session; their streams, in order."""
    session.timed(IMAGES, streams=2)
    return list(memory.clocks)[-2:]


def parts(call: DeviceCall) -> dict[str, float]:
    """Parts of the next run on the device, in milliseconds."""
    call()
    return {name: ms for name, ms in call.parts_ms().items() if name != "enqueue"}


@pytest.mark.parametrize("streams", [1, 2])
def test_a_call_waits_for_the_run_that_it_tells_and_for_none_after_it(
    memory: HostMemory, session: TensorRtSession, streams: int
) -> None:
    call = session.timed(IMAGES, streams=streams)
    begun = memory.now_ms
    for number in range(1, 4):
        call()
        assert memory.now_ms == begun + 1.5 * number
        assert max(memory.clocks.values()) == memory.now_ms + 1.5, "one run is queued behind"


@pytest.mark.parametrize("slow", [0, 1])
def test_no_lane_computes_until_every_batch_is_on_the_device(
    memory: HostMemory, session: TensorRtSession, slow: int
) -> None:
    lanes = lanes_of(memory, session)
    call = session.timed(IMAGES, streams=2)
    memory.in_ms[lanes[slow]] = 2.0
    memory.run_ms[lanes[1 - slow]] = 3.0
    call()  # submitted before
    for _ in range(2):
        assert parts(call) == {"copy_in": 2.0, "compute": 3.0, "copy_out": 0.5}


@pytest.mark.parametrize("slow", [0, 1])
def test_results_are_copied_when_every_lane_has_run_and_new_images_when_they_are_copied(
    memory: HostMemory, session: TensorRtSession, slow: int
) -> None:
    lanes = lanes_of(memory, session)
    call = session.timed(IMAGES, streams=2)
    memory.run_ms[lanes[slow]] = 3.0
    memory.out_ms[lanes[1 - slow]] = 2.0
    memory.in_ms[lanes[slow]] = 4.0
    call()
    for _ in range(2):
        assert parts(call) == {"copy_in": 4.0, "compute": 3.0, "copy_out": 2.0}


def test_several_lanes_launch_graphs_where_each_of_them_was_captured(
    memory: HostMemory, session: TensorRtSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = lanes_of(memory, session)
    launched: list[int] = []
    monkeypatch.setattr(trt_call.CudaGraph, "capture", lambda stream, enqueue: Graph(stream, enqueue, launched))
    call = session.timed(IMAGES, streams=2)
    assert (call.mode, session.environment()["mode"]) == ("cuda graph", "cuda graph")
    assert parts(call) == {"copy_in": 0.5, "compute": 0.5, "copy_out": 0.5}
    assert launched == 2 * lanes
    assert session.timed(IMAGES, graph=False).mode == "enqueue"


@pytest.mark.parametrize("captured", [0, 1])
def test_where_one_lane_is_not_captured_all_run_plainly(
    memory: HostMemory, session: TensorRtSession, monkeypatch: pytest.MonkeyPatch, captured: int
) -> None:
    lanes = lanes_of(memory, session)
    runs: list[int] = []

    def ran(stream: int) -> None:
        runs.append(stream)
        memory.ran(stream)

    launched: list[int] = []
    monkeypatch.setattr(
        trt_call.CudaGraph,
        "capture",
        lambda stream, enqueue: Graph(stream, enqueue, launched) if stream == lanes[captured] else None,
    )
    monkeypatch.setattr(Context, "_ran", staticmethod(ran))
    call = session.timed(IMAGES, streams=2)
    call()
    assert call.mode == "enqueue"
    assert runs == 3 * lanes, "the first run, one ahead, and one of the call"
    assert not launched


def test_images_stay_until_the_run_ahead_has_read_them(memory: HostMemory, session: TensorRtSession) -> None:
    call = session.timed(IMAGES, streams=2)
    call()
    assert max(memory.clocks.values()) > memory.now_ms
    del call
    assert not memory.torn
    assert max(memory.clocks.values()) == memory.now_ms


@pytest.mark.parametrize("fails", [1, 2, 3, 4])
def test_images_stay_until_they_are_read_where_a_run_fails(
    memory: HostMemory, session: TensorRtSession, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """The first two runs are the first ones of the lanes, and two are queued ahead."""
    lanes_of(memory, session)
    plain, tried = Context.execute_async_v3, []

    def execute(context: Context, stream: int) -> bool:
        tried.append(stream)
        return len(tried) != fails and plain(context, stream)

    monkeypatch.setattr(Context, "execute_async_v3", execute)
    with pytest.raises(ModelError, match="the engine does not run"):
        session.timed(IMAGES, streams=2)
    assert len(tried) == fails
    assert not memory.torn
