"""The command line's page is what the commands say of themselves."""

import subprocess
import sys
from pathlib import Path

RENEW = Path(__file__).parents[2] / "docs/renew_cli.py"


def test_the_page_of_commands_is_current() -> None:
    """In a process of its own: click remembers a command's help option, with the order in which it was first asked."""
    printed = subprocess.run([sys.executable, RENEW, "--print"], capture_output=True, text=True, check=True).stdout
    assert RENEW.with_name("cli.md").read_text(encoding="utf-8") == printed, "run: python docs/renew_cli.py"
