"""What a step of the search costs in each of its modes: `python -m benchmarks.quantnas_step --data-root DIR`.

One step moves the logits and then the weights, optimisers included, as the search does it (`BilevelStep`). All arms
run interleaved in one process on the same batches and layout; times are process CPU times (wall times on a GPU), and
each ratio is taken within a round. `--append` adds rounds to a result that is there, so that a shared machine can be
asked for a minute at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import command
from benchmarks.common import RESULTS, markdown_table, write_results
from compress.training.processes import Processes
from compress.training.replay import EAGER_STEPS
from search.quantnas import Mode, NoiseSource, QuantSettings, SearchSettings, Supernet, bitops_costs
from search.quantnas.bilevel_step import BilevelStep
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.searched import load_space
from workloads.super_resolution.training_data import PatchDataset

WIDTHS: dict[int, tuple[int, ...]] = {1: (8,), 2: (4, 8), 3: (2, 4, 8)}
FLOAT = "float"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Arm:
    """A supernet in training."""

    def __init__(self, name: str, space: str, width: int, cells: int, settings: QuantSettings, bits: Sequence[int],
                 batch: tuple[Tensor, Tensor]) -> None:  # fmt: skip
        self.name, self.batch = name, batch
        torch.manual_seed(0)
        sized = load_space(space).resized(width=width, cells=cells, bits=tuple(bits))
        self.net = Supernet(sized, settings, adq=True)
        self.net.table.reserve(2 * batch[0].shape[0] * sized.width * batch[1].shape[2] * batch[1].shape[3])
        self.net.measure_steps(batch[0].cpu())
        self.net.to(batch[0].device).train()
        rates = SearchSettings(quant=settings, weight_rate=1e-6, scale_rate=1e-6, alpha_rate=1e-6)
        self.steps = BilevelStep(self.net, bitops_costs(sized), rates, Processes(0, 1, batch[0].device))
        self.untimed = EAGER_STEPS + 2 if self.steps.replayed else 1

    def step(self) -> float:
        """Seconds of one step."""
        cuda = self.batch[0].is_cuda
        clock = time.perf_counter if cuda else time.process_time
        if cuda:
            torch.cuda.synchronize()
        started = clock()
        self.steps.alpha(self.batch, 1e-4, 1e-3)
        self.steps.weight(self.batch, 0, 1)
        if cuda:
            torch.cuda.synchronize()
        return clock() - started


def arms_of(given: argparse.Namespace, batch: tuple[Tensor, Tensor]) -> list[Arm]:
    """All arms, or those asked for."""
    wanted = {FLOAT: (QuantSettings(mode=Mode.FLOAT), WIDTHS[1])}
    for count, bits in WIDTHS.items():
        wanted |= {
            f"noise-{count}": (QuantSettings(source=NoiseSource(given.source)), bits),
            f"direct-{count}": (QuantSettings(mode=Mode.DIRECT), bits),
            f"separate-{count}": (QuantSettings(mode=Mode.SEPARATE), bits),
        }
    names = given.arms.split(",") if given.arms else list(wanted)
    size = (given.space, given.width, given.cells)
    return [Arm(name, *size, *wanted[name], batch) for name in names]


def measured(arms: list[Arm], rounds: int) -> list[dict[str, float]]:
    """Seconds of each arm's step in each round; the first, untimed steps allocate, and on a GPU are captured."""
    for arm in arms:
        for _ in range(arm.untimed):
            arm.step()
    found = []
    for turn in range(rounds):
        at = turn % len(arms)
        found.append({arm.name: arm.step() for arm in arms[at:] + arms[:at]})
    return found


def ratio(rounds: Sequence[dict[str, float]], name: str, over: str) -> tuple[float, float, float, int] | None:
    """Median, least and greatest ratio of two arms within a round, and the number of rounds that have both."""
    found = sorted(r[name] / r[over] for r in rounds if name in r and over in r)
    return (statistics.median(found), found[0], found[-1], len(found)) if found else None


