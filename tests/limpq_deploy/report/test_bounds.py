"""The section of bounds: only with a table of prices, and never called a latency."""

from dataclasses import replace

from limpq_deploy.export.timing.cost_table import CostTable
from limpq_deploy.export.timing.gpu_peaks import GPUS
from limpq_deploy.report import ReportInputs
from limpq_deploy.report.bounds import bounds_section
from limpq_deploy.report.page import render_report

from ...cost_tables import cost_table


def prices(inputs: ReportInputs) -> CostTable:
    """Int8 moves twice what FP16 does."""
    macs = {layer.name: layer.macs for layer in inputs.placement.layers}
    return cost_table(macs, {(8, 8): dict.fromkeys(macs, 2e6), (16, 16): dict.fromkeys(macs, 1e6)}, batch=8)


def test_the_page_says_on_which_gpus_int8_is_not_expected_to_pay(small: ReportInputs) -> None:
    assert bounds_section(small) is None
    assert "Bounds on named GPUs" not in render_report(small)
    priced = replace(small, cost_table=prices(small), latency=None)
    section = bounds_section(priced)
    assert section is not None
    assert [row.gpu for row in section.rows] == list(GPUS)
    assert all("Int8 is not expected to pay" in row.words and "take fp16" in row.words for row in section.rows)
    page = render_report(priced)
    assert "bounds at batch 8, no latencies. Nothing was timed here." in page
    assert "white paper" in page
