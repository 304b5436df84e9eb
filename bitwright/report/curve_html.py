"""curve.html: one page that needs no network; points can be clicked for their plan, layer by layer."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bitwright.report import text
from bitwright.report.curve_chart import COLOURS, WORDS
from bitwright.report.curve_terminal import counts
from bitwright.report.tradeoff_curve import CurvePoint, TradeoffCurve


def build_html(curve: TradeoffCurve) -> str:
    """The whole page with plotly in it, about 5 MB; the table is there without scripts too."""
    from plotly.offline import get_plotlyjs

    script, library = _asset("curve.js"), str(get_plotlyjs())
    points = sorted(curve.points, key=lambda p: p.latency.ms)
    data = {
        "metric": curve.metric,
        "unit": curve.unit,
        "dataset": curve.dataset.words,
        "baseline": curve.baseline,
        "chosen": curve.chosen.point if curve.chosen is not None else None,
        "kinds": {kind.value: {"word": WORDS[kind], "colour": COLOURS[kind]} for kind in WORDS},
        "points": [_data(point) for point in points],
    }
    return (
        _environment()
        .get_template("curve.html.j2")
        .render(
            curve=curve,
            points=points,
            front=curve.front,
            base=curve.point(curve.baseline),
            style=Markup(_asset("curve.css")),
            script=Markup(script),
            library=Markup(library),
            policy=_policy(script, library),
            # "<" would let a layer's name end the element that holds the data.
            data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),
            colours={kind.value: colour for kind, colour in COLOURS.items()},
            counts={point.name: counts(point) for point in points},
        )
    )


def _data(point: CurvePoint) -> dict[str, Any]:
    """What the page's script draws of a point."""
    return {
        **point.model_dump(mode="json", exclude={"planned", "layers"}),
        "layers": [[x.name, x.op, x.macs, x.planned, x.executed, x.kernel] for x in point.layers],
        "size_text": text.scaled(point.size_bytes, "B"),
        "bitops_text": text.scaled(point.bitops),
    }


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
        number=text.number, signed=text.signed, ms=text.milliseconds, scaled=text.scaled, ratio=text.ratio,
        shape=text.shape, shell=text.command_line, duration=text.duration,
    )  # fmt: skip
    environment.globals.update(na=text.NOT_AVAILABLE)
    return environment


def _asset(name: str) -> str:
    return resources.files("bitwright.report").joinpath("templates", name).read_text("utf-8")


def _policy(*scripts: str) -> str:
    # Nothing may be fetched, and no script runs but these: a second wall behind the escaping.
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii") for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"
