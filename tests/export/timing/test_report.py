import json
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport, LatencySeries
from limpq_deploy.export.timing.timing_loop import measure_interleaved
from limpq_deploy.export.timing.timing_statistics import latency_stats

QUICK = LatencyProtocol(warm_up_ms=5, settle_ms=0, turn_ms=2, turn_calls=2, min_seconds=0.02, min_iterations=10)


def work(times: int) -> Callable[[], object]:
    """A callable whose cost is proportional to ``times``."""
    return lambda: sum(range(2000 * times))


def test_the_report_survives_json_with_every_sample_and_finds_series_by_name_and_threads() -> None:
    single = LatencyProtocol(threads=1, warm_up_ms=1, settle_ms=0, turn_ms=1, min_seconds=0, min_iterations=10, batch=2)
    options = {"mixed": {"intra_op_num_threads": 1}}
    series = measure_interleaved({"mixed": work(1), "float": work(2)}, single, options=options)
    report = LatencyReport(environment=read_environment(), protocols=(single,), series=series)
    again = from_json(LatencyReport, to_json(report), "latency.json")
    assert again == report
    assert again.find("mixed", threads=1, batch=2).options == options["mixed"]
    assert statistics.median(again.series[0].samples_ms) == pytest.approx(again.series[0].stats.p50_ms)
    with pytest.raises(LookupError, match=r"no latency of 'mixed' with default threads"):
        again.find("mixed", threads="default", batch=2)


@pytest.mark.parametrize("samples", [(), (float("inf"),), (float("nan"),), (0.0,), (-1.0,)])
def test_what_is_no_measurement_is_no_series(samples: tuple[float, ...]) -> None:
    (real,) = measure_interleaved({"work": work(1)}, QUICK)
    with pytest.raises(ValueError, match="'work' has"):
        LatencySeries(
            name="work",
            threads=1,
            batch=1,
            samples_ms=samples,
            turns=(len(samples),),
            warm_up_calls=3,
            settle_calls=0,
            stats=real.stats,
        )


def test_by_default_a_series_has_three_seconds_ten_calls_and_two_hundred_milliseconds_of_warm_up() -> None:
    protocol = LatencyProtocol()
    assert (protocol.min_seconds, protocol.min_iterations, protocol.warm_up_ms) == (3.0, 10, 200.0)


def test_series_of_one_name_are_told_apart_by_how_many_runs_a_call_makes() -> None:
    protocols = QUICK, replace(QUICK, streams=4, batch=2)
    series = [measure_interleaved({"mixed": work(1), "float": work(3)}, one) for one in protocols]
    report = LatencyReport(
        environment=read_environment(), protocols=protocols, series=tuple(one for pair in series for one in pair)
    )
    alone = report.find("mixed", threads="default")
    many = report.find("mixed", threads="default", batch=2, streams=4)
    assert (alone.streams, many.streams, str(many.setting)) == (1, 4, "default threads, batch 2, 4 at once")
    assert many.images_per_second == pytest.approx(8 * 1000 / statistics.mean(many.samples_ms))
    assert report.speedup("mixed", "float", threads="default", batch=2, streams=4).streams == 4
    with pytest.raises(LookupError, match="with default threads, batch 2; measured: mixed with default threads"):
        report.find("mixed", threads="default", batch=2)
    with pytest.raises(ValueError, match="two series"):
        replace(report, series=(alone, alone))
    before = {key: value for key, value in json.loads(to_json(alone)).items() if key != "streams"}
    assert from_json(LatencySeries, json.dumps(before), "series") == alone


def test_images_per_second_are_those_of_whole_calls_where_a_part_is_the_figure() -> None:
    samples = (1.0,) * 12
    series = LatencySeries(
        name="mixed",
        threads="default",
        batch=8,
        samples_ms=samples,
        turns=(12,),
        warm_up_calls=3,
        settle_calls=1,
        stats=latency_stats(samples, (12,), seed=0),
        figure="compute",
        parts_ms={"call": (3.0,) * 11 + (15.0,), "copy_in": (3.0,) * 12},
    )
    assert series.images_per_second == 2000
