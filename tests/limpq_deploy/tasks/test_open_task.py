"""Tasks by their names."""

from pathlib import Path

import pytest

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.tasks.names import TASKS, require_task
from limpq_deploy.tasks.open_task import open_task


@pytest.mark.parametrize("name", TASKS)
def test_every_name_opens_a_task_of_that_name(name: str) -> None:
    require_task(name)
    assert open_task(name, ((1, 10),)).name == name


@pytest.mark.parametrize("name", ["segment", "", "detection", "detection:", "detection:boxes.py", "a b:c"])
def test_another_name_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=r"task is .*; expected classification, none, segmentation, embedding, detect"):
        require_task(name)


def test_a_users_own_task_is_what_its_factory_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_task.py").write_text(
        """
from limpq_deploy.tasks.base import Task
class Unfinished(Task):
    def statistics(self, outputs, targets):
        return targets
class Mine(Unfinished):
    name = "mine"
    def figure(self, statistics):
        return 1.0
def none():
    return 3
def half():
    return Unfinished()
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert open_task("own_task:Mine", ((1, 10),)).name == "mine"
    with pytest.raises(SettingError, match=r"returned a int; expected a limpq_deploy\.tasks\.base\.Task"):
        open_task("own_task:none", ((1, 10),))
    with pytest.raises(SettingError, match=r"'own_task:Unfinished' has no figure; expected .*: write the method as"):
        open_task("own_task:Unfinished", ((1, 10),))
    with pytest.raises(SettingError, match=r"'own_task:half' raised .*abstract.*figure.*mend the factory"):
        open_task("own_task:half", ((1, 10),))
