"""One number of threads for every library that computes in this process, and in those that it starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Read by OpenMP (torch, the compiled operator, scikit-learn) and by the BLAS of torch, NumPy and SciPy, when they are
loaded."""

_most: int | None = None


@contextmanager
def holding_threads(count: int) -> Iterator[None]:
    """Let libraries that are loaded from now on compute on ``count`` threads; what makes a pool of threads of its own
    (ONNX Runtime, the reader of images) asks `most_threads`. Those that were loaded before keep their number."""
    global _most
    most, before = _most, {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(dict.fromkeys(VARIABLES, str(count)))
    _most = count
    try:
        yield
    finally:
        _most = most
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def most_threads() -> int | None:
    """The number of `holding_threads`; None where each library has its own choice."""
    return _most
