from limpq_deploy.calibration.suggestions import did_you_mean


def test_the_nearest_names_are_offered_the_nearest_first() -> None:
    assert did_you_mean("tensort", ("onnxruntime", "tensorrt", "tensorrt_rtx")) == (
        "; did you mean 'tensorrt' or 'tensorrt_rtx'?"
    )


def test_dashes_and_capitals_do_not_count() -> None:
    assert did_you_mean("Max-Gbitop", ("max_gbitops", "bits")) == "; did you mean 'max_gbitops'?"


def test_nothing_is_offered_where_nothing_is_near() -> None:
    assert did_you_mean("xyz", ("like", "bits")) == ""
