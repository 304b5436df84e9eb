"""What each installed runtime gains from N:M: `python -m benchmarks.nm_runtimes`.

A stack of 3x3 and one of 1x1 convolutions, dense and under each pattern, in fp32 and int8, built alike and timed in one
interleaved session for each stack and precision. A sparse engine is compared with the dense one of its own runtime and
precision, never with another precision. Where the capability table knows of no kernel, the word is "size only"
whatever the clock says; a ratio that leaves 5 % there is told as a contradiction, and is no speed-up either.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.common import markdown_table, speedup_text, write_results
from benchmarks.nm_stacks import DENSE, MODEL, Sizes, Stack, build, export
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_text
from compress.nm_pattern import Sparsity
from deploy.engine import Runtime
from deploy.engines import ENGINES
from deploy.latency import Candidate, Clock, ComparisonResult, LoadGate, Speedup, measure
from hw_profiles import DType, Op, installed_runtimes, load_profile
from hw_profiles.sparsity_support import SIZE_ONLY, Use, work_left

PATTERNS = ("2:4", "1:4", "1:8", "1:16", "1:32")
TOLERANCE = 0.05
"""How far a ratio may lie from 1 where the capability table knows of no kernel."""
CONTRADICTED = f"{SIZE_ONLY}; the clock contradicts the table"
FASTER, NO_GAIN = "faster", "no gain measured"


def verdict(left: float, ratio: float, paired: Speedup) -> str:
    """What may be said of a sparse engine. `left`: share of work by the capability table; `ratio`: dense over sparse.

    `ratio` is of the least CPU times, `paired` of whole rounds with its interval.
    """
    if left == 1.0:
        return SIZE_ONLY if abs(ratio - 1) < TOLERANCE else CONTRADICTED
    return FASTER if paired.low is not None and paired.low > 1.0 else NO_GAIN


def runtimes(wanted: Sequence[str] = ()) -> tuple[Runtime, ...]:
    """Those installed ones whose engines run on any machine, or those `wanted` of them; UsageError where one lacks."""
    installed = installed_runtimes()
    found = tuple(
        runtime
        for runtime in ENGINES
        if installed.get(runtime.value) and not runtime.compiles and runtime.why_not_timed is None
    )
    if not found:
        raise UsageError("no runtime is installed; install onnxruntime or openvino")
    for name in wanted:
        if name not in found:
            raise UsageError(f"--runtimes: {name!r} is not among {', '.join(found)}")
    return tuple(runtime for runtime in found if not wanted or runtime.value in wanted)


def session(given: argparse.Namespace, stack: Stack, dtype: DType) -> tuple[ComparisonResult, dict[str, Sizes]]:
    """All engines of a stack in one precision, timed together; sizes by pattern."""
    folder = given.out / command.WORK / f"{stack.kernel}x{stack.kernel}-{dtype.value}"
    sizes, candidates = {}, []
    for name in (DENSE, *given.patterns):
        source = folder / name.replace(":", "of") / MODEL
        sizes[name] = export(stack, None if name == DENSE else Sparsity.parse(name), dtype, source)
        for runtime in runtimes(given.runtimes):
            place = source.parent / runtime.value
            build(stack, source, place, runtime, given.device)
            candidates.append(Candidate(f"{runtime.value} {name}", place))
    np.save(folder / "input.npy", stack.example().numpy())
    result = measure(
        candidates, input_file=folder / "input.npy", threads=given.threads, min_seconds=given.seconds,
        min_samples=given.samples, max_seconds=120.0 + 4.0 * given.seconds * len(candidates), seed=given.seed,
        percentiles=(50.0,), gate=LoadGate.for_session(given.seconds),
    )  # fmt: skip
    write_text(folder / "latency.json", result.model_dump_json() + "\n")
    return result, sizes


def rows_of(given: argparse.Namespace, stack: Stack, dtype: DType, times: ComparisonResult,
            sizes: dict[str, Sizes]) -> list[dict[str, Any]]:  # fmt: skip
    """One row for each runtime and pattern, the dense ones among them."""
    arch = load_profile(given.device).arch
    rows = []
    for runtime in runtimes(given.runtimes):
        base = f"{runtime.value} {DENSE}"
        least = min(times.measurement(base).cpu_ms)
        for name in (DENSE, *given.patterns):
            arm = f"{runtime.value} {name}"
            measured = times.measurement(arm)
            row = {
                "stack": stack.name, "precision": dtype.value, "runtime": runtime.value, "pattern": name,
                "baseline": f"{base} {dtype.value}", "n": len(measured.cpu_ms), "cpu_min_ms": min(measured.cpu_ms),
                "noise": [noise.value for noise in measured.noise], **sizes[name].__dict__,
                "ratio": least / min(measured.cpu_ms), "paired": None, "work_left": None, "verdict": "",
            }  # fmt: skip
            if name != DENSE:
                pattern = Sparsity.parse(name)
                left = work_left(Use(
                    runtime.value, Op.CONV, dtype, pattern.n, pattern.m, features=tuple(arch.features),
                    isa=arch.isa or "", in_channels=stack.width, out_channels=stack.width,
                ))  # fmt: skip
                paired = times.speedup(arm, base, Clock.CPU)
                said = verdict(left, float(row["ratio"]), paired)
                row |= {"paired": paired.model_dump(mode="json"), "work_left": left, "verdict": said}
            rows.append(row)
    return rows


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """The truth table, and below it what it says of the claim that nothing gains where no kernel is known."""
    cells = [
        [
            f"{r['stack']}, {r['precision']}", r["runtime"], r["pattern"], f"{r['cpu_min_ms']:.3f}",
            "" if r["paired"] is None else f"{r['ratio']:.3f}",
            "" if r["paired"] is None else speedup_text(Speedup.model_validate(r["paired"])), r["verdict"],
            f"{r['raw'] / 1e3:.0f}", f"{r['deflated'] / 1e3:.0f}", f"{r['packed'] / 1e3:.0f}",
        ]
        for r in rows
    ]  # fmt: skip
    titles = ("stack", "runtime", "pattern", "CPU ms, least", "dense / sparse", "paired [95 %]", "verdict", "kB",
              "deflated", "packed")  # fmt: skip
    silent = [r for r in rows if r["work_left"] == 1.0]
    broken = [r for r in silent if r["verdict"] != SIZE_ONLY]
    end = f"\n\nWhere no kernel is known, {len(silent) - len(broken)} of {len(silent)} ratios lie within 5 % of 1."
    return markdown_table(titles, cells) + end


def benchmark(given: argparse.Namespace) -> str:
    """Build and time everything, write the results and return the text of the table."""
    rows: list[dict[str, Any]] = []
    notes = []
    for kernel in given.kernels:
        stack = Stack(kernel, given.width, given.depth, given.side)
        for precision in given.precisions:
            times, sizes = session(given, stack, DType(precision))
            rows += rows_of(given, stack, DType(precision), times, sizes)
            notes += sorted({noise.value for m in times.measurements for noise in m.noise})
    place = f"{times.environment.cpu_model}, {given.threads} thread(s), environment {times.environment.fingerprint}"
    rough = f" **Rough: {'; '.join(sorted(set(notes)))}.**" if notes else ""
    text = f"## N:M in the runtimes, {place}\n\n{table_of(rows)}{rough}"
    results = {
        "environment": times.environment.model_dump(mode="json"),
        "rows": rows,
    }
    hidden = {given.out: "OUT", Path(__file__).resolve().parents[1]: "REPOSITORY"}
    write_results(given.out, "nm_runtimes", results, text, hidden)
    return text


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        description="Time dense and N:M stacks in every installed runtime.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/nm_runtimes"), help="where results go")
    made.add_argument("--device", default="x86-avx512-vnni-bf16", help="device profile")
    made.add_argument("--patterns", nargs="+", default=list(PATTERNS), metavar="N:M")
    made.add_argument("--kernels", nargs="+", type=int, default=[3, 1], help="kernel sizes of the stacks")
    made.add_argument("--precisions", nargs="+", default=["fp32", "int8"], choices=["fp32", "int8"])
    made.add_argument("--runtimes", nargs="+", default=[], metavar="NAME", help="those of the installed ones, or all")
    made.add_argument("--width", type=int, default=64, help="channels")
    made.add_argument("--depth", type=int, default=6, help="convolutions of a stack")
    made.add_argument("--side", type=int, default=64, help="height and width of the timed input")
    made.add_argument("--seconds", type=float, default=5.0, help="timed seconds of each engine, at least")
    made.add_argument("--samples", type=int, default=100, help="timed runs of each engine, at least")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--seed", type=int, default=0)
    return made


def main() -> int:
    """Parse the command line, run and print."""
    given = parser().parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
