"""report.html: one file that needs no network, no fonts and no library to be read in ten years."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import JsonValue

from bitwright.foundation.files import write_text
from bitwright.report import text, verdict, views
from bitwright.report.mask_chart import training_charts
from bitwright.report.pictures import compare
from bitwright.report.schema import Report


def build_html(report: Report, run_folder: Path) -> str:
    """The whole page; pictures are read from `run_folder`, and one that is missing is shown as missing."""
    style, script = _asset("report.css"), _asset("report.js")
    rows = views.image_rows(report.quality) if report.quality else ()
    shown, folded = views.worst_and_rest(rows)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            style=Markup(style),
            script=Markup(script),
            policy=_policy(script),
            phrases=verdict.sentence(report),
            title=verdict.plain_sentence(report),
            checks=verdict.checks(report),
            comparisons=[compare(picture, run_folder) for picture in report.pictures],
            latency_charts=views.latency_charts(report.latency) if report.latency else (),
            plan_chart=views.plan_chart(report),
            mask_charts=training_charts(report.sparsity.training) if report.sparsity else (),
            images=shown,
            images_folded=folded,
            layers=views.layer_rows(report),
            precisions=views.precision_rows(report),
            environment=[(key, _flat(value)) for key, value in report.environment.items()],
            total_s=sum(report.timings_s.values()),
            longest_s=max(report.timings_s.values(), default=0.0) or 1.0,
        )
    )


def write_html(report: Report, run_folder: Path) -> Path:
    """Write `report.html` into the run folder, atomically, and return its path; raises OutputError."""
    path = run_folder / "report.html"
    write_text(path, build_html(report, run_folder))
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bitwright.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=text.number,
        signed=text.signed,
        ms=text.milliseconds,
        duration=text.duration,
        scaled=text.scaled,
        ratio=text.ratio,
        shape=text.shape,
        shell=text.command_line,
        precision_style=views.precision_style,
    )
    environment.globals.update(
        interval=text.interval, percent=text.percent, ratio_interval=text.ratio_interval, na=text.NOT_AVAILABLE
    )
    return environment


def _asset(name: str) -> str:
    return resources.files("bitwright.report").joinpath("templates", name).read_text("utf-8")


def _policy(script: str) -> str:
    # Nothing may be fetched, and no script runs but ours: a second wall behind the escaping.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _flat(value: JsonValue) -> str:
    if value is None:
        return text.NOT_AVAILABLE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(str(item) for item in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
