"""All methods of N:M training on the digits recipe: `python -m benchmarks.nm_methods`.

Small, for minutes on a CPU: it checks formulas and the ordering of diagnostics, and is no claim about large networks.
Every method has the same steps, the same initial weights and the same data order for a seed; in the second account,
as many steps as the FLOPs of the dense training pay for. A finished arm is a file: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import command
from benchmarks.common import markdown_table, write_results
from benchmarks.nm_digits import Arm, train
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_json
from bitwright.foundation.progress import track
from compress.sparsity import METHODS

PATTERNS = ("2:4", "1:8", "1:16", "1:32")
ARMS = "arms"
LARGEST_NOISE = 1e6
"""A ratio of noise to signal beyond it stands for a signal that was not positive."""
NO_SIGNAL = "no signal"


def arms_of(given: argparse.Namespace) -> list[Arm]:
    """Everything that is trained; the dense method once, whatever the pattern."""
    unknown = [name for name in given.methods if name not in METHODS]
    if unknown:
        raise UsageError(f"--methods: {unknown[0]!r} is not one of {', '.join(METHODS)}")
    found = []
    for method in given.methods:
        for pattern in given.patterns[:1] if method == "dense" else given.patterns:
            for flops in (False, True):
                if method == "dense" and flops:
                    continue
                found += [Arm(method, pattern, seed, flops, given.steps) for seed in range(given.seeds)]
    return found


def result_of(arm: Arm, folder: Path) -> dict[str, Any]:
    """The result of an arm, from its file where it was trained before."""
    path = folder / f"{arm.name}.json"
    if not path.is_file():
        write_json(path, train(arm))
    value = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def table_of(results: list[dict[str, Any]]) -> str:
    """One table for each pattern: both accounts side by side, and the diagnostics of equal steps beside them."""
    patterns = list(dict.fromkeys(r["pattern"] for r in results if r["method"] != "dense"))
    parts = []
    for pattern in patterns:
        rows = []
        for method in dict.fromkeys(r["method"] for r in results):
            chosen = [r for r in results if r["method"] == method and (r["pattern"] == pattern or method == "dense")]
            steps = [r for r in chosen if r["budget"] == "steps"]
            flops = [r for r in chosen if r["budget"] == "flops"] or (steps if method == "dense" else [])
            rows.append(
                [
                    method, _spread([100 * r["accuracy"] for r in steps], 2), _spread([r["nll"] for r in steps], 3),
                    f"{statistics.mean(r['flops_algorithmic'] for r in steps) / 1e9:.2f}",
                    f"{statistics.mean(r['flops_realisable'] for r in steps) / 1e9:.2f}",
                    _spread([100 * r["accuracy"] for r in flops], 2),
                    f"{statistics.mean(r['steps'] for r in flops):.0f}" if flops else "n/a",
                    *(_geometric([r[key] for r in steps]) for key in ("g_var", "v_var", "update_pruned")),
                    _noise([r["nsr"] for r in steps]),
                ]
            )  # fmt: skip
        titles = ("method", "accuracy %, equal steps", "NLL", "GFLOPs", "realisable", "accuracy %, equal FLOPs",
                  "steps", "g_var", "v_var", "update RMS, pruned", "nsr")  # fmt: skip
        parts.append(f"### {pattern}\n\n" + markdown_table(titles, rows))
    return "\n\n".join(parts)


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "n/a"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def _geometric(values: list[float | None]) -> str:
    known = [v for v in values if v is not None and v > 0]
    return f"{math.exp(statistics.mean(math.log(v) for v in known)):.2e}" if known else "n/a"


def _noise(values: list[float | None]) -> str:
    """Noise over signal; no figure where two half-batches did not even agree in direction in some measurement."""
    return NO_SIGNAL if any(v is not None and v > LARGEST_NOISE for v in values) else _geometric(values)


def benchmark(given: argparse.Namespace) -> str:
    """Train what is missing, write the results and return the tables."""
    torch.set_num_threads(1)
    arms = arms_of(given)
    results = [result_of(arm, given.out / ARMS) for arm in track(arms, "training arms")]
    head = f"## N:M methods on digits, {given.steps} steps, {given.seeds} seeds, mean ± standard deviation\n\n"
    text = head + table_of(results)
    written = {
        "rows": results,
    }
    write_results(given.out, "nm_methods", written, text, {given.out: "OUT"})
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = argparse.ArgumentParser(description="Compare all methods of N:M training on 8x8 digits.")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/nm_methods"), help="where results go")
    made.add_argument("--patterns", nargs="+", default=list(PATTERNS), metavar="N:M")
    made.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME")
    made.add_argument("--seeds", type=int, default=4)
    made.add_argument("--steps", type=int, default=1200, help="steps of the dense training")
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
