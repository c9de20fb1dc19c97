"""Write docs/cli.md from the commands' own ``--help``: python docs/renew_cli.py"""

import sys
from dataclasses import fields
from pathlib import Path
from textwrap import fill
from typing import Any

import click

from limpq_deploy.cli.main import main
from limpq_deploy.cli.options.grouped_help import GroupedCommand
from limpq_deploy.train.settings import Training

PAGE = Path(__file__).with_name("cli.md")

INTRODUCTION = """# Command line

Written by `python docs/renew_cli.py` from `--help`; do not edit.

Every command takes `--json`: one JSON object on stdout, everything else on stderr, what a model's or data set's own
code prints too. Of an error the object is `error` (the sentence) and `exit_code`. `NO_COLOR` switches colours off. No
command needs a network. What `--weights` and `--data` take: [inputs.md](inputs.md).

Where there is no terminal, a line says when a stage starts, and one every 30 s what is done and about what is left;
`-v` tells more and more often, `-q` nothing but the answer and errors. `build --help` shows the options that one begins
with, `build --help-all` every one, as here.

Your shell completes commands, options and their values (bash, zsh and fish):

```sh
eval "$(_LIMPQ_DEPLOY_COMPLETE=bash_source limpq-deploy)"        # in ~/.bashrc
eval "$(_LIMPQ_DEPLOY_COMPLETE=zsh_source limpq-deploy)"         # in ~/.zshrc
_LIMPQ_DEPLOY_COMPLETE=fish_source limpq-deploy | source         # in ~/.config/fish/config.fish
```

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | an error that you can act on, in one sentence: `Error: ...` |
| 2 | wrong usage |
| 3 | done, but the verdict failed |
| 130 | stopped with Ctrl-C; finished stages are kept |

A TOML file (`--config`) has the options' names as keys (`max_mib = 2.0`, `bits = [2, 4]`, `engine = false`), and a
section `[training]` with
{training}.
What they mean: `limpq_deploy.train.settings.Training`, and docs/training.md.
"""


def page() -> str:
    """The whole page as Markdown."""
    settings: dict[str, Any] = {**main.context_settings, "terminal_width": 100}
    context = click.Context(main, info_name="limpq-deploy", **settings)
    keys = ", ".join(f"`{field.name}`" for field in fields(Training))
    introduction = INTRODUCTION.replace("{training}", fill(keys, 118))
    parts = [introduction, _block("limpq-deploy", main.get_help(context))]
    for name, command in sorted(main.commands.items()):
        inner = click.Context(command, info_name=name, parent=context, terminal_width=100)
        parts.append(_block(f"limpq-deploy {name}", _help(command, inner)))
        for below, part in sorted(getattr(command, "commands", {}).items()):
            if not part.hidden:
                deeper = click.Context(part, info_name=below, parent=inner, terminal_width=100)
                parts.append(_block(f"limpq-deploy {name} {below}", part.get_help(deeper)))
    return "\n".join(parts)


def _help(command: click.Command, context: click.Context) -> str:
    """Of all options, where a command keeps most of them behind ``--help-all``."""
    return command.full_help(context) if isinstance(command, GroupedCommand) else command.get_help(context)


def _block(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.write(page())
    else:
        PAGE.write_text(page(), encoding="utf-8")
