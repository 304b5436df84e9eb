"""Our curve beside NNCF: `python -m benchmarks.tradeoff --data-root DIR`.

For each network: `bitwright curve`, NNCF's default and its accuracy-controlled mode, the rest of each in fp32 and in
bf16. All are calibrated on the same crops of sr/train, evaluated on Set5 and Set14 on the engine itself, and timed in
one interleaved session of the points on our front with NNCF's engines. Arms that are finished are not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from benchmarks import command
from benchmarks.arms import Arm, ArmRecord, Network, Prepared, claim, finished
from benchmarks.common import write_results
from benchmarks.main_job_arms import BASELINE, Settings, arms_of, names_of
from benchmarks.session import Timing, timed
from benchmarks.tables import circumstances, rows_of, table_of
from benchmarks.tradeoff_chart import draw
from bitwright.foundation.errors import BitwrightError
from bitwright.report.tradeoff_curve import CurvePoint, TradeoffCurve
from deploy.latency import ComparisonResult

CURVE = "curve"


def curve_command(network: Network, settings: Settings, points: int, run: Path) -> list[str]:
    """The words behind `python -m bitwright`."""
    size = "x".join(map(str, settings.input_shape[2:]))
    words = ["curve", str(network.checkpoint), "--device", settings.device, "--data", str(network.train)]
    words += ["--eval", str(network.test / "Set14"), "--out", str(run), "--points", str(points), "--input-size", size]
    shared = (f"seed={settings.seed}", f"calibration_count={settings.crops}", f"calibration_size={settings.crop_side}")
    for option in (*shared, *settings.options):
        words += ["--set", option]
    return words


def our_curve(network: Network, settings: Settings, points: int) -> tuple[TradeoffCurve, Path]:
    """Run `bitwright curve` to its end, or on from where it was stopped; returns the curve and its run folder."""
    run = network.work / CURVE
    run.parent.mkdir(parents=True, exist_ok=True)
    if not (run / "curve.json").is_file():
        words = [sys.executable, "-m", "bitwright", *curve_command(network, settings, points, run), "--resume"]
        log = network.work / "curve.log"
        with log.open("ab") as output:
            done = subprocess.run(words, stdout=output, stderr=output, check=False)
        if done.returncode:
            raise BitwrightError(f"{network.name}: bitwright curve ended with {done.returncode}; see {log}")
    return TradeoffCurve.model_validate_json((run / "curve.json").read_bytes()), run


def point_arm(point: CurvePoint, curve: TradeoffCurve, run: Path) -> Arm:
    """A point of our front as an arm; its engine lies in the curve's run folder."""

    def prepare(_: Path) -> Prepared:
        layers = (point.executed.get("int8", 0), sum(point.executed.values()))
        details: dict[str, JsonValue] = {"label": point.label, "audit_passed": point.audit_passed}
        return Prepared(run / point.engine, sum(curve.timings_s.values()), layers=layers, details=details)

    return Arm(f"bitwright {point.name}", prepare)


def compared(rows: list[dict[str, Any]], slower: Callable[[str, str], bool]) -> list[dict[str, Any]]:
    """For each NNCF engine: the best PSNR of those of ours that are not `slower`(ours, theirs)."""
    ours = [row for row in rows if row["arm"].startswith("bitwright")]
    found = []
    for row in (row for row in rows if row["arm"].startswith("nncf")):
        within = [our for our in ours if not slower(our["arm"], row["arm"])]
        best = max(within, key=lambda our: our["psnr_db"]["Set14"], default=None)
        margin = None if best is None else best["psnr_db"]["Set14"] - row["psnr_db"]["Set14"]
        found.append({"arm": row["arm"], "ours": None if best is None else best["arm"], "margin_db": margin})
    return found


def measurably_slower(times: ComparisonResult) -> Callable[[str, str], bool]:
    """Whether the 95 % interval of an arm's speed-up over another, paired by round, lies below 1."""

    def slower(ours: str, theirs: str) -> bool:
        speedup = times.speedup(ours, theirs)
        return (speedup.ratio if speedup.high is None else speedup.high) < 1.0

    return slower


