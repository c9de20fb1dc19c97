"""The command line's page is what the commands say of themselves."""

import importlib.util
from pathlib import Path

RENEW = Path(__file__).parents[2] / "docs/renew_cli.py"


def test_the_page_of_commands_is_current() -> None:
    spec = importlib.util.spec_from_file_location("renew_cli", RENEW)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert RENEW.with_name("cli.md").read_text(encoding="utf-8") == module.page(), "run: python docs/renew_cli.py"
