"""How long stages would take, from a trial of the network."""

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

from limpq_deploy.pipeline.config import Config
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.pipeline.stages import estimate
from limpq_deploy.pipeline.stages.estimate import estimate_stages
from limpq_deploy.pipeline.stages.listed import stages_of
from limpq_deploy.train.settings import Training
from limpq_deploy.train.trial import ImageSeconds

ONE = ImageSeconds(float_forward=0.001, float_step=0.003, quantized_forward=0.002, quantized_step=0.005)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial's figures, so that what is made of them can be counted."""
    monkeypatch.setattr(estimate, "try_out", lambda *arguments: ONE)


def test_a_real_trial_gives_every_stage_of_a_build_its_time() -> None:
    subject = Subject(Config())
    found = estimate_stages(subject)
    assert {stage.name for stage in stages_of(subject)} <= found.keys()
    assert min(found[name] for name in ("float", "indicators", "finetune", "latency")) > 0


@pytest.mark.usefixtures("known")
def test_training_takes_its_steps() -> None:
    config = Config(training=Training(float_steps=100, joint_steps=10, finetune_steps=1000))
    found = estimate_stages(Subject(config))
    data = Subject(config).dataset
    evaluated = (len(data.split("val")) + len(data.split("test"))) * 0.001
    settled = len(data.split("train")) * 0.001
    assert found["float"] == pytest.approx(100 * 64 * 0.003 + evaluated + settled, abs=0.1)
    assert found["finetune"] == pytest.approx(1000 * 64 * 0.006, rel=0.1)
    assert found["indicators"] > 10 * 64 * 6 * 0.005


@pytest.mark.usefixtures("known")
def test_without_training_there_are_calibration_and_evaluation() -> None:
    trained, calibrated = estimate_stages(Subject(Config())), estimate_stages(Subject(Config(ptq=True)))
    assert calibrated["finetune"] < trained["finetune"] / 5
    assert calibrated["indicators"] < trained["indicators"] / 5


@pytest.mark.usefixtures("known")
def test_without_fine_tuning_there_are_joint_training_and_evaluation() -> None:
    trained, taken, calibrated = (
        estimate_stages(Subject(config)) for config in (Config(), Config(finetune=False), Config(ptq=True))
    )
    assert taken["finetune"] < trained["finetune"] / 5
    assert (taken["indicators"], taken["int8"]) == (trained["indicators"], calibrated["int8"])


@pytest.mark.usefixtures("known")
def test_timing_takes_the_seconds_that_are_asked_for() -> None:
    usual = Config()
    longer = replace(usual, latency_seconds=10 * usual.latency_seconds)
    short, long = (estimate_stages(Subject(config))["latency"] for config in (usual, longer))
    assert long == pytest.approx(10 * short, rel=0.02)


@pytest.mark.usefixtures("known")
def test_formats_are_counted_in_place_of_bits() -> None:
    several = Config(target="tensorrt_rtx", training=Training(joint_steps=10))
    one = replace(several, formats=("fp8",))
    assert estimate_stages(Subject(one))["indicators"] < estimate_stages(Subject(several))["indicators"] / 2
