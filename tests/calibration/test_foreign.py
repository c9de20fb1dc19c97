"""Errors of foreign code in one sentence: the cause and its line, no advertisement."""

import warnings

import numpy as np
import pytest

from limpq_deploy.calibration.foreign import cause, line_of, sentence_of

OF_TORCH = (
    "mat1 and mat2 shapes cannot be multiplied (1x4 and 3x2).\n\nWhile executing %linear : [num_users=1] = call_module"
    '\nOriginal traceback:\n  File "net.py", line 3\nUse tlparse to see full graph. (https://github.com/pytorch/tlparse)'
)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError(OF_TORCH), "mat1 and mat2 shapes cannot be multiplied (1x4 and 3x2)"),
        (RuntimeError('Unsupported: x\n\nSet TORCH_LOGS="+dynamo" for more'), "Unsupported: x"),
        (RuntimeError("Error(s) in loading:\n\tsize mismatch for a"), "Error(s) in loading: size mismatch for a"),
        (ValueError(), "ValueError"),
        (RuntimeError("While executing %x"), "RuntimeError"),
    ],
)
def test_the_cause_stands_without_what_torch_puts_behind_it(error: Exception, sentence: str) -> None:
    assert cause(error) == sentence


def test_the_line_is_the_innermost_of_the_users() -> None:
    with pytest.raises(ValueError, match="inhomogeneous") as raised, warnings.catch_warnings():
        np.asarray([[1], [1, 2]])
    assert line_of(raised.value) == f" (test_foreign.py:{raised.traceback[0].lineno + 1})"
    assert sentence_of(raised.value).startswith("ValueError: setting an array element with a sequence")


def test_an_error_without_a_traceback_has_no_line() -> None:
    assert sentence_of(KeyError("x")) == "KeyError: 'x'"
