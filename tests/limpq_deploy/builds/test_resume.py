"""Builds that are killed, interrupted, locked out, or run into a full disk: what finished stays, the rest is whole."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Command = Callable[..., Result]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

KILLED_BUILDS = """
import os, random, signal, sys, time
import limpq_deploy.pipeline.stages.run, limpq_deploy.cli.output.summary, onnxruntime, sklearn.datasets, onnxscript
from limpq_deploy.cli.main import main

arguments, state = sys.argv[2:], "out/stages.json"
moments = random.Random(0)
for stage in [*sys.argv[1].split(","), None]:
    child = os.fork()
    if child == 0:
        try:
            main(arguments)
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code)
    while stage is not None and not (os.path.exists(state) and (not stage or f'"{stage}"' in open(state).read())):
        time.sleep(0.01)
    if stage is not None:
        time.sleep(moments.uniform(0.0, 1.2))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
"""Builds in forked children of a process that has loaded everything. Each is killed a random while after a stage was
recorded; the last one is left alone."""


def test_builds_killed_at_any_moment_end_in_the_same_files(finished: Path, settings: Path, here: Path) -> None:
    stages = ["", "float", "indicators", "finetune", "export", "latency"]
    arguments = ["build", "--config", str(settings), "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_BUILDS, ",".join(stages), *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    codes = [int(line) for line in done.stdout.splitlines() if line.lstrip("-").isdigit()]
    assert len(codes) == len(stages) + 1, done.stderr
    assert codes[:3] == [-9, -9, -9], done.stderr
    assert codes[-1] == 0, done.stderr
    names = sorted(path.name for path in finished.glob("*.safetensors"))  # without uniform's where it is the policy
    assert len(names) >= 3
    assert sorted(path.name for path in (here / "out").glob("*.safetensors")) == names
    for name in names:
        assert (here / "out" / name).read_bytes() == (finished / name).read_bytes(), name
    assert (here / "out/model.qdq.onnx").read_bytes() == (finished / "model.qdq.onnx").read_bytes()
    assert not [path for path in (here / "out").rglob("*") if path.name.endswith(".tmp")]


def test_ctrl_c_says_a_sentence_and_the_next_build_goes_on(
    run: Command, finished: Path, settings: Path, here: Path
) -> None:
    command = [sys.executable, "-m", "limpq_deploy", "build", "--config", str(settings), "--out", "out"]
    with subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    ) as build:
        assert build.stderr is not None
        said = [build.stderr.readline() for _ in range(4)]
        stages = ["> given model", "+ given model", "> float model", "+ float model"]
        assert [line[:13] for line in said] == stages
        time.sleep(0.5)  # the indicators are being trained
        build.send_signal(signal.SIGINT)
        out, err = build.communicate(timeout=600)
    assert build.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "Stopped. Finished stages are kept; the same command goes on from there."
    assert "Traceback" not in err
    result = run("indicators", "--config", settings, "--out", "out")
    assert "= float model" in result.stderr
    assert (here / "out/joint.safetensors").read_bytes() == (finished / "joint.safetensors").read_bytes()
    assert not [path for path in (here / "out").rglob("*") if path.name.endswith(".tmp")]


def test_a_second_build_on_a_directory_says_so_and_stops(
    refused: Callable[..., str], settings: Path, copy: Path
) -> None:
    with (copy / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused("build", "--config", settings, "--out", "out", words=("another build is running in out", "--out"))
        refused("parity", "out", words=("another build is running in out",))


def test_a_full_disk_leaves_old_files_whole_and_says_so(settings: Path, copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def no_file_beyond_100_kb() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    assert soft == resource.RLIM_INFINITY or soft > 1_000_000
    arguments = ["build", "--config", str(settings), "--out", "out", "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "limpq_deploy", *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=no_file_beyond_100_kb,
    )
    assert done.returncode == 1, done.stderr
    *_, line = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert line.startswith("Error: cannot write out/float.safetensors: ")
    assert "File too large" in line
    changed = {path.name for path, data in before.items() if path.read_bytes() != data}
    assert changed == {
        "config.json",
        "stages.json",
        "given.json",
        "float.jsonl",
    }  # and the log of the training that could not be kept
    assert not [path for path in copy.rglob("*") if path.name.endswith(".tmp")]


def test_a_full_disk_under_stdout_is_one_sentence(finished: Path, here: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "limpq_deploy", "search", finished / "indicators.json", "--like", "w4a4"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: the system refused: No space left on device")
