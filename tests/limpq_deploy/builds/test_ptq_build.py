"""Builds that train nothing but a missing float model, and builds of a policy that the user gives."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.lint.check import lint
from limpq_deploy.pipeline.stages import deploy as deploy_stage
from limpq_deploy.pipeline.stages.learn import load_finetuned
from limpq_deploy.pipeline.stages.previewer import open_previewer
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import LayerBits, Policy
from limpq_deploy.train.finetuned import NOT_TRAINED, FineTuned
from limpq_deploy.verdict.record import Verdict

from .conftest import Command


def test_a_build_without_training_goes_all_the_way_says_so_and_is_not_repeated(
    copy: Path, settings: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def load(*args: Any, **settings: Any) -> Any:
        model = load_finetuned(*args, **settings)
        networks.append(weakref.ref(model))
        return model

    def looked_at(*args: Any, **settings: Any) -> Any:
        alive.append(sum(one() is not None for one in networks))
        return lint(*args, **settings)

    command = ("build", "--config", settings, "--out", "out", "--ptq", "--calibration-images", "128")
    with monkeypatch.context() as patched:
        patched.setattr(deploy_stage, "load_finetuned", load)
        patched.setattr(deploy_stage, "lint", looked_at)
        result = run(*command, "--importance", "kl")
    assert result.exit_code in (0, 3), result.output
    assert (len(networks) > 1, alive) == (True, [0])  # memory: no network stays while the written file is looked at
    assert "= float model" in result.stderr
    assert "not trained" in result.stderr
    found = load_record(FineTuned, copy / "finetuned.json")
    assert found.calibrated is not None
    assert (found.calibrated.how, found.calibrated.images, found.settings) == (NOT_TRAINED, 128, None)
    indicators = load_record(Indicators, copy / "indicators.json")
    assert indicators.source["method"] == NOT_TRAINED
    assert all(set(layer.measures or ()) == {"kl", "loss", "fisher"} for layer in indicators.layers)
    verdict = load_record(Verdict, copy / "verdict.json")
    assert any(note.startswith("Ranges only, not trained: mse on 128 training images") for note in verdict.notes)
    assert verdict.parity is not None
    assert (verdict.parity.mismatches, verdict.parity.logits_bit_equal) == (0, True)
    page = (copy / "report.html").read_text()
    assert NOT_TRAINED in page
    assert not [claim for claim in ("earned scale", "jointly trained", "moved from") if claim in page]
    look = open_previewer(copy, trusted=True)
    joint, reference = look._joint, look._judge.reference
    assert reference is not None
    weights = [(joint.quant_layer(name).weight, reference.get_submodule(name).weight) for name in found.bits]
    assert all(one is other for one, other in weights)  # memory: nothing was trained, so there is one network
    again = run(*command, "--importance", "kl", "--json")
    assert not any(stage["ran"] for stage in json.loads(again.stdout)["stages"])


def test_a_given_policy_is_built_without_a_search(copy: Path, settings: Path, run: Command) -> None:
    pairs = load_record(Policy, copy / "policy.json").pairs()
    wanted = {name: LayerBits(weight=3, act=act) for name, (_, act) in pairs.items()}
    write_record(Policy(bits=wanted, objective=0.0, alpha=1.0, model="resnet8"), Path("mine.json"))
    command = ("finetune", "--config", settings, "--out", "out", "--like", "w6a6", "--ptq", "--policy", "mine.json")
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "as given in mine.json, nothing was searched; bitops_searched" in result.stderr
    assert load_record(Policy, copy / "policy.json").bits == wanted
    assert load_record(FineTuned, copy / "finetuned.json").bits == wanted


def test_what_cannot_be_is_refused_before_anything_is_done(
    here: Path, finished: Path, refused: Callable[..., str]
) -> None:
    policy = load_record(Policy, finished / "policy.json")
    first, *others = policy.bits
    write_record(policy, Path("fits.json"))
    refused("build", "--model", "resnet20", "--data", "digits", "--policy", "fits.json", words=("'resnet8'", "give"))
    wide = {first: LayerBits(weight=8, act=policy.bits[first].act), **{name: policy.bits[name] for name in others}}
    write_record(Policy(bits=wide, objective=0.0, alpha=1.0), Path("wide.json"))
    refused("build", "--policy", "wide.json", words=(repr(first), "8 weight bits", "give --bits 2,3,4,5,6,8"))
    refused("build", "--policy", "fits.json", "--like", "w2a2", words=("beyond --like w2a2",))
    refused("build", "--policy", "fits.json", "--importance", "kl", words=("importance is kl", "nothing is searched"))
    refused("build", "--policy", "none.json", words=("cannot read none.json",))
    refused("build", "--ranges", "entropy", words=("--ranges is entropy", "without ptq; give --ptq too"))
    refused("build", "--ptq", "--calibration-images", "1", words=("expected at least 2",))
    assert not Path("limpq-build").exists()
