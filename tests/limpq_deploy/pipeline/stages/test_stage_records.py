"""Records that stages hand each other survive JSON."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import RecordError
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.pipeline.stages.comparison import Comparison
from limpq_deploy.pipeline.stages.measure import Measured
from limpq_deploy.train.evaluate import Accuracy, PairedComparison
from limpq_deploy.train.finetuned import FloatModel, Top1
from limpq_deploy.verdict.record import AccuracyResult

REAL = st.floats(allow_nan=False, allow_infinity=False)
BITS = st.integers(2, 8)
ACCURACY = st.builds(
    Accuracy,
    images=st.just(360),
    classes=st.integers(2, 1000),
    correct=st.integers(0, 360),
    top1=REAL,
    correct_top5=st.none() | st.integers(0, 360),
    top5=st.none() | REAL,
)
PAIRED = st.builds(
    PairedComparison,
    images=st.just(360),
    only_first=st.integers(0, 9),
    only_second=st.integers(0, 9),
    p_first_worse=st.floats(0, 1),
)
RESULT = st.builds(
    AccuracyResult,
    float=ACCURACY,
    mixed=ACCURACY,
    uniform8=st.none() | ACCURACY,
    uniform=st.none() | ACCURACY,
    uniform_bits=st.none() | st.just("w4a4"),
    against_uniform=st.none() | PAIRED,
)
RECORDS: dict[type, st.SearchStrategy[Any]] = {
    FloatModel: st.builds(FloatModel, source=st.text(max_size=20), top1=st.builds(Top1, val=REAL, test=REAL)),
    Comparison: st.builds(
        Comparison,
        pair=st.none() | st.tuples(BITS, BITS),
        same=st.booleans(),
        unrestricted=st.none() | st.tuples(BITS, BITS),
    ),
    Measured: st.builds(Measured, accuracy=RESULT),
}


@pytest.mark.parametrize("cls", RECORDS, ids=lambda cls: cls.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_stages_record_survives_json_and_no_other_format_is_taken_for_it(cls: type, data: st.DataObject) -> None:
    record = data.draw(RECORDS[cls])
    text = to_json(record)
    assert from_json(cls, text, "a file") == record
    with pytest.raises(RecordError, match=r"a file has format 'limpq\.other/1'"):
        from_json(cls, text.replace(record.format, "limpq.other/1"), "a file")


def test_uniform_bits_are_named_as_the_command_line_names_them() -> None:
    assert Comparison(pair=(4, 3), same=False).bits == "w4a3"
    assert Comparison(pair=None, same=False).bits is None


def test_a_comparison_says_whether_budgets_or_restrictions_leave_no_uniform_policy() -> None:
    assert Comparison(pair=(4, 3), same=False).sentence() == "beside w4a3"
    assert Comparison(pair=None, same=False).sentence() == "no uniform policy fits"
    kept = Comparison(pair=None, same=False, unrestricted=(4, 4)).sentence()
    assert kept == "no uniform policy keeps the restrictions (w4a4 keeps the budgets alone)"
