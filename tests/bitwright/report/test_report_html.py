"""report.html: the right figures, one self-contained file, nothing injected, nothing invented."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from bitwright.report.html import build_html, write_html
from bitwright.report.schema import Mismatch, Report


class Page(HTMLParser):
    """Collects tags with their attributes, and the text of the body."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("style", "script"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.pieces.append(data)


def test_states_the_result_in_one_sentence(report: Report, run_folder: Path) -> None:
    heading = re.search(r"<h1>(.*?)</h1>", build_html(report, run_folder), re.S)
    assert heading is not None
    assert re.sub(r"<[^>]+>", "", heading[1]) == (
        "RFDN ×4 with 22 of 24 layers executed in int8 runs 3.21× faster (95 % interval 3.17–3.24) "
        "than ONNX Runtime fp32 and loses 0.127 dB PSNR-Y on Set14."
    )


def test_shows_the_figures_of_the_report(report: Report, run_folder: Path) -> None:
    text = Page(build_html(report, run_folder)).text
    for figure in (
        "171.4",
        "549.8",
        "(95 % interval 3.17–3.24) at batch 1",
        "interval 3.17–3.24, 1 thread",
        "611 kB",
        "1.75 MB",
        "35 %",
        "14.6×",
        "6.95 T",
        "476 G",
    ):
        assert figure in text, figure
    assert "Kept the limit of 0.15 dB" in text
    assert "29.113 dB" in text
    assert "28.050 → 27.924 dB" in text
    assert "−0.082 dB on this crop" in text
    assert "--data 'my photos'" in text


def test_needs_no_network(report: Report, run_folder: Path) -> None:
    html = build_html(report, run_folder)
    page = Page(html)
    assert "http:" not in html
    assert "https:" not in html
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "base")]
    sources = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert len(sources) == 8
    assert all((source or "").startswith("data:image/png;base64,") for source in sources)
    policy = [attributes["content"] or "" for _, attributes in page.tags if "http-equiv" in attributes]
    assert policy[0].startswith("default-src 'none'")


def test_hostile_names_stay_text(report: Report, run_folder: Path) -> None:
    hostile = "</style></script><script>alert(1)</script><img src=x onerror='a()'>\"{{ 7*7 }}"
    layers = (report.layers[0].model_copy(update={"name": hostile, "planned": hostile, "kernel": hostile}),)
    assert report.quality is not None
    assert report.latency is not None
    bad = report.model_copy(
        update={
            "layers": layers,
            "model": report.model.model_copy(update={"architecture": hostile, "path": hostile}),
            "device": report.device.model_copy(update={"name": hostile}),
            "latency": report.latency.model_copy(update={"baseline": hostile}),
            "pictures": (report.pictures[0].model_copy(update={"name": hostile}),),
            "quality": report.quality.model_copy(
                update={"engine": report.quality.engine.model_copy(update={"extra": {hostile: 1.0}})}
            ),
            "environment": {hostile: [hostile]},
            "command": (hostile,),
            "warnings": (hostile,),
            "timings_s": {hostile: 1.0},
        }
    )
    clean, page = Page(build_html(report, run_folder)), Page(build_html(bad, run_folder))
    assert [tag for tag, _ in page.tags].count("script") == [tag for tag, _ in clean.tags].count("script") == 1
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert not [attributes for _, attributes in page.tags if attributes.get("src") == "x"]
    assert "{{ 7*7 }}" in page.text
    classes = " ".join(attributes.get("class") or "" for _, attributes in page.tags)
    assert "<" not in classes


def test_a_mismatch_is_named_and_fails_the_audit(report: Report, run_folder: Path) -> None:
    assert report.audit is not None
    wrong = Mismatch(layer=report.layers[2].name, planned="int8", executed="fp32", kernel="ref_any", reason="no kernel")
    audit = report.audit.model_copy(update={"mismatches": (wrong,)})
    html = build_html(report.model_copy(update={"audit": audit}), run_folder)
    assert "Audit failed: 1 layer did not execute as planned" in html
    assert "1 layer did not execute as planned</h3>" in html
    assert html.count('<tr class="mismatch">') == 1
    assert "Audit failed" not in build_html(report, run_folder)


def test_what_was_not_measured_is_not_a_number(report: Report, run_folder: Path) -> None:
    partial = report.model_copy(
        update={"quality": None, "latency": None, "audit": None, "pictures": (), "plan_search": (), "timings_s": {}}
    )
    text = Page(build_html(partial, run_folder)).text
    assert "n/a: the engine was not timed in this run" in text
    assert "n/a: quality was not measured in this run" in text
    assert "Executed precision n/a" in text
    assert "governor n/a" in text
    assert "(executed precision n/a) was not timed (speed-up n/a) and its quality was not measured (n/a)." in text


def test_null_cells_print_na(report: Report, run_folder: Path) -> None:
    html = build_html(report, run_folder)
    assert html.count("<span>n/a</span>") == 1
    assert html.count("<code>n/a</code>") == 1
    first = re.search(r"first inference</th><td>(.*?)</td><td>(.*?)</td>", html)
    assert first is not None
    assert first.groups() == ("n/a", "n/a")


def test_missing_picture_is_shown_as_missing(report: Report, run_folder: Path) -> None:
    (run_folder / report.pictures[0].engine_png).unlink()
    (run_folder / report.pictures[1].float_png).write_bytes(b"not a picture")
    html = build_html(report, run_folder)
    assert html.count("picture file missing") == 2
    assert 'class="stage"' not in html


def test_a_busy_machine_and_a_missed_limit_are_said(report: Report, run_folder: Path) -> None:
    assert report.latency is not None
    update = {
        "latency": report.latency.model_copy(update={"noisy": True}),
        "limits": report.limits.model_copy(update={"reached": False}),
    }
    text = Page(build_html(report.model_copy(update=update), run_folder)).text
    assert "Machine was busy while measuring" in text
    assert "Limit of 0.15 dB not reached" in text


def test_same_report_gives_the_same_bytes(report: Report, run_folder: Path) -> None:
    path = write_html(report, run_folder)
    assert path == run_folder / "report.html"
    assert path.read_text("utf-8") == build_html(report, run_folder)