CLAIMS = (
    *((f"direct-{n}", f"noise-{n}", "direct over noise, aim >= 1.30") for n in WIDTHS),
    *((f"noise-{n}", f"direct-{n}", "noise over direct, aim <= 0.70") for n in WIDTHS),
    *((f"separate-{n}", f"noise-{n}", "separate over noise") for n in WIDTHS),
    ("noise-3", "noise-1", "three widths over one, aim <= 1.10"),
    ("direct-3", "direct-1", "three widths over one, direct"),
    *((f"noise-{n}", FLOAT, "noise over float, aim <= 1.25") for n in WIDTHS),
    *((f"direct-{n}", FLOAT, "direct over float") for n in WIDTHS),
)


def report(rounds: Sequence[dict[str, float]]) -> tuple[list[dict[str, Any]], str]:
    """Rows for the file and the text of both tables."""
    names = list(dict.fromkeys(name for r in rounds for name in r))
    times: list[list[str]] = [[n, f"{1e3 * statistics.median(r[n] for r in rounds if n in r):.0f}"] for n in names]
    rows: list[dict[str, Any]] = []
    for name, over, what in CLAIMS:
        found = ratio(rounds, name, over)
        if found is not None:
            middle, low, high, count = found
            rows.append({"arm": name, "over": over, "what": what, "ratio": middle, "lowest": low, "highest": high,
                         "rounds": count})  # fmt: skip
    shown = [[r["arm"], r["over"], f"{r['ratio']:.2f} [{r['lowest']:.2f}, {r['highest']:.2f}]", str(r["rounds"]),
              r["what"]] for r in rows]  # fmt: skip
    text = markdown_table(("step", "median ms"), times)
    return rows, text + "\n\n" + markdown_table(("step", "over", "ratio [range]", "rounds", "what"), shown)


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, write its results and return the text of its tables."""
    torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    io = SRFormat(4, Color.RGB, 1.0)
    data = PatchDataset([given.data_root / "sr" / "test" / "Set5"], io, given.patch, 2**62, given.seed)
    pairs = [data[i] for i in range(given.batch)]
    layout = LAYOUTS[given.layout]
    x, target = (torch.stack(part).to(device, memory_format=layout) for part in zip(*pairs, strict=True))
    rounds = measured(arms_of(given, (x, target)), given.rounds)
    settings = {
        k: getattr(given, k) for k in ("space", "width", "cells", "batch", "patch", "threads", "layout", "source")
    }
    settings["step"] = BilevelStep.__name__
    settings["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    if given.append and (given.out / RESULTS).is_file():
        before = json.loads((given.out / RESULTS).read_text())
        if before["settings"] != settings:
            raise SystemExit(f"{given.out} holds rounds of other settings: {before['settings']}")
        rounds = before["rounds"] + rounds
    rows, tables = report(rounds)
    clock = "wall time" if device.type == "cuda" else "CPU time"
    text = (
        f"## {given.space}, {given.width} channels, {given.cells} cells, batch {given.batch} of "
        f"{given.patch}x{given.patch}, {settings['device']}, {given.threads} thread(s), {clock}, {given.layout}, "
        f"noise {given.source}\n\n{tables}"
    )
    results = {
        "settings": settings,
        "rounds": rounds,
        "rows": rows,
    }
    write_results(given.out, "quantnas_step", results, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = argparse.ArgumentParser(description="Compare the cost of a search step in each mode.")
    made.add_argument("--data-root", type=Path, required=True, help="folder that holds sr/test/Set5")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/quantnas_step"), help="where results go")
    made.add_argument("--space", default="rfdn")
    made.add_argument("--width", type=int, default=24)
    made.add_argument("--cells", type=int, default=2)
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--patch", type=int, default=32, help="side of a patch, LR pixels")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--layout", choices=list(LAYOUTS), default="contiguous")
    made.add_argument("--source", choices=[s.value for s in NoiseSource], default=NoiseSource.FRESH.value)
    made.add_argument("--arms", default="", help="comma-separated, such as float,noise-2,direct-2; default: all")
    made.add_argument("--append", action="store_true", help="add rounds to the results that are there")
    made.add_argument("--seed", type=int, default=0)
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
