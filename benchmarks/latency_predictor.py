"""Predicted against measured latency of networks that the predictor never saw, beside BitOps and the roofline."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import command
from benchmarks.common import markdown_table, write_results
from bitwright.foundation.errors import UsageError
from bitwright.runs.profile import profile
from bitwright.runs.profile_summary import ProfileRequest
from hw_profiles import bitops, load_profile
from hw_profiles.latency_table import LatencyTable, NetworkRow
from hw_profiles.predictor import Agreement, LatencyPredictor
from hw_profiles.predictor.kernel_model import Peaks
from hw_profiles.predictor.observations import architecture

TAUGHT = ("rlfn_x4", "imdn_x4", "rlfn_ntire_x4", "imdn_rtc_x2", "espcn_x4", "fsrcnn_x4")
HELD_OUT = ("rfdn_x4", "pan_x4")
TABLE, UNSEEN, PREDICTOR = "table.jsonl", "held_out.jsonl", "predictor.json"
_BITS = {"int8": 8, "bf16": 16, "fp16": 16}


def bitops_of(row: NetworkRow) -> float:
    """BitOps of what a network executes."""
    widths = [(kernel.macs, _BITS.get(kernel.precision, 32)) for kernel in row.kernels]
    return sum(bitops(macs, bits, bits) for macs, bits in widths)


def scaled(raw: Callable[[NetworkRow], float], taught: Sequence[NetworkRow]) -> Callable[[NetworkRow], float]:
    """A proxy times the one constant that fits the taught networks best in the median."""
    factor = statistics.median(row.ms.p50 / raw(row) for row in taught)
    return lambda row: raw(row) * factor


def measured(given: argparse.Namespace, names: Sequence[str], path: Path, *, grid: bool) -> LatencyTable:
    """The table at `path` with what it lacks measured."""
    checkpoints = tuple(given.data_root / "checkpoints" / f"{name}.pth" for name in names)
    sizes = tuple((side, side) for side in given.sides)
    common = {"device": given.device, "out": path, "threads": given.threads, "seconds": given.seconds}
    profile(ProfileRequest.model_validate({**common, "checkpoints": checkpoints, "grid": False, "sizes": sizes}))
    if grid:
        profile(ProfileRequest.model_validate({**common, "grid": True}))
    return LatencyTable.load(path)


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, write its results and return the text of its table."""
    device = load_profile(given.device)
    table = LatencyTable.load(given.table) if given.table else measured(given, TAUGHT, given.out / TABLE, grid=True)
    held_out = given.held_out
    unseen_table = (
        LatencyTable.load(held_out) if held_out else measured(given, HELD_OUT, given.out / UNSEEN, grid=False)
    )
    unseen = unseen_table.networks
    names = {architecture(row.network) for row in unseen}
    leaked = sorted({row.network for row in table.networks if architecture(row.network) in names})
    if leaked:
        raise UsageError(f"the table holds networks that must stay unseen: {', '.join(leaked)}")
    predictor = LatencyPredictor.fit(table, runtime=unseen[0].runtime, threads=given.threads, profile=device)
    predictor.save(given.out / PREDICTOR)
    peaks = Peaks.of(device, given.threads)
    if peaks is None:
        raise UsageError(f"the profile {device.id} has no peaks, so there is no roofline to compare with")
    taught = table.networks
    predictions = [predictor.predict(row.kernels) for row in unseen]
    times = [row.ms.p50 for row in unseen]
    roofline = scaled(lambda row: sum(peaks.ms(kernel) for kernel in row.kernels), taught)
    by_bitops = scaled(bitops_of, taught)
    guesses = {
        "predictor": [found.ms for found in predictions],
        "BitOps x constant": [by_bitops(row) for row in unseen],
        "roofline x constant": [roofline(row) for row in unseen],
    }
    agreements = {name: Agreement.of(values, times) for name, values in guesses.items()}
    rows = [
        [
            row.source,
            f"{row.ms.p50:.2f}",
            *(f"{values[k]:.2f} ({values[k] / row.ms.p50 - 1:+.1%})" for values in guesses.values()),
            f"{predictions[k].coverage:.0%}",
            "busy" if row.noisy else "quiet",
        ]
        for k, row in enumerate(unseen)
    ]
    text = "\n\n".join(
        [
            markdown_table(["never seen", "measured ms", *guesses, "coverage", "machine"], rows),
            markdown_table(
                ["method", "median error", "p90 error", "Kendall tau"],
                [
                    [name, f"{a.median:.1%}", f"{a.p90:.1%}", "n/a" if a.tau is None else f"{a.tau:.3f}"]
                    for name, a in agreements.items()
                ],
            ),
            f"Fitted on {len(table)} rows ({predictor.report.chosen}); own estimate: {predictor.report.agreement}."
            + (f" Unlike all others: {', '.join(predictor.report.unlike)}." if predictor.report.unlike else ""),
        ]
    )
    results = {
        "agreement": {name: found.model_dump(mode="json") for name, found in agreements.items()},
        "report": predictor.report.model_dump(mode="json"),
        "predicted_ms": guesses,
        "measured": [row.model_dump(mode="json", exclude={"kernels", "kernel_ms"}) for row in unseen],
        "coverage": [found.coverage for found in predictions],
        "uncovered": [list(found.uncovered) for found in predictions],
        "peak_memory_bytes_computed": [found.peak_memory_bytes for found in predictions],
    }
    write_results(given.out, "latency_predictor", results, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of checkpoints/")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latency_predictor"), help="results")
    parser.add_argument("--table", type=Path, default=None, help="latency table to fit on; without it one is measured")
    parser.add_argument("--held-out", type=Path, default=None, help="table of networks never seen; else measured")
    parser.add_argument("--device", default="x86-avx512-vnni-bf16", help="device profile")
    parser.add_argument("--threads", type=int, default=1, help="threads that latency is measured on")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed seconds of each engine")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128], help="height and width of the inputs")
    given = parser.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
