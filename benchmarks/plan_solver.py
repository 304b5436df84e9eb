"""How long solving for a front of plans takes: `python -m benchmarks.plan_solver RUN ...`, RUN of `bitwright curve`.

The first round of a finished curve is planned again, from the sensitivities, kernels and times that its run folder
holds: a front of int8 with each float precision of the runtime. What is measured is the integer programs, from their
set-up to the last plan, and beside it how long the sensitivities took when the curve was made.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.common import markdown_table, write_results
from bitwright.recipes import load_recipe
from bitwright.runs.curve import timed
from bitwright.runs.curve_costs import calibrations, float_precisions
from bitwright.runs.curve_plans import mixed_plans
from bitwright.runs.curve_points import uniform
from bitwright.runs.curve_request import CurveRequest
from bitwright.runs.folder import REQUEST, RunFolder
from bitwright.runs.job import Job

TITLES = ("network", "layers", "float precisions", "plans", "sensitivities s", "solving s [range]")


def solved(run: Path, rounds: int) -> dict[str, Any]:
    """Plan the first round of a curve `rounds` times."""
    request = CurveRequest.model_validate({**load_recipe(run / REQUEST, CurveRequest).settings, "out": run})
    with RunFolder.open(request, resume=True) as folder:
        job = Job.open(request.job_request(), folder)
        points = uniform(job)
        known, costs = timed(job, points), calibrations(job, points, None)
        planned = [mixed_plans(job, known, costs, request.points) for _ in range(rounds)]
        return {
            "network": job.request.checkpoint.stem,
            "layers": len(job.table.rows),
            "float_precisions": list(float_precisions(job)),
            "plans": planned[0].predicted,
            "sensitivities_s": folder.timings().get("sensitivity", 0.0),
            "solving_s": [one.solving_s for one in planned],
        }


def benchmark(given: argparse.Namespace) -> str:
    """Solve all, write the results and return the text of the table."""
    rows = [solved(run, given.rounds) for run in given.runs]
    cells = []
    for row in rows:
        seconds = row["solving_s"]
        shown = f"{statistics.median(seconds):.1f} [{min(seconds):.1f}, {max(seconds):.1f}]"
        precisions = ", ".join(row["float_precisions"])
        cells.append([row["network"], str(row["layers"]), precisions, str(row["plans"]),
                      f"{row['sensitivities_s']:.0f}", shown])  # fmt: skip
    text = f"## Planning the first round of a curve, {given.rounds} times\n\n{markdown_table(TITLES, cells)}"
    names = {run.parent: run.resolve().parent.name for run in given.runs}
    write_results(given.out, "plan_solver", {"rows": rows}, text, {**names, given.out: "OUT"})
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = argparse.ArgumentParser(
        description="Time the search for plans of finished curves.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="finished run folders of `bitwright curve`")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/plan_solver"), help="where results go")
    made.add_argument("--rounds", type=int, default=5, help="how often each is solved")
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
