"""The page: sections in order, one style sheet and, for the slider, one script, all in one file that asks for nothing.

Style and script are named by their hashes in the page's own Content-Security-Policy, so that nothing else can run in
it.
"""

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from limpq_deploy.calibration.files import write_text
from limpq_deploy.calibration.numbers.formats import width_name
from limpq_deploy.report import figures
from limpq_deploy.report.accuracy import accuracy_section
from limpq_deploy.report.answers_view import answers_section
from limpq_deploy.report.bounds import bounds_section
from limpq_deploy.report.candidates import candidates_section
from limpq_deploy.report.columns import ColumnChart
from limpq_deploy.report.costs import costs_section, model_name, ratio_text
from limpq_deploy.report.curves import curves_section
from limpq_deploy.report.inputs import ReportInputs
from limpq_deploy.report.latency import latency_section, threads_text
from limpq_deploy.report.layers import layers_section
from limpq_deploy.report.parity import parity_section
from limpq_deploy.report.prices import prices_section
from limpq_deploy.report.scales import scales_section
from limpq_deploy.report.shipping import shipping_section
from limpq_deploy.report.study_picture import study_section
from limpq_deploy.report.svg import shown
from limpq_deploy.report.verdict_view import verdict_section
from limpq_deploy.report.what_if import what_if_section

TEMPLATE = "report.html.j2"
STYLE, SCRIPT = "report.css", "report.js"


def write_report(path: Path, inputs: ReportInputs) -> None:
    """Write the page whole (temporary name, fsync, rename). Raises OutputError where that is not possible."""
    write_text(path, render_report(inputs))


def render_report(inputs: ReportInputs) -> str:
    """The page as HTML; a pure function of its inputs."""
    layers, scales, parity = layers_section(inputs), scales_section(inputs), parity_section(inputs)
    what_if = what_if_section(inputs)
    charts = [
        layers.chart,
        *((scales.learned, scales.moved, scales.winning and scales.winning.chart) if scales is not None else ()),
        parity.chart if parity is not None else None,
        what_if.chart if what_if is not None else None,
    ]
    style = whole_style(charts)
    script = resource(SCRIPT).strip() if what_if is not None else ""
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            inputs=inputs,
            verdict=verdict_section(inputs),
            shipping=shipping_section(inputs),
            accuracy=accuracy_section(inputs),
            costs=costs_section(inputs),
            layers=layers,
            candidates=candidates_section(inputs),
            scales=scales,
            latency=latency_section(inputs),
            study=study_section(inputs.study, inputs.rounds),
            bounds=bounds_section(inputs),
            parity=parity,
            reasons={missing.name: missing.reason for missing in inputs.verdict.not_measured},
            facts=_facts(inputs),
            what_if=what_if,
            prices=prices_section(inputs),
            answers=answers_section(inputs),
            curves=curves_section(inputs.curves),
            style=Markup(style),
            script=Markup(script),
            policy=Markup(security_policy(style, script)),
        )
    )


def whole_style(charts: Iterable[ColumnChart | None]) -> str:
    """The style sheet with the widths of these charts."""
    rules = dict.fromkeys(chart.rule for chart in charts if chart is not None)
    return "\n".join((resource(STYLE).strip(), *rules))


def security_policy(style: str, script: str) -> str:
    """What the page may do: show its own style and pictures, run its own script (a nothing where it has none)."""
    scripts = f" script-src {_hash(script)};" if script else ""
    return f"default-src 'none'; img-src data:; style-src {_hash(style)};{scripts} base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


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
def environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(resource),
        autoescape=True,
        finalize=shown,
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
        "width": width_name,
        "ratio": ratio_text,
        "model": model_name,
        "threads": threads_text,
    }


def resource(name: str) -> str:
    """The text of a file beside this one."""
    return files("limpq_deploy.report").joinpath(name).read_text(encoding="utf-8")