def search_time(curve: TradeoffCurve, run: Path) -> dict[str, float]:
    """Seconds of what the search for plans took, and how many plans it predicted: of the round that predicted most."""
    stages = curve.timings_s
    entries = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    rounds = [entry["values"] for entry in entries if entry["stage"].startswith("plans ")]
    # Curves of earlier versions did not record these two.
    recorded = all("solving_s" in values and "predicted" in values for values in rounds)
    return {
        "sensitivities": stages.get("sensitivity", 0.0),
        "timing kernels in place": sum(s for name, s in stages.items() if name.startswith("cost ")),
        "fitting and solving": sum(s for name, s in stages.items() if name.startswith("plans ")),
        **({"of that solving": sum(values["solving_s"] for values in rounds)} if recorded else {}),
        "plans": max((values["predicted"] for values in rounds), default=0) if recorded else 0,
    }


def verdict(found: list[dict[str, Any]]) -> str:
    """One line for each NNCF engine."""
    lines = []
    for entry in found:
        if entry["margin_db"] is None:
            lines.append(f"- {entry['arm']}: all points of ours are measurably slower")
        else:
            margin = f"{entry['ours']} has {entry['margin_db']:+.3f} dB"
            lines.append(f"- {entry['arm']}: of ours that are not measurably slower, {margin}")
    return "\n".join(lines)


def of_network(given: argparse.Namespace, name: str) -> tuple[dict[str, Any], str]:
    """Results and text of one network."""
    timing: Timing = command.timing_of(given)
    network = command.network_of(given, name)
    settings = Settings(
        device=given.device,
        drops=(),
        crops=given.crops,
        crop_side=given.crop_side,
        seed=given.seed,
        accuracy_control=not given.no_accuracy_control,
        accuracy_drop=given.accuracy_drop,
        options=tuple(given.set),
        input_shape=timing.input_shape(network),
        images=given.images,
    )
    claim(network, {**settings.decisive(), "points": given.points})
    started = time.monotonic()
    curve, run = our_curve(network, settings, given.points)
    front = [point for point in curve.front if point.name != curve.baseline]
    peers = [arm for arm in arms_of(network, settings) if not arm.name.startswith("nncf mixed")]
    arms = [*peers, *(point_arm(point, curve, run) for point in front)]
    records: list[ArmRecord] = [finished(network, arm) for arm in arms]
    times = timed(network, records, timing)
    rows = rows_of(records, times, BASELINE)
    against, searched = compared(rows, measurably_slower(times)), search_time(curve, run)
    draw(name, rows, given.out / f"{name}.png")
    results = {
        "checkpoint_sha256": network.loaded.sha256,
        "rows": rows,
        "against_nncf": against,
        "measured_points": len(curve.points),
        "non_dominated": len(curve.front),
        "search_s": searched,
        "arms": [record.model_dump(mode="json") for record in records],
        "latency": times.model_dump(mode="json"),
        "seconds": time.monotonic() - started,
    }
    parts = ", ".join(f"{part} {s:.1f} s" for part, s in searched.items() if part != "plans")
    plans = f"The search predicted {searched['plans']:.0f} plans" if searched["plans"] else "The search"
    told = f"{len(curve.front)} of {len(curve.points)} measured points are not dominated. {plans}: {parts}."
    table = table_of(records, times, BASELINE, preparation=False)
    return results, f"## {name}\n\n{table}\n\n{told}\n\n{verdict(against)}\n\n{circumstances(times)}"


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, writing the results after each network, and return the text of all tables."""
    networks: dict[str, Any] = {}
    sections: list[str] = []
    for name in names_of(given.networks):
        networks[name], section = of_network(given, name)
        sections.append(section)
        results = {
            "baseline": BASELINE,
            "seed": given.seed,
            "networks": networks,
        }
        write_results(given.out, "tradeoff", results, "\n\n".join(sections), command.hidden(given))
    return "\n\n".join(sections)


def main() -> int:
    """Parse the command line, run and print."""
    parser = command.parser("Compare bitwright curve with NNCF.", "benchmarks/results/tradeoff")
    parser.add_argument("--networks", default="rfdn_x4,imdn_x4,pan_x4,rlfn_x4", help="stems of checkpoints")
    parser.add_argument("--points", type=int, default=12, help="mixed engines of each curve, at most")
    parser.add_argument("--no-accuracy-control", action="store_true", help="without NNCF's slow mode")
    parser.add_argument("--accuracy-drop", type=float, default=0.1, help="drop that this mode is asked for, dB")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of bitwright")
    given = parser.parse_args()
    return command.run(partial(_print, given))


def _print(given: argparse.Namespace) -> None:
    print(benchmark(given))


if __name__ == "__main__":
    sys.exit(main())
