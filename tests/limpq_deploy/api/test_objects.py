"""Builds of an nn.Module and a DataLoader, and what a caller hears and sees of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import limpq_deploy
from limpq_deploy.calibration.errors import LimpqError, ModelError, SettingError
from limpq_deploy.calibration.in_memory import _KEPT

from .conftest import BRIEF, Net, pictures

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

PTQ: dict[str, Any] = {"ptq": True, "bits": [8], "like": "w8a8", "engine": False, "calibration_images": 16}


class Heard(limpq_deploy.Callback):
    def __init__(self) -> None:
        self.stages: list[tuple[str, bool]] = []
        self.steps: list[tuple[str, int, int]] = []
        self.metrics: list[tuple[str, float, int]] = []
        self.notes: list[str] = []

    def on_stage(self, stage: Any) -> None:
        self.stages.append((stage.name, stage.ran))

    def on_step(self, title: str, done: int, total: int, note: str) -> None:
        self.steps.append((title, done, total))

    def on_metric(self, name: str, value: float, step: int) -> None:
        self.metrics.append((name, value, step))

    def on_note(self, sentence: str) -> None:
        self.notes.append(sentence)


def test_the_modules_own_weights_are_exported_and_the_module_stays(tmp_path: Path, net: Any, loader: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    report = limpq_deploy.build(net, loader, out=tmp_path / "out", **PTQ)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    images = pictures()[0][:8]
    session = onnxruntime.InferenceSession(str(report.model))
    (got,) = session.run(None, {session.get_inputs()[0].name: images})
    wanted = net(torch.from_numpy(images)).detach().numpy()
    assert np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()


def test_the_same_module_is_not_built_twice_and_other_weights_are(tmp_path: Path, net: Any, loader: Any) -> None:
    def ran() -> set[str]:
        heard = Heard()
        limpq_deploy.build(net, loader, out=tmp_path / "out", progress=heard, **PTQ)
        return {name for name, one in heard.stages if one}

    assert "export" in ran()
    assert ran() == set()
    with torch.no_grad():
        net.fc.weight.mul_(2)
    assert "float" in ran()


def test_a_caller_hears_stages_steps_metrics_and_notes(tmp_path: Path, loader: Any) -> None:
    heard = Heard()
    found = limpq_deploy.indicators(
        Net, loader, trained=False, bits=[4, 8], out=tmp_path / "out", training=BRIEF, progress=heard
    )
    assert "float" in dict(heard.stages)
    assert heard.stages[-1] == ("indicators", True)
    assert heard.steps
    assert all(0 <= done <= total for _, done, total in heard.steps)
    names = {name for name, _, _ in heard.metrics}
    assert any("/loss/" in name for name in names)
    assert any("/top1/" in name for name in names)
    assert found.bits == (4, 8)


def test_a_plain_function_hears_steps(tmp_path: Path, net: Any, loader: Any) -> None:
    seen: list[str] = []
    limpq_deploy.export(net, loader, out=tmp_path / "out", progress=lambda title, *rest: seen.append(title), **PTQ)
    stages = ["given model", "importance", "policy", "calibration", "int8 baseline", "export"]
    assert list(dict.fromkeys(seen)) == stages


def test_a_build_of_objects_is_read_again_when_they_are_given_again(tmp_path: Path, net: Any, loader: Any) -> None:
    out = tmp_path / "out"
    limpq_deploy.indicators(net, loader, bits=[4, 8], out=out, training=BRIEF)
    policy = limpq_deploy.search(out, like="w8a8")
    here = limpq_deploy.preview(policy, out)
    _KEPT.clear()  # as in another process
    with pytest.raises(LimpqError, match="was given as a Python object to another process"):
        limpq_deploy.preview(policy, out)
    assert limpq_deploy.preview(policy, out, model=net, data=loader) == here


class Labelled(Net):
    def forward(self, x: Any, label: Any) -> Any:  # type: ignore[override]
        return super().forward(x) * torch.nn.functional.one_hot(label.view(-1), 4)


def test_what_makes_no_sense_is_said_in_a_sentence(tmp_path: Path, net: Any, loader: Any) -> None:
    with pytest.raises(SettingError, match="'lik' is no setting of a build; did you mean like"):
        limpq_deploy.build(net, loader, lik="w4a4")
    with pytest.raises(SettingError, match="'max_mb' is no setting of a search"):
        limpq_deploy.search(limpq_deploy.Indicators(model="m", bits=(4,), layers=()), max_mb=3)
    with pytest.raises(ModelError, match="model is a int; expected an nn"):
        limpq_deploy.build(3, loader, out=tmp_path / "out")
    with pytest.raises(ModelError, match=r"takes 2 tensors \(x, label\); expected one, the images"):
        limpq_deploy.build(Labelled(), loader, out=tmp_path / "labelled", **PTQ)
    with pytest.raises(LimpqError, match="holds no file of a build"):
        limpq_deploy.load(tmp_path)


def test_a_factory_is_looked_at_as_its_module_is() -> None:
    made, module = (limpq_deploy.inspect(one, input_shape=(1, 16, 16)) for one in (Net, Net()))
    assert made.accepted
    assert made.layers == module.layers


@pytest.mark.parametrize("given", [{"name": "mine"}, {"trained": False}, {"name": "mine", "model": "resnet8"}])
def test_what_is_said_of_a_module_is_refused_where_none_is_given(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"(name|trained) is of a module, and model is .*; give the module itself"):
        limpq_deploy.build(**given, out=tmp_path / "out", **PTQ)
    assert not (tmp_path / "out").exists()
