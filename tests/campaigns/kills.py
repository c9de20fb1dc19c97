"""A build killed at a file event, again and again: each is resumed, and ends in the files of one that nobody disturbed.

Of four kills two are SIGKILL, one is SIGTERM and one SIGINT; half of them strike at the event itself, half up to 20 ms
after it, in the middle of what follows.
"""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .resumed import differences
from .tally import Tally

MODEL = """
from torch import nn


def net():
    first = [nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    second = [nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    third = [nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*first, *second, *third, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
"""
SETTINGS = """
model = "small_net:net"
like = "w5a5"
bits = [4, 5, 6]
max-accuracy-drop = 100.0
latency_seconds = 0.01
[training]
float-steps = 8
joint_steps = 3
finetune_steps = 6
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
EVENTS = frozenset(("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"))
PRELOADED = (
    *("limpq_deploy.cli.main", "limpq_deploy.pipeline.stages.run", "limpq_deploy.cli.output.summary"),
    *("torch.onnx", "onnxscript", "torch.export", "torch._dynamo", "onnxruntime", "sklearn.datasets", "pulp"),
)
"""What the server of processes has imported, so that each build begins at once."""

LONGEST_DELAY_S = 0.02
SAID, COUNT = "said.txt", "events"

Blow = tuple[int, signal.Signals, float]
"""At which file event, by what, and how many seconds after it."""


def campaign(build: Path, scratch: Path, *, cases: int, seed: int) -> Tally:
    """``cases`` kills, each of a build from nothing: four of five up to the export, every fifth of all stages.

    ``build`` is not looked at: the network here is smaller.
    """
    tally, rng = Tally("kills"), random.Random(seed)
    os.environ["LIMPQ_CACHE"] = str(scratch / "cache")
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(list(PRELOADED))
    undisturbed = {}
    for case in range(cases):
        command = "build" if case % 5 == 4 else "export"
        if command not in undisturbed:
            undisturbed[command] = _folder(scratch / command)
            if _run(start, command, undisturbed[command], None)[0] != 0:
                raise RuntimeError(f"it does not run: {(undisturbed[command] / SAID).read_text()[-400:]}")
        whole = undisturbed[command]
        events = int((whole / COUNT).read_text())
        kind = SIGNALS[case % len(SIGNALS)]
        blow = (rng.randrange(1, events), kind, rng.choice((0.0, rng.uniform(0, LONGEST_DELAY_S))))
        outcome, failure = _killed(start, command, _folder(scratch / "killed"), whole, blow)
        where = f"{kind.name} {1000 * blow[2]:.0f} ms after event {blow[0]} of {events} of {command}"
        tally.count(outcome, failure and f"{where}, case {case} of seed {seed}: {failure}")
    return tally


def _killed(start: Any, command: str, folder: Path, whole: Path, blow: Blow) -> tuple[str, str | None]:
    kind = blow[1]
    code, said = _run(start, command, folder, blow)
    if code == 0 and blow[2]:  # it had ended by then: at the event itself
        code, said = _run(start, command, _folder(folder), (blow[0], kind, 0.0))
    if code == 0:
        return f"{kind.name}, without effect", "the build went on to its end"
    if (kind is signal.SIGKILL and code == -kind) or (code == EXIT_CODES.get(kind) and _is_clean(said)):
        outcome = kind.name
    else:
        return f"{kind.name}, wrong end", f"exit code {code}: {said[-400:]}"
    code, said = _run(start, command, folder, None)
    if code != 0:
        return f"{kind.name}, not resumed", f"exit code {code}: {said[-400:]}"
    found = differences(folder / "out", whole / "out")
    return outcome, f"differs from the undisturbed build: {', '.join(found)}" if found else None


def _is_clean(said: str) -> bool:
    return "Stopped" in said and "Traceback" not in said


def _folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "build.toml").write_text(SETTINGS)
    (folder / "small_net.py").write_text(MODEL)
    return folder


def _run(start: Any, command: str, folder: Path, blow: Blow | None) -> tuple[int, str]:
    """(exit code, what it said) of a build in a process of its own; that of a signal is negative."""
    process = start.Process(target=_child, args=(command, folder, blow))
    process.start()
    process.join()
    return process.exitcode, (folder / SAID).read_text(errors="replace")


def _child(command: str, folder: Path, blow: Blow | None) -> None:
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    said = os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    counted = _count(str(folder / "out"), blow)
    from limpq_deploy.cli.main import main

    try:
        main([command, "--config", "build.toml", "--out", "out"])
    finally:
        with contextlib.suppress(OSError):
            Path(COUNT).write_text(str(counted[0]))
        sys.stderr.flush()


def _count(out: str, blow: Blow | None) -> list[int]:
    """Count the file events below ``out`` from now on, in the one number that is returned, and strike at one."""
    counted = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        if not os.path.abspath(os.fspath(arguments[0])).startswith(out):
            return
        counted[0] += 1
        if blow is not None and counted[0] == blow[0]:
            if blow[2]:
                threading.Thread(target=_strike, args=(blow[1], blow[2]), daemon=True).start()
            else:
                _strike(blow[1], 0.0)

    sys.addaudithook(hook)
    return counted


def _strike(kind: signal.Signals, delay: float) -> None:
    time.sleep(delay)
    os.kill(os.getpid(), kind)
