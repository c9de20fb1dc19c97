import threading
import time

import numpy as np
import pytest

from limpq_deploy.export.timing.concurrent_runs import RunsAtOnce

BATCHES = [np.full((1, 1, 1, 1), number, np.float32) for number in range(5)]


def test_all_runs_are_under_way_before_one_ends_and_each_has_the_next_batch() -> None:
    met = threading.Barrier(3, timeout=5)
    seen: list[float] = []

    def run(images: np.ndarray) -> None:
        met.wait()  # raises unless three are here
        seen.append(float(images.item()))

    call = RunsAtOnce(run, BATCHES, 3)
    call()
    call()
    assert sorted(seen[:3]) == [0, 1, 2]
    assert sorted(seen[3:]) == [0, 3, 4]


def test_a_call_ends_with_its_slowest_run() -> None:
    done: list[float] = []

    def run(images: np.ndarray) -> None:
        time.sleep(0.01 * float(images.item()))
        done.append(float(images.item()))

    RunsAtOnce(run, BATCHES, 5)()
    assert sorted(done) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_what_any_run_raises_is_raised(failing: int) -> None:
    def run(images: np.ndarray) -> None:
        if images.item() == failing:
            raise OSError("no memory")

    with pytest.raises(OSError, match="no memory"):
        RunsAtOnce(run, BATCHES, 3)()
