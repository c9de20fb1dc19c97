"""The page: sections in order, one template, one style sheet, all in one file without scripts."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from limpq_deploy.calibration.files import write_text
from limpq_deploy.report import figures
from limpq_deploy.report.accuracy import accuracy_section
from limpq_deploy.report.bounds import bounds_section
from limpq_deploy.report.candidates import candidates_section
from limpq_deploy.report.costs import costs_section, model_name, ratio_text
from limpq_deploy.report.inputs import ReportInputs
from limpq_deploy.report.latency import latency_section, threads_text
from limpq_deploy.report.layers import layers_section
from limpq_deploy.report.parity import parity_section
from limpq_deploy.report.scales import scales_section
from limpq_deploy.report.shipping import shipping_section
from limpq_deploy.report.study_picture import study_section
from limpq_deploy.report.verdict_view import verdict_section

TEMPLATE = "report.html.j2"
STYLE = "report.css"


def write_report(path: Path, inputs: ReportInputs) -> None:
    """Write the page whole (temporary name, fsync, rename). Raises OutputError where that is not possible."""
    write_text(path, render_report(inputs))


def render_report(inputs: ReportInputs) -> str:
    """The page as HTML; a pure function of its inputs."""
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            inputs=inputs,
            verdict=verdict_section(inputs),
            shipping=shipping_section(inputs),
            accuracy=accuracy_section(inputs),
            costs=costs_section(inputs),
            layers=layers_section(inputs),
            candidates=candidates_section(inputs),
            scales=scales_section(inputs),
            latency=latency_section(inputs),
            study=study_section(inputs.study, inputs.rounds),
            bounds=bounds_section(inputs),
            parity=parity_section(inputs),
            reasons={missing.name: missing.reason for missing in inputs.verdict.not_measured},
            facts=_facts(inputs),
            style=Markup(_resource(STYLE)),
        )
    )


def _facts(inputs: ReportInputs) -> dict[str, str]:
    """What was built; the caller's words stand instead of ours."""
    shape = "\N{MULTIPLICATION SIGN}".join(map(str, inputs.placement.input_shape))
    return {
        "Model": inputs.placement.model,
        "Target": inputs.placement.spec.description,
        "Input": f"{shape}, channels first",
        **inputs.built,
    }


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _filters()
    return environment


def _filters() -> dict[str, Any]:
    return {
        "count": figures.count,
        "giga": figures.giga,
        "size": figures.binary_size,
        "digits": figures.digits,
        "share": figures.percent,
        "signed": figures.signed,
        "bits": figures.bits,
        "ratio": ratio_text,
        "model": model_name,
        "threads": threads_text,
    }


def _resource(name: str) -> str:
    return files("limpq_deploy.report").joinpath(name).read_text(encoding="utf-8")
