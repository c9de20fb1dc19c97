"""A build on unlucky machines: each ends with one sentence and exit code 1, or is done in spite of it; and once the
misfortune is over, the same command goes on in the same folder.

Disks that fill up at a byte, quotas, file systems without locks and clocks that jump back are played by a small library
that stands before the C library's (`unlucky.c`); limits, users, folders and small file systems are real. Other users
and file systems need root, and a mount namespace of their own, which ends with the case.
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
NAMESPACE = ("unshare", "--mount")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """``prepare``: puts the folder of a case in order; ``limit``: runs in the process before the build; ``mounts``: a
    shell's words that do, in a namespace of the case; ``stranger``: another user builds; ``codes``: exit codes that are
    right; ``words``: of which one stands in the sentence of a failure, or in what is said where there is none;
    ``resumed``: whether the same command then has to succeed, without the misfortune."""

    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], object] = lambda here: None
    limit: Callable[[], object] = lambda: None
    mounts: str = ""
    stranger: bool = False
    command: str = "export"
    out: str | bytes = "out"
    resumed: bool = False
    codes: tuple[int, ...] = (1,)
    words: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def campaign(build: Path, scratch: Path, *, cases: int, seed: int) -> Tally:
    """``cases`` machines, of each kind in turn, each with an export of a small network to do."""
    tally, rng = Tally("machines"), random.Random(seed)
    library = _compile(scratch)
    lacking = {name: why for name, one in MACHINES.items() if (why := _lacking(one))}
    machines = [(name, one) for name, one in MACHINES.items() if name not in lacking]
    for case in range(cases):
        name, machine = machines[case % len(machines)]
        here = scratch / f"case-{case}"
        here.mkdir()
        here.chmod(0o755)
        (here / "build.toml").write_text(SETTINGS)
        (here / "small_net.py").write_text(MODEL)
        machine.prepare(here)
        outcome, failure = _try(machine, here, library, rng.randrange(2_000, 120_000))
        tally.count(f"{name}: {outcome}", failure and f"{name}, case {case} of seed {seed}: {failure}")
        shutil.rmtree(here, ignore_errors=True)
    for name, why in lacking.items():
        print(f"not tried: {name}: {why}", file=sys.stderr)
    return tally


def _lacking(machine: Machine) -> str | None:
    """Why a machine cannot be played here."""
    if (machine.stranger or machine.mounts) and os.geteuid() != 0:
        return "needs root"
    if machine.mounts and subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        return "no mount namespace is to be had"
    if machine.stranger:
        probe = [*_as_nobody(), sys.executable, "-c", "import limpq_deploy"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            return f"another user may not execute {sys.executable}"
    return None


def _as_nobody() -> list[str]:
    """Words before a command that another user runs. Where Python lies in a closed folder, as the home of root, a
    namespace shows that user an open one in its place, with nothing but Python in it."""
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    python = Path(sys.base_prefix).resolve()
    closed = [one for one in python.parents if not one.stat().st_mode & 0o001]
    if not closed:
        return become
    shown = (
        f'mount --bind "{python}" /mnt && mount -t tmpfs -o mode=755 none "{closed[-1]}" && mkdir -p "{python}"'
        f' && mount --bind /mnt "{python}"'
    )
    return [*NAMESPACE, "sh", "-c", f'{shown} && exec "$@"', "sh", *become]


def _try(machine: Machine, here: Path, library: Path, some: int) -> tuple[str, str | None]:
    outcome, said, failure = _run(machine, here, library, some)
    if failure is None and machine.resumed and outcome != "exit code 0":
        again, _, failure = _run(Machine(command=machine.command, codes=(0,)), here, library, some)
        return f"{outcome}, then {again}", failure and f"said {said[-300:]}; then {failure}"
    return outcome, failure


def _run(machine: Machine, here: Path, library: Path, some: int) -> tuple[str, str, str | None]:
    """(outcome, what was said, failure)."""
    unlucky = {name: value.replace("SOME", str(some)) for name, value in machine.environment.items()}
    environment = {
        **{name: value for name, value in os.environ.items() if name not in machine.without},
        **({} if "LIMPQ_CACHE" in machine.without else {"LIMPQ_CACHE": str(here / "cache")}),
        **({"LD_PRELOAD": str(library)} if any(name.startswith("UNLUCKY") for name in unlucky) else {}),
        **{name: value.replace("HERE", str(here)) for name, value in unlucky.items()},
    }
    words = [sys.executable, "-m", "limpq_deploy", machine.command, "--config", "build.toml", "--out", machine.out]
    if machine.stranger:
        words = [*_as_nobody(), *words]
    if machine.mounts:
        mounts = machine.mounts.replace("SOME", str(some))
        kept = '"$@"; code=$?; [ ! -d out ] || cp -a out kept; exit $code'
        words = [*NAMESPACE, "sh", "-c", f"{mounts} && {{ {kept}; }}", "sh", *words]
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
        return "hung", "", f"no end within {SECONDS} s"
    if (here / "kept").exists():
        shutil.rmtree(here / "out", ignore_errors=True)
        (here / "kept").rename(here / "out")
    said = done.stderr.decode("utf-8", "backslashreplace")
    return f"exit code {done.returncode}", said, _fault(machine, done.returncode, said)


def _fault(machine: Machine, code: int, said: str) -> str | None:
    sentences = [line for line in said.splitlines() if line.startswith("Error: ")]
    if "Traceback (most recent call last)" in said or code not in machine.codes:
        return f"exit code {code}: {said[-1200:]}"
    if code and len(sentences) != 1:
        return f"{len(sentences)} sentences: {said[-400:]}"
    spoken = code or machine.codes == (0,)
    if spoken and machine.words and not any(word in said for word in machine.words):
        return f"none of {machine.words} in: {said[-600:]}"
    return raw(said) or (unclean(sentences[0]) if sentences else None)


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
    resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))


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


NO_SPACE = ("No space left",)

MACHINES = {
    "full disk": Machine(environment={"UNLUCKY_BYTES": "SOME", "UNLUCKY_ERRNO": ENOSPC}, resumed=True, words=NO_SPACE),
    "small disk": Machine(
        mounts="mkdir out && mount -t tmpfs -o size=SOME none out", resumed=True, codes=(0, 1), words=NO_SPACE
    ),
    "no inodes": Machine(mounts="mkdir out && mount -t tmpfs -o nr_inodes=8 none out", resumed=True, words=NO_SPACE),
    "read-only disk": Machine(
        mounts="mkdir out && mount -t tmpfs -o ro none out", resumed=True, words=("Read-only file system",)
    ),
    "quota": Machine(environment={"UNLUCKY_BYTES": "SOME", "UNLUCKY_ERRNO": EDQUOT}, resumed=True, words=("quota",)),
    "RLIMIT_FSIZE": Machine(limit=_small_files, resumed=True, words=("File too large",)),
    "few descriptors": Machine(limit=_few_files, resumed=True, codes=(0, 1), words=("Too many open files",)),
    "TMPDIR that is not there": Machine(environment={"TMPDIR": "HERE/nowhere"}, codes=(0,)),
    "full TMPDIR": Machine(
        environment={"TMPDIR": "HERE/tmp"},
        mounts="mkdir tmp && mount -t tmpfs -o size=64k none tmp && ! cat /dev/zero > tmp/full",
        command="build",
        resumed=True,
        codes=(0, 1),
        words=NO_SPACE,
    ),
    "TMPDIR that fills up": Machine(
        environment={"TMPDIR": "HERE/tmp"},
        mounts="mkdir tmp && mount -t tmpfs -o size=SOME none tmp",
        command="build",
        resumed=True,
        codes=(0, 1),
        words=(*NO_SPACE, "did not write"),
    ),
    "no place for temporary files": Machine(
        environment={"TMPDIR": "HERE"},
        mounts=(
            'mkdir out cache && for one in /tmp /var/tmp "$PWD"; do mount --bind $one $one && '
            'mount -o remount,bind,ro $one; done; cd "$PWD" && for one in out cache; do '
            "mount -t tmpfs -o mode=700 none $one; done"
        ),
        resumed=True,
        codes=(0, 1),
        words=("temporary files can be written nowhere",),
    ),
    "no HOME": Machine(without=("HOME", "LIMPQ_CACHE", "XDG_CACHE_HOME"), codes=(0,)),
    "a user without a name": Machine(prepare=_all_may_write, stranger=True, codes=(0,)),
    "no HOME, a user without a name": Machine(
        prepare=_all_may_write,
        stranger=True,
        without=("HOME", "LIMPQ_CACHE", "XDG_CACHE_HOME"),
        codes=(0, 1),
    ),
    "another user's folder": Machine(stranger=True, words=("Permission denied",)),
    "another user's cache": Machine(prepare=_cache_of_root, stranger=True, words=("belongs to another user",)),
    "no locks": Machine(environment={"UNLUCKY_NOLOCK": "1"}, words=("cannot be locked",)),
    "a clock that jumps back": Machine(environment={"UNLUCKY_CLOCK": "1"}, codes=(0,)),
    "a damaged stages.json": Machine(prepare=_damaged_state, codes=(0,), words=("so all stages run again",)),
    "a name that is no UTF-8": Machine(out=b"out\xff", words=("is no UTF-8",)),
    "a folder of the system": Machine(out="/proc/limpq", words=("cannot write to /proc/limpq",)),
}
