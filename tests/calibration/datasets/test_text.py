"""Names that can stand in a line of text."""

import sys

import numpy as np
import pytest

from limpq_deploy.calibration.datasets import DataSet, Preprocess, split_of_arrays
from limpq_deploy.calibration.datasets.text import require_plain, shown
from limpq_deploy.calibration.errors import DataError

GREY = Preprocess(height=2, width=2, mean=(0.0,), std=(1.0,), channels=1)


def _of(*classes: object) -> DataSet:
    split = split_of_arrays(np.zeros((len(classes), 2, 2), np.uint8), range(len(classes)), GREY)
    return DataSet(name="any", classes=classes, splits={"train": split}, fingerprint="")  # type: ignore[arg-type]


def test_every_character_that_python_splits_lines_on_is_refused() -> None:
    ends = [chr(number) for number in range(sys.maxunicode + 1) if len(f"a{chr(number)}b".splitlines()) == 2]
    assert "\u2028" in ends
    for end in ends:
        with pytest.raises(DataError, match=r"with an end of line \(U\+"):
            _of("x", f"a{end}b")


@pytest.mark.parametrize("name", ["\0", "a\tb", "\ud800", "\u202eabc", "\u2067abc", "", "  ", 3, None])
def test_a_data_set_of_the_user_has_classes_that_are_lines_of_text(name: object) -> None:
    with pytest.raises(DataError, match="data set 'any' has a class"):
        _of("x", name)


def test_names_of_any_language_are_names() -> None:
    names = (
        "gr\u00fcn",
        "\u732b",
        "\u05d7\u05ea\u05d5\u05dc",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f469\u200d\U0001f52c",
        "a, b: c",
    )
    require_plain(names, "here")
    assert len("".join(f"{name}\n" for name in names).splitlines()) == len(names)


def test_what_is_shown_is_one_line_of_utf8() -> None:
    assert shown("/a\n\udce9/b c") == "/a\\n\\udce9/b c"
    assert shown("gr\u00fcn") == "gr\u00fcn"
