"""Runs command lines (JSON on stdin) in this one process, each with a standard output of its own, as a program does.

Writes JSON: of each line its words, exit code and what arrived at file descriptor 1 until the next one began.
"""

import json
import os
import sys
from pathlib import Path

from limpq_deploy.cli.main import main

found = []
for words in json.load(sys.stdin):
    collected = os.open("stdout", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(collected, 1)
    os.close(collected)
    sys.stdout = sys.__stdout__
    print("+", *words, file=sys.stderr)
    try:
        main(words, prog_name="limpq-deploy")
    except SystemExit as end:
        code = end.code
    except Exception as error:  # what the interpreter would show with a traceback
        code = f"{type(error).__name__}: {error}"
    found.append({"words": words, "code": code, "stdout": Path("stdout").read_text()})
Path("answers.json").write_text(json.dumps(found))
