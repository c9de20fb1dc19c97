"""Small networks in the dialect of TensorRT, and a cache of their own; NVIDIA's compiler is the real one."""

from pathlib import Path
from typing import Any

import onnx
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMPQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def net(edges: Any, tmp_path: Path) -> tuple[onnx.ModelProto, Path]:
    """Five layers, all in integers: the graph and its file."""
    tiny, logits = edges(0, weight_bits=(8, 8, 8), act_bits=(8, 8, 8))
    graph = tiny.qdq(logits)
    path = tmp_path / "net.onnx"
    onnx.save(graph, path)
    return graph, path
