"""A build on unlucky machines: each ends with one sentence and exit code 1 (or 2), or is done in spite of it.

Disks that are full, quotas, file systems without locks and clocks that jump back are played by a small library that
stands before the C library's (`unlucky.c`); limits, users and folders are real. Cases of other users need root.
"""

import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .kills import MODEL, SETTINGS
from .tally import Tally, raw, unclean

SECONDS = 400
NOBODY = 54_321
"""A user that this machine does not know."""

ENOSPC, EDQUOT = "28", "122"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """``prepare``: puts the folder of a case in order; ``limit``: runs in the process before the build; ``codes``: exit
    codes that are right; ``words``: of which one stands in the sentence."""

    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], object] = lambda here: None
    limit: Callable[[], object] = lambda: None
    out: str | bytes = "out"
    codes: tuple[int, ...] = (1,)
    words: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def campaign(build: Path, scratch: Path, *, cases: int, seed: int) -> Tally:
    """``cases`` machines, of each kind in turn, each with an export of a small network to do."""
    tally, rng = Tally("machines"), random.Random(seed)
    library = _compile(scratch)
    machines = [(name, one) for name, one in MACHINES.items() if os.geteuid() == 0 or one.limit is not _become_nobody]
    for case in range(cases):
        name, machine = machines[case % len(machines)]
        here = scratch / f"case-{case}"
        here.mkdir()
        here.chmod(0o755)
        (here / "build.toml").write_text(SETTINGS)
        (here / "small_net.py").write_text(MODEL)
        machine.prepare(here)
        outcome, failure = _try(machine, here, library, str(rng.randrange(2_000, 120_000)))
        tally.count(f"{name}: {outcome}", failure and f"{name}, case {case} of seed {seed}: {failure}")
        shutil.rmtree(here, ignore_errors=True)
    return tally


def _try(machine: Machine, here: Path, library: Path, some_bytes: str) -> tuple[str, str | None]:
    unlucky = {name: value.replace("SOME", some_bytes) for name, value in machine.environment.items()}
    environment = {
        **{name: value for name, value in os.environ.items() if name not in machine.without},
        **({} if "LIMPQ_CACHE" in machine.without else {"LIMPQ_CACHE": str(here / "cache")}),
        **({"LD_PRELOAD": str(library)} if any(name.startswith("UNLUCKY") for name in unlucky) else {}),
        **{name: value.replace("HERE", str(here)) for name, value in unlucky.items()},
    }
    words = [sys.executable, "-m", "limpq_deploy", "export", "--config", "build.toml", "--out", machine.out]
    try:
        done = subprocess.run(
            words,
            cwd=here,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            env=environment,
            preexec_fn=machine.limit,
        )
    except subprocess.TimeoutExpired:
        return "hung", f"no end within {SECONDS} s"
    said = done.stderr.decode("utf-8", "backslashreplace")
    sentences = [line for line in said.splitlines() if line.startswith("Error: ")]
    outcome = f"exit code {done.returncode}"
    if "Traceback (most recent call last)" in said or done.returncode not in machine.codes:
        return outcome, said[-800:]
    if done.returncode in (1, 2) and len(sentences) != 1:
        return outcome, f"{len(sentences)} sentences: {said[-400:]}"
    if machine.words and not any(word in said for word in machine.words):
        return outcome, f"none of {machine.words} in: {said[-600:]}"
    return outcome, raw(said) or (unclean(sentences[0]) if sentences else None)


def _compile(scratch: Path) -> Path:
    library = scratch / "unlucky.so"
    source = Path(__file__).with_name("unlucky.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    library.chmod(0o755)
    for folder in (scratch, scratch.parent):
        folder.chmod(0o755)
    return library


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _damaged_state(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out/.lock").write_bytes(
        b"written by limpq-deploy: files here that bear the names of its results are replaced\n"
    )
    (here / "out/stages.json").write_text('{"stages": {')


def _all_may_write(here: Path) -> None:
    here.chmod(0o777)


def _cache_of_root(here: Path) -> None:
    _all_may_write(here)
    (here / "cache").mkdir(mode=0o755)


MACHINES = {
    "full disk": Machine(environment={"UNLUCKY_BYTES": "SOME", "UNLUCKY_ERRNO": ENOSPC}, words=("No space left",)),
    "quota": Machine(environment={"UNLUCKY_BYTES": "SOME", "UNLUCKY_ERRNO": EDQUOT}, words=("quota",)),
    "RLIMIT_FSIZE": Machine(limit=_small_files, words=("File too large",)),
    "few descriptors": Machine(limit=_few_files, codes=(0, 1)),
    "TMPDIR that is not there": Machine(environment={"TMPDIR": "HERE/nowhere"}, codes=(0,)),
    "no HOME": Machine(without=("HOME", "LIMPQ_CACHE", "XDG_CACHE_HOME"), codes=(0,)),
    "a user without a name": Machine(prepare=_all_may_write, limit=_become_nobody, codes=(0,)),
    "no HOME, a user without a name": Machine(
        prepare=_all_may_write,
        limit=_become_nobody,
        without=("HOME", "LIMPQ_CACHE", "XDG_CACHE_HOME"),
        codes=(0, 1),
    ),
    "another user's folder": Machine(limit=_become_nobody, words=("Permission denied",)),
    "another user's cache": Machine(prepare=_cache_of_root, limit=_become_nobody, words=("belongs to another user",)),
    "no locks": Machine(environment={"UNLUCKY_NOLOCK": "1"}, words=("cannot be locked",)),
    "a clock that jumps back": Machine(environment={"UNLUCKY_CLOCK": "1"}, codes=(0,)),
    "a damaged stages.json": Machine(prepare=_damaged_state, codes=(0,), words=("so all stages run again",)),
    "a name that is no UTF-8": Machine(out=b"out\xff", words=("is no UTF-8",)),
    "a folder of the system": Machine(out="/proc/limpq", words=("cannot write to /proc/limpq",)),
}
