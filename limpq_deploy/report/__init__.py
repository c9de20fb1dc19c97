"""The page that people look at: one self-contained HTML file, drawn from the records of a build."""

from limpq_deploy.report.inputs import ReportInputs
from limpq_deploy.report.page import render_report, write_report

__all__ = ["ReportInputs", "render_report", "write_report"]
