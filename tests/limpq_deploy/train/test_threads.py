"""Short steps are computed on one thread, so that a second one that waits for a busy core does not slow them down."""

from collections.abc import Iterator

import pytest
import torch

from limpq_deploy.train.device import settle_threads


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("macs", "threads"), [(3_000_000, 1), (41_000_000, 2)])
def test_only_a_model_with_short_steps_gives_up_threads(
    monkeypatch: pytest.MonkeyPatch, macs: int, threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    settle_threads(macs)
    assert torch.get_num_threads() == threads


def test_the_user_s_own_number_of_threads_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    settle_threads(1)
    assert torch.get_num_threads() == 2
