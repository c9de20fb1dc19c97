"""Kernels that a GPU finished are code: what is kept of them is checked before it is loaded."""

from pathlib import Path
from typing import Any

import pytest

from limpq_deploy.calibration.errors import CacheRefused
from limpq_deploy.export.runtimes.tensorrt_rtx.session import TensorRtRtxSession


class Played:
    """An engine, its runtime configuration and its cache of kernels, as NVIDIA's documentation has them: no GPU."""

    def __init__(self) -> None:
        self.loaded: list[bytes] = []

    def create_runtime_config(self) -> "Played":
        return self

    def create_runtime_cache(self) -> "Played":
        return self

    def set_runtime_cache(self, cache: "Played") -> None: ...

    def create_execution_context(self, config: "Played") -> "Played":
        return self

    def deserialize(self, data: bytes) -> None:
        self.loaded.append(data)

    def serialize(self) -> bytes:
        return b"kernels"


def context(cache: Path) -> Played:
    session: Any = TensorRtRtxSession.__new__(TensorRtRtxSession)
    session._cache = cache
    played = Played()
    session._context(played)
    return played


def test_kernels_are_kept_and_loaded_again(tmp_path: Path) -> None:
    assert context(tmp_path / "one.kernels").loaded == []
    assert context(tmp_path / "one.kernels").loaded == [b"kernels"]


def test_planted_or_damaged_kernels_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    cache = tmp_path / "one.kernels"
    context(cache)
    sound = cache.read_bytes()
    for planted in (b"kernels", sound[:-1] + b"X", sound + b"more"):
        cache.write_bytes(planted)
        with pytest.raises(CacheRefused, match="is not what was kept there"):
            context(cache)
    cache.unlink()
    cache.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheRefused):
        context(cache)
