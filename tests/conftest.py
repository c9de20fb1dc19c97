"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch and NumPy are imported: several test processes share few cores, and spinning threads starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tables fold at the terminal's width, and pytest's workers say another one than pytest itself.
os.environ["COLUMNS"] = "110"

# An example that waits for a busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the shared golden files, data and weights: LIMPQ_SHARED, or ``../shared`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("LIMPQ_SHARED", beside))
    if folder.is_dir():
        return folder
    reason = f"no shared material: set LIMPQ_SHARED to its folder ({folder} does not exist)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
