"""GPUs by name: what one engine may be for."""

import pytest

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import BY_NUMBER, CAPABILITIES, DEFAULT, capabilities_named


def test_one_engine_is_for_several_gpus_in_the_tables_order() -> None:
    assert [one.number for one in capabilities_named(("sm120", "sm86", "sm86"))] == ["8.6", "12.0"]
    assert [one.name for one in capabilities_named(DEFAULT)] == ["sm86", "sm89", "sm120"]
    assert BY_NUMBER["8.9"].enum == "SM89"


def test_turing_stands_alone() -> None:
    assert [one.name for one in capabilities_named(("sm75",))] == ["sm75"]
    with pytest.raises(SettingError, match=r"names sm75 beside sm86, sm89; an engine for both has no int8"):
        capabilities_named(("sm86", "sm75", "sm89"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "names no GPU; expected some of sm75, sm86, sm89, sm120, sm121"),
        (("",), "names 'nothing'; expected some of"),
        (("sm86", "ada"), "names 'ada'; expected some of"),
        (("sm90",), "names sm90 .H100, H200., which TensorRT-RTX does not run on.*--target tensorrt"),
    ],
)
def test_others_are_refused_in_a_sentence(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        capabilities_named(names)


def test_the_table_says_what_is_admitted() -> None:
    admits = {name: set(one.convolutions) for name, one in CAPABILITIES.items()}
    assert "int8" not in admits["sm75"]
    assert "fp8" in admits["sm89"] - admits["sm86"]
    assert {name for name, one in CAPABILITIES.items() if "nvfp4" in one.products} == {"sm120", "sm121"}
