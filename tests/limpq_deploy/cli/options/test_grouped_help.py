"""Help of a build: the options that one begins with, the names of the others, and everything in groups."""

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from limpq_deploy.cli.main import main
from limpq_deploy.cli.options.grouped_help import GROUPS, OTHERS, START, GroupedCommand

BUILD = main.commands["build"]
OPTION = re.compile(r"^  (--?[\w-]+)", re.MULTILINE)


def shown(*words: str) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_ten_options_come_first_and_the_rest_by_name() -> None:
    text = shown("build", "--help")
    begin, more = text.split("Start here:")[1].split("More, with")
    assert len(GROUPS[START]) == 10
    assert len(OPTION.findall(begin)) <= 14  # --fresh, --json and the two of help beside the ten
    for title in ("Budgets", "Training", "TensorRT", "Checks"):
        assert f"  {title}: --" in more
    assert "--max-gbitops" in more
    assert "1 G = 1e9" not in text


def test_all_of_them_are_behind_help_all_in_groups() -> None:
    text = shown("build", "--help-all")
    assert re.findall(r"^(\w[\w ]+):$", text, re.MULTILINE) == [*GROUPS, OTHERS]
    named = {name for one in BUILD.params for name in one.opts if not one.hidden}  # type: ignore[attr-defined]
    assert named <= set(re.findall(r"--?[\w-]+", text))


def test_every_option_of_a_build_has_its_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    beside = {one.name for one in BUILD.params} - set(grouped)
    assert beside == {"fresh", "as_json", "help_all"}


@pytest.mark.parametrize("name", ["indicators", "finetune", "export", "compile"])
def test_the_commands_of_its_stages_have_it_too(name: str) -> None:
    assert isinstance(main.commands[name], GroupedCommand)
    assert "1 G = 1e9" in shown(name, "--help-all")


def test_the_option_for_a_model_lists_every_form() -> None:
    text = " ".join(shown("build", "--help").split())
    for form in ("resnet8", "mobilenet_v1", "torchvision/NAME", "timm/NAME", "package.module:factory"):
        assert form in text


def test_the_shell_is_told_how_to_complete() -> None:
    environment = {
        "_LIMPQ_DEPLOY_COMPLETE": "bash_complete",
        "COMP_WORDS": "limpq-deploy build --targ",
        "COMP_CWORD": "2",
    }
    code = "from limpq_deploy.cli.main import main; main(prog_name='limpq-deploy')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "plain,--target\n"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("biuld",), "build"),
        (("build", "--modle", "resnet8"), "--model"),
        (("build", "--target", "onnxruntme"), "onnxruntime"),
        (("build", "--target", "tensort"), "tensorrt"),
        (("search", "x", "--outliers", "forbit"), "forbid"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(words: tuple[str, ...], meant: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert re.search(rf"[Dd]id you mean.*'{meant}'", result.stderr), result.stderr
