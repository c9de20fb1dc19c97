"""The tutorial as a stranger copies it: its files, then its commands in their order, in an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+) ?(\w*)\n(.*?)^```$", re.M | re.S)


def files() -> dict[str, str]:
    """Python blocks by the name in their first line."""
    found = [text for language, _, text in BLOCK.findall(PAGE) if language == "python"]
    return {text.split("\n", 1)[0].removeprefix("# "): text for text in found}


def commands(place: str = "") -> list[list[str]]:
    text = "".join(text for language, where, text in BLOCK.findall(PAGE) if (language, where) == ("sh", place))
    return [shlex.split(line) for line in text.splitlines()]


def test_the_page_has_files_with_names_and_commands_for_two_places() -> None:
    assert list(files()) == ["draw.py", "nets.py", "train.py"]
    assert [words[0] for words in commands("server")] == ["tritonserver", "limpq-deploy"]
    assert {where for _, where, _ in BLOCK.findall(PAGE)} == {"", "server"}
    programs = [words[0] for words in commands()]
    assert programs == ["pip", "python", "python", *["limpq-deploy"] * 8]


@pytest.mark.slow
def test_every_command_runs_to_its_end(tmp_path: Path) -> None:
    for need in ("onnxruntime", "torch", "onnxscript", "tritonclient"):
        pytest.importorskip(need, reason="needs the extras limpq-deploy[train,cpu,serve]")
    for name, text in files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    programs = {"python": [sys.executable], "limpq-deploy": [sys.executable, "-m", "limpq_deploy"]}
    for program, *words in commands():
        if program == "pip":
            continue
        done = subprocess.run(
            [*programs[program], *words], cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False
        )
        assert done.returncode == 0, (program, words, done.stdout[-2000:], done.stderr[-2000:])
    for folder in ("quick", "mixed"):
        verdict = json.loads((tmp_path / folder / "verdict.json").read_text())
        assert verdict["outcome"] in ("passed", "undecided")  # 600 test images cannot always tell
        assert verdict["accuracy"]["float"]["top1"] > 80  # the network learned what it was shown
        assert (tmp_path / folder / "report.html").is_file()
    assert (tmp_path / "front.svg").is_file()
    assert (tmp_path / "models/nets_shapes/config.pbtxt").is_file()
