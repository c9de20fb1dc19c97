"""What people read of a timing."""

import pytest

from limpq_deploy.cli.output.latency import latency_table, profile_table
from limpq_deploy.cli.output.tables import needed_width, table
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.timing.report import LatencyProtocol, LatencyReport, LatencySeries
from limpq_deploy.export.timing.table import LatencyTable, PartTime
from limpq_deploy.export.timing.timing_statistics import latency_stats


def series(name: str, streams: int, *doubts: str) -> LatencySeries:
    samples = (1.0,) * 12
    return LatencySeries(
        name=name,
        threads=1,
        batch=1,
        streams=streams,
        samples_ms=samples,
        turns=(12,),
        warm_up_calls=3,
        settle_calls=1,
        stats=latency_stats(samples, (12,), seed=0),
        doubts=doubts,
    )


def test_a_doubt_about_all_series_of_a_run_names_the_run_alone() -> None:
    found = (
        *(series("mixed", 1, "busy"), series("float", 1, "busy", "drift")),
        *(series("mixed", 2, "busy"), series("float", 2)),
    )
    protocols = (LatencyProtocol(threads=1), LatencyProtocol(threads=1, streams=2))
    lines = latency_table(LatencyReport(environment=read_environment(), protocols=protocols, series=found)).splitlines()
    assert " ".join(lines[:2]).split(": busy")[0] == (
        "doubtful: all (1 thread, batch 1); mixed (1 thread, batch 1, 2 at once)"
    )
    assert "doubtful: float (1 thread, batch 1): drift" in lines


def test_a_graph_that_was_refused_is_told_below_the_profile() -> None:
    time = PartTime(layers=("stem",), weight_bits=8, act_bits=8, ms=0.5)
    found = LatencyTable(model="m", device="d", times=(time,), refused={"mixed 2": "no implementation for stem"})
    assert profile_table(found).splitlines()[-1] == (
        "mixed 2 is left out, no engine of it is built: no implementation for stem"
    )


@pytest.mark.parametrize("columns", [60, 72, 80, 90, 100, 110, 125, 140])
def test_no_number_is_cut_however_narrow_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    found = (series("float", 1), series("mixed", 4), series("uniform8", 4))
    protocols = (LatencyProtocol(threads=1), LatencyProtocol(threads=1, streams=4))
    text = latency_table(LatencyReport(environment=read_environment(), protocols=protocols, series=found))
    assert "…" not in text
    assert all(len(line) <= columns for line in text.splitlines())
    head = next(line for line in text.splitlines() if line.startswith("model"))
    assert {"at once", "p50 ms", "p99 ms"} <= {name.strip() for name in head.split("   ")}
    assert ("1.000 (1.000-1.000)" in text) == (columns >= 110)


def test_tables_stand_closer_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    header, rows = ("model", "top-1\nof all", "last"), [("mixed, untrained", "95.1 %", "of the three")]
    room = needed_width(header, rows)
    assert room == len("mixed, untrained") + len("95.1 %") + len("of the three") + 6
    for columns, gap in ((max(60, room), 3), (room - 1, 2)):
        monkeypatch.setattr("limpq_deploy.cli.output.tables.width", lambda columns=columns: columns)
        assert f"mixed, untrained{' ' * gap}95.1 %{' ' * gap}of the three" in table(header, rows)
