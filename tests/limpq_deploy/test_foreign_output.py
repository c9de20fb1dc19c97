"""What others write to standard output while they run, at the level of file descriptors."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, os, subprocess
from limpq_deploy.foreign_output import duplicate, stdout_to_stderr
kept = duplicate(1)
assert kept > 2
with stdout_to_stderr():
    print("print")
    ctypes.CDLL(None).printf(b"printf\\n")
    subprocess.run(["echo", "echo"])
    os.write(kept, b"the answer\\n")
os.write(1, b"again\\n")
"""


@pytest.mark.parametrize("closed", ["", "2>&-"])
def test_all_of_it_goes_to_stderr_or_where_that_is_closed_nowhere(closed: str) -> None:
    line = f'"$0" -c "$1" {closed}'
    done = subprocess.run(["bash", "-c", line, sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "the answer\nagain\n"
    assert sorted(done.stderr.split()) == ([] if closed else ["echo", "print", "printf"])
