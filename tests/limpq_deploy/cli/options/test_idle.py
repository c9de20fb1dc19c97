"""Options that would have no effect are refused by name; nothing is ignored without a word."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from limpq_deploy.calibration.records import write_record
from limpq_deploy.cli.main import main
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.policy.policy import LayerBits, Policy

IDLE = [
    (("sweep", "INDICATORS", "--gbitops", "1:2:2", "--x", "size"), "--x has no effect without --picture"),
    (("sweep", "INDICATORS", "--all", "--gap", "0.1"), "asks no solver; leave --gap away"),
    (("diff", "POLICY", "POLICY", "--importance", "kl"), "--importance has no effect without --indicators"),
    (("diff", "POLICY", "POLICY", "--alpha", "2"), "--alpha has no effect without --indicators"),
    (
        ("table", "POLICY", "--alpha", "2", "--importance", "kl"),
        "--importance and --alpha have no effect on the policy",
    ),
    (("bench", "POLICY", "--server", "http://localhost:1/m", "--runtime", "tensorrt"), "--runtime has no effect with"),
    (
        ("bench", "POLICY", "--server", "http://localhost:1/m", "--no-tf32", "--streams", "2"),
        "--streams and --no-tf32 have no effect with --server",
    ),
    (("health", "http://localhost:1/m", "--key", "POLICY"), "--key has no effect without --bundle"),
    (
        ("profile", "BUILD", "--runtime", "tensorrt_rtx", "--threads", "1", "--seconds", "1", "--builds", "3"),
        "--threads and --seconds and --builds have no effect with --runtime tensorrt_rtx",
    ),
    (
        ("profile", "BUILD", "--runtime", "tensorrt_rtx", "--engine-batch", "1:2:4"),
        "--engine-batch has no effect with --runtime tensorrt_rtx",
    ),
    (("profile", "BUILD", "--gpus", "sm89"), "--gpus has no effect where parts are timed"),
    (("profile", "BUILD", "--near", "POLICY"), "--near has no effect where parts are timed"),
    (
        ("build", "--plan", "--policy", "POLICY", "--solver", "cbc"),
        "--solver is cbc, and nothing is searched where a policy is given; leave one away",
    ),
]


@pytest.mark.parametrize(("words", "said"), IDLE, ids=[" ".join(words) for words, _ in IDLE])
def test_an_option_without_effect_is_refused_by_name(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    layers = [LayerIndicators(name="a", macs=100, num_weights=10, weight=(0.4, 0.1), act=(0.8, 0.2))]
    write_record(Indicators(model="one", bits=(2, 4), layers=tuple(layers)), tmp_path / "indicators.json")
    policy = Policy(bits={"a": LayerBits(weight=2, act=4)}, objective=1.0, alpha=1.0)
    write_record(policy, tmp_path / "policy.json")
    files = {"INDICATORS": "indicators.json", "POLICY": "policy.json", "BUILD": "build"}
    typed = [str(tmp_path / files[word]) if word in files else word for word in words]
    done = CliRunner().invoke(main, typed)
    assert (done.exit_code, said in " ".join(done.output.split())) == (1, True), done.output
