"""Builds of all stages, one after the other in one process: no descriptor stays open."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from ...campaigns.kills import MODEL, SETTINGS

BUILDS = 3
"""A descriptor that a build leaves shows after one; `test_workspace` runs a hundred of small stages."""


def descriptors() -> dict[str, str]:
    """What each open descriptor of this process is."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink():  # that of the listing itself is closed by now
            found[link.name] = os.readlink(link)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_real_stages_leave_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Result]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("small_net.py").write_text(MODEL)
    Path("build.toml").write_text(SETTINGS)
    after = []
    for _ in range(1 + BUILDS):  # the first loads libraries, which may keep files open
        result = run("build", "--config", "build.toml", "--out", "out", "--fresh")
        assert result.exit_code == 0, result.output
        after.append(descriptors())
    assert [len(one) for one in after[1:]] == [len(after[0])] * BUILDS, set(after[-1].values()) - set(after[0].values())
