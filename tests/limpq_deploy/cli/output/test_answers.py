"""Standard output is the answer: every command with --json prints one JSON object there, whatever else prints."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import limpq_deploy
from limpq_deploy.cli.main import main
from limpq_deploy.train.interruption import Interruption

HERE = Path(__file__).parent
GOLDEN = HERE.parents[2] / "golden"
INDICATORS = str(GOLDEN / "resnet50_official_macs.indicators.json")
LIKE = ("--like", "w3a4")

NOISY = ("--model", "noisy:factory", "--data", "noisy:data")
SETTINGS = "latency_seconds = 0.05\n[training]\nfloat_steps = 2\njoint_steps = 2\nbatch_size = 16\n"
PTQ = (
    "--config",
    "tiny.toml",
    "--ptq",
    "--bits",
    "4,8",
    "--storage",
    "int4",
    "--calibration-images",
    "16",
    *NOISY,
    "--out",
    "out",
)

LINES: tuple[tuple[str, ...], ...] = (
    *((stage, *PTQ) for stage in ("indicators", "finetune", "export", "compile", "build")),
    ("indicators", "--config", "tiny.toml", "--bits", "4", "--workers", "1", *NOISY, "--out", "trained"),
    *(("search", INDICATORS, *LIKE, "--solver", solver) for solver in ("auto", "own", "cbc", "highs")),
    ("sweep", INDICATORS, "--gbitops", "30:40:2", "--solver", "highs"),
    ("diff", "policy.json", "policy.json"),
    ("table", "policy.json", "--indicators", INDICATORS, "-o", "table.csv"),
    ("evaluate", "out/model.qdq.onnx", "--data", "noisy:data"),
    ("parity", "out"),
    ("preview", "out/policy.json", "--build", "out"),
    ("lint", "out/model.qdq.onnx"),
    ("verify", "out/bundle"),
    ("doctor",),
    ("inspect", "resnet8"),
    ("bench", "out", "--seconds", "0.1", "--threads", "1", "-o", "bench.json"),
    ("bench", "merge", "bench.json"),
    ("bench", "compare", "bench.json", "bench.json"),
    ("profile", "out", "--seconds", "0.05", "--graphs", "0", "--threads", "1"),
    ("keygen", "key"),
    ("ship", "out", "repository"),
    ("ship", "out", "repository", "--instances", "2"),
    ("rollback", "repository/noisy_factory", "1"),
    ("sign", "out/bundle", "key"),
    ("finish", "out/bundle"),
    ("report", "out", "-o", "page.html"),
    ("health", "http://127.0.0.1:9/model", "--timeout", "1"),
    ("import", "out/placement.json"),
    ("unpack", "out/model.stored.onnx", "-o", "unpacked.onnx"),
    ("build", "--model", "noisy:ends"),
    ("build", "--model", "noisy:absent"),
    ("build", "--bits", "99"),
    ("search",),
    ("seek",),
)


def _leaves(group: click.Group, *before: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _leaves(command, *before, name)
        else:
            yield (*before, name), command


def _run(command: Sequence[str | Path], folder: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=folder)


def test_every_command_takes_json_and_is_tried_here() -> None:
    leaves = dict(_leaves(main))
    assert all(any("--json" in option.opts for option in command.params) for command in leaves.values())
    tried = {words[:2] if words[:2] in leaves else words[:1] for words in LINES}
    assert set(leaves) - tried == {("bench", "time")}  # which is `bench` itself


def test_every_command_prints_one_json_object_whatever_else_prints(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
    shutil.copy(HERE / "noisy.py", tmp_path)
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    lines = json.dumps([[*words, "--json"] for words in LINES])
    done = _run([sys.executable, HERE / "answering.py"], tmp_path, text=lines)
    assert done.returncode == 0, done.stderr
    answered = json.loads((tmp_path / "answers.json").read_text())
    for one in answered:
        assert one["code"] in (0, 1, 2, 3), one
        (line,) = one["stdout"].splitlines()
        found = json.loads(line)
        assert isinstance(found, dict), one
        assert ("error" in found) == (one["code"] in (1, 2)), one
        assert found.get("exit_code", one["code"]) == one["code"], one
    # nothing is left to finish, nobody serves; five mistakes
    refused = [one["words"][0] for one in answered if one["code"] in (1, 2)]
    assert refused == [
        "finish",
        "health",
        "import",
        "build",
        "build",
        "build",
        "search",
        "seek",
    ]
    for way in ("print", "__stdout__", "os.write", "printf"):
        for where in ("import", "factory", "forward", "data", "image in process"):
            assert f"{way} {where}" in done.stderr
    assert "a process of its own" in done.stderr
    readers = {line for line in done.stderr.splitlines() if line.startswith("print image in process")}
    assert len(readers) >= 2  # this process, and those that read ahead


def test_commands_write_to_standard_output_by_answer_alone() -> None:
    """`click.echo` without ``err=True`` would be lost among what others print."""
    package = Path(limpq_deploy.__file__).parent
    for file in (package / "cli/main.py", *sorted((package / "cli/commands").glob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "print", "click.secho"):
                assert any(keyword.arg == "err" for keyword in node.keywords), f"{file.name}:{node.lineno}"


def test_ctrl_c_is_an_object_too_and_exit_handlers_print_on_stderr(tmp_path: Path) -> None:
    shutil.copy(HERE / "noisy.py", tmp_path)
    command = [sys.executable, "-m", "limpq_deploy", "build", "--model", "noisy:slow", "--json"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    ) as running:
        assert running.stderr is not None
        before = []
        for line in running.stderr:
            before.append(line)
            if line == "waiting\n":
                running.send_signal(signal.SIGINT)
                break
        stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 130, stderr
    assert json.loads(stdout) == {"error": "stopped before the answer", "exit_code": 130}
    assert "os.write exit" in stderr
    assert "Stopped. Finished stages are kept" in stderr


def test_sigterm_while_training_is_no_fault_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
            interruption.act()

    monkeypatch.setattr("limpq_deploy.pipeline.stages.run.run_build", stopped)
    done = CliRunner().invoke(main, ["build", "--json"])
    assert done.exit_code == 143
    assert "Stopped by SIGTERM" in done.stderr
    assert "your module" not in done.output
    assert json.loads(done.stdout) == {"error": "stopped before the answer", "exit_code": 143}


def test_people_read_the_table_on_standard_output_and_the_rest_on_stderr(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "limpq_deploy", "search", INDICATORS, *LIKE, "--solver", "highs"]
    done = _run(command, tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("layer ")
    assert "Copyright" not in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "> /dev/full", "| true"])
def test_an_answer_that_nobody_can_read_is_no_traceback(tmp_path: Path, closed: str) -> None:
    line = f"'{sys.executable}' -m limpq_deploy search '{INDICATORS}' --like w3a4 --solver highs --json {closed}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "policy.json").is_file()
    assert ("No space left" in done.stderr) == ("full" in closed)
    if closed == "2>&-":
        assert json.loads(done.stdout)["format"] == "limpq.policy/1"


def test_what_was_standard_output_is_so_again_when_a_command_ends(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    assert sys.stdout is before
    os.write(1, b"still here\n")
    out = capfd.readouterr().out.splitlines()
    assert json.loads(out[0])
    assert out[1:] == ["still here"]
