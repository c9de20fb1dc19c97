"""Reports of several runs: compared in one environment, refused across environments, gathered into tables."""

from dataclasses import replace

import pytest

from limpq_deploy.export.records.environment import Environment, read_environment
from limpq_deploy.export.timing.compare import Incomparable, compare, merge, unmatched
from limpq_deploy.export.timing.report import LatencyReport, LatencySeries, Threads
from limpq_deploy.export.timing.timing_statistics import latency_stats

HERE = read_environment()


def series(name: str, ms: float, *, threads: Threads = 1, **more: object) -> LatencySeries:
    """Forty calls round a median, in four turns."""
    samples = tuple(ms * (1 + 0.01 * (number % 5 - 2)) for number in range(40))
    return LatencySeries(
        name=name,
        threads=threads,
        batch=1,
        samples_ms=samples,
        turns=(10,) * 4,
        warm_up_calls=3,
        settle_calls=4,
        stats=latency_stats(samples, (10,) * 4, seed=0),
        **more,  # type: ignore[arg-type]
    )


def report(*found: LatencySeries, environment: Environment = HERE, model: str | None = "net") -> LatencyReport:
    return LatencyReport(environment=environment, protocols=(), series=found, model=model)


def test_a_series_that_takes_half_the_time_is_twice_as_fast() -> None:
    (change,) = compare(report(series("mixed", 2.0), series("gone", 1.0)), report(series("mixed", 1.0)))
    assert (change.name, change.before_ms, change.after_ms) == ("mixed", 2.0, 1.0)
    assert change.ratio == pytest.approx(2)
    assert change.low <= 2 <= change.high
    assert 1.9 < change.low <= change.high < 2.1


def test_results_of_other_environments_are_refused_with_what_differs() -> None:
    there = replace(HERE, cpu="another CPU", libraries={**HERE.libraries, "onnxruntime": "0.0.1"})
    with pytest.raises(Incomparable, match=r"different environments.*cpu: .* not another CPU.*onnxruntime: .*0\.0\.1"):
        compare(report(series("mixed", 1)), report(series("mixed", 1), environment=there))


def test_other_settings_and_other_figures_are_refused() -> None:
    with pytest.raises(Incomparable, match="'mixed' was measured with another options"):
        compare(
            report(series("mixed", 1, options={"option": "a"})), report(series("mixed", 1, options={"option": "b"}))
        )
    with pytest.raises(Incomparable, match=r"another figure \(call, not compute\)"):
        compare(report(series("mixed", 1)), report(series("mixed", 1, figure="compute")))


def test_nothing_in_common_is_said_with_both_lists() -> None:
    with pytest.raises(Incomparable, match=r"mixed \(1 thread, batch 1\) before, mixed \(2 threads, batch 1\) after"):
        compare(report(series("mixed", 1)), report(series("mixed", 1, threads=2)))


def test_series_of_one_result_alone_are_named() -> None:
    before = report(series("mixed", 1), series("float", 2))
    after = report(series("mixed", 1), series("mixed", 1, threads=2))
    assert unmatched(before, after) == (
        "only before, not compared: float (1 thread, batch 1)",
        "only after, not compared: mixed (2 threads, batch 1)",
    )
    assert unmatched(before, before) == ()


def test_a_fleet_has_one_table_for_each_model_and_device_with_speedups_of_each_run() -> None:
    there = replace(HERE, cpu="B device")
    fleet = merge(
        {
            "b.json": report(series("float", 4.0), series("mixed", 1.0), environment=there),
            "a.json": report(series("float", 3.0), series("mixed", 2.0)),
            "alone.json": report(series("mixed", 2.0), model="other"),
        }
    )
    assert {(table.model, table.device) for table in fleet.tables} == {
        ("net", HERE.device),
        ("net", "B device"),
        ("other", HERE.device),
    }
    rows = {(table.model, table.device, row.name): row for table in fleet.tables for row in table.rows}
    assert rows["net", "B device", "mixed"].speedup == pytest.approx(4)
    assert rows["net", HERE.device, "mixed"].speedup == pytest.approx(1.5)
    assert rows["other", HERE.device, "mixed"].speedup is None
    assert rows["net", "B device", "mixed"].source == "b.json"


def test_another_version_on_the_same_device_is_a_table_apart() -> None:
    newer = replace(HERE, libraries={**HERE.libraries, "onnxruntime": "99"})
    found = merge({"old": report(series("mixed", 2)), "new": report(series("mixed", 1), environment=newer)})
    first, second = found.tables
    assert first.differs == ()
    assert "onnxruntime: 99" in second.differs[0]
