"""The driver is asked, and answers in a sentence whatever it is; a graph is captured, or it is not."""

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limpq_deploy.export.runtimes.cuda.driver import Gpu, ask_driver, too_old
from limpq_deploy.export.runtimes.cuda.memory import CudaGraph, package_problem

Make = Callable[..., str]


def test_a_driver_names_its_gpus_and_the_cuda_that_it_serves(driver: Make) -> None:
    found = ask_driver(driver(GPUS=2))
    gpu = Gpu(name="Stand-in GPU", compute_capability="9.0", memory_mib=143771, pci="0000:3b:00.0")
    assert (found.cuda, found.gpus, found.problem) == ((12, 4), (gpu, replace(gpu, pci="0000:3c:00.0")), None)


def test_without_a_driver_the_sentence_names_the_library() -> None:
    found = ask_driver("libcuda-of-nowhere.so.1")
    assert (found.cuda, found.gpus) == (None, ())
    assert found.problem == "no NVIDIA driver here (libcuda-of-nowhere.so.1 is not found)"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (100, "the NVIDIA driver finds no GPU"),
        (803, "is of another version than the kernel module; restart the machine"),
        (34, "is the stub that CUDA toolkits link against"),
        (999, "does not start (cuInit gives 999)"),
    ],
)
def test_a_driver_that_does_not_start_says_why(driver: Make, status: int, said: str) -> None:
    found = ask_driver(driver(STATUS=status))
    assert said in (found.problem or "")
    assert (found.cuda, found.gpus) == ((12, 4), ())


def test_a_hidden_gpu_is_explained(driver: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "CUDA_VISIBLE_DEVICES is '7', which may hide it" in (ask_driver(driver(GPUS=0)).problem or "")


def test_a_library_that_is_no_driver_or_no_library_is_no_crash(tmp_path: Path) -> None:
    text = tmp_path / "libcuda.so.1"
    text.write_text("this is no library")
    assert "cannot be loaded" in (ask_driver(str(text)).problem or "")
    assert "is no NVIDIA driver" in (ask_driver("libc.so.6").problem or "")


def test_an_old_driver_is_named_with_what_it_serves_and_what_is_needed(driver: Make) -> None:
    found = ask_driver(driver(CUDA=12020))
    assert too_old(found, (12, 0), "TensorRT 8.6.0") is None
    sentence = too_old(found, (13, 0), "TensorRT 11.4.0")
    assert sentence is not None
    assert "TensorRT 11.4.0 needs a driver for CUDA 13.0, and this one serves CUDA 12.2; install a newer" in sentence


def test_a_captured_graph_is_launched_instead_of_the_enqueue(driver: Make, loaded: Callable[[str], Any]) -> None:
    library = driver()
    enqueued: list[int] = []

    def enqueue() -> bool:
        enqueued.append(7)
        return True

    graph = CudaGraph.capture(7, enqueue, library)
    assert graph is not None
    graph.launch()
    graph.launch()
    assert enqueued == [7]
    counted = loaded(library)
    assert ctypes.c_int.in_dll(counted, "graph_launches").value == 2
    assert ctypes.c_int.in_dll(counted, "destroyed").value == 0
    del graph
    assert ctypes.c_int.in_dll(counted, "destroyed").value == 1, "the graph, when nobody has it"


def test_where_capture_fails_there_is_no_graph(driver: Make) -> None:
    assert CudaGraph.capture(7, lambda: True, driver(CAPTURE=900)) is None
    assert CudaGraph.capture(7, lambda: False, driver()) is None


def test_a_missing_package_is_named_with_what_brings_it() -> None:
    problem = package_problem()
    assert problem is None or "pip install 'limpq-deploy[gpu]'" in problem
