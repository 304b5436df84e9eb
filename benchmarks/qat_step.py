"""What a step of quantisation-aware training costs: `python -m benchmarks.qat_step --data-root DIR`.

One forward and backward pass with an optimiser step of the same network on the same batch: float, our learned scales,
both with convolutions in bf16 too (`--set arithmetic=bf16` of `bitwright compress`), torch's fused kernels with nothing
around them, Brevitas' layers, torch.ao's FX mode and, where it is installed, torchao's PT2E; all interleaved in one
process. Each arm is timed in the faster of the two memory layouts, chosen by a trial; times are process CPU times.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from benchmarks import command
from benchmarks.common import markdown_table, write_results
from benchmarks.qat_peers import with_brevitas, with_fused_lsq, with_fx, with_pt2e
from compress.compressed import CompressedModel
from compress.folding import fold
from compress.graph import capture, clone, layer_nodes
from compress.placement import place
from compress.plan import LayerPlan, Placement, Plan
from compress.quantizers import A8, W8
from compress.ranges import RangeMethod, set_ranges
from compress.recovery.student import student_of
from compress.statistics import collect
from workloads.loading import load_checkpoint

FLOAT, OURS = "float", "bitwright, learned scales"
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass
class Arm:
    """A network in training, and what its step took in each round, in seconds of CPU time.

    `like`: the arm whose memory layout it takes. `captured`: its step is replayed as a CUDA graph. `bf16`: convolutions
    are computed in it.
    """

    name: str
    network: nn.Module
    layout: str = "contiguous"
    like: str | None = None
    captured: bool = False
    bf16: bool = False
    optimizer: torch.optim.Optimizer | None = None
    graph: Any = None

    def step(self, images: Tensor, targets: Tensor) -> float:
        """One training step; seconds of this process's CPU time (wall time on a GPU)."""
        cuda = images.is_cuda
        if self.optimizer is None:
            free = [p for p in self.network.parameters() if p.requires_grad]
            self.optimizer = torch.optim.Adam(free, lr=1e-6, fused=True, capturable=cuda)
        images = images.contiguous(memory_format=LAYOUTS[self.layout])
        if self.captured and self.graph is None:
            self._capture(images, targets)
        if cuda:
            torch.cuda.synchronize()
        clock = time.perf_counter if cuda else time.process_time
        started = clock()
        if self.graph is not None:
            self.graph.replay()
        else:
            self._advance(images, targets)
        if cuda:
            torch.cuda.synchronize()
        return clock() - started

    def _advance(self, images: Tensor, targets: Tensor) -> None:
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=not images.is_cuda):
            output = self.network(images)
        loss = nn.functional.l1_loss(getattr(output, "value", output).float(), targets)
        torch.autograd.backward(loss)
        self.optimizer.step()

    def _capture(self, images: Tensor, targets: Tensor) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._advance(images, targets)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._advance(images, targets)


def quantized(graph: fx.GraphModule, inputs: Tensor) -> CompressedModel:
    """Every layer in 8 bits by min-max ranges."""
    layers = {name: LayerPlan(weight=W8, activation=A8) for name, _ in layer_nodes(graph)}
    plan = Plan(
        architecture="benchmark", device="any", runtime="any", float_precision="fp32", placement=Placement.INPUTS,
        layers=layers,
    )  # fmt: skip
    seen = collect(graph, inputs, {site.tensor.name for site in place(graph, plan)})
    return set_ranges(graph, plan, seen, RangeMethod.MINMAX, RangeMethod.MINMAX)


def arms_of(module: nn.Module, images: Tensor, compiled: bool) -> list[Arm]:
    """All arms that are installed here."""
    graph, _ = fold(capture(module, images[:1].cpu()))
    model = quantized(graph, images[:4].cpu())

    def both() -> Iterator[tuple[str, nn.Module]]:
        free = clone(graph)
        for parameter in free.parameters():
            parameter.requires_grad_(True)
        yield from ((FLOAT, free), (OURS, student_of(model, graph)))

    found = [Arm(name, network) for name, network in both()]
    found += [Arm(f"{name}, bf16", network, like=name, bf16=True) for name, network in both()]
    if images.is_cuda:
        found += [Arm(f"{n}, CUDA graph", network, like=n, captured=True) for n, network in both()]
    if compiled:
        for name, network in both():
            made: Any = torch.compile(network.to(images.device))
            found.append(Arm(f"{name}, compiled", made, like=name))
    found.append(Arm("torch's fused LSQ kernels", with_fused_lsq(module)))
    if importlib.util.find_spec("brevitas") is not None:
        found.append(Arm("Brevitas layers", with_brevitas(module)))
    found.append(Arm("torch.ao FX", with_fx(module, images)))
    if importlib.util.find_spec("torchao") is not None:
        found.append(Arm("torchao PT2E", with_pt2e(module, images)))
    for arm in found:
        arm.network.to(images.device)
    return found


def measured(arms: list[Arm], images: Tensor, targets: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, one step of each arm in turn; the first rounds choose the layout."""
    for arm in arms:
        if arm.like is not None:
            arm.layout = next(other.layout for other in arms if other.name == arm.like)
            arm.step(images, targets)
            continue
        trials = {}
        for layout in LAYOUTS:
            arm.layout = layout
            trials[layout] = min(arm.step(images, targets) for _ in range(2))
        arm.layout = min(trials, key=lambda name: trials[name])
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for turn in range(rounds):
        for arm in arms[turn % len(arms) :] + arms[: turn % len(arms)]:
            times[arm.name].append(arm.step(images, targets))
    return times


def rows_of(arms: list[Arm], times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Median step time of each arm, and the median over rounds of its ratio to the float step of the same round."""
    rows = []
    for arm in arms:
        ratios = sorted(t / f for t, f in zip(times[arm.name], times[FLOAT], strict=True))
        rows.append(
            {
                "arm": arm.name, "layout": arm.layout, "median_ms": 1e3 * statistics.median(times[arm.name]),
                "ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1], "steps": len(ratios),
            }
        )  # fmt: skip
    return rows


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, write its results and return the text of its table."""
    warnings.filterwarnings("ignore", module="torch.ao")
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    loaded = load_checkpoint(given.data_root / "checkpoints" / f"{given.network}.pth")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = loaded.workload.calibration(given.data_root / "sr" / "train", given.batch, given.patch, given.seed)
    images = images.to(device)
    with torch.no_grad():
        targets = loaded.module.to(device)(images)
    loaded.module.cpu()
    arms = arms_of(loaded.module, images, given.compiled)
    rows = rows_of(arms, measured(arms, images, targets, given.rounds))
    shown = [
        [r["arm"], r["layout"], f"{r['median_ms']:.0f}", f"{r['ratio']:.2f} [{r['lowest']:.2f}, {r['highest']:.2f}]"]
        for r in rows
    ]
    clock = "wall time" if device.type == "cuda" else "CPU time"
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    text = (
        f"## {given.network}, batch {given.batch} of {given.patch}x{given.patch}, {machine}, "
        f"{given.threads} thread(s), {given.rounds} rounds\n\n"
        + markdown_table(("step", "layout", f"median ms ({clock})", "over float [range]"), shown)
    )
    results = {
        "device": machine,
        "checkpoint_sha256": loaded.sha256,
        "rows": rows,
    }
    write_results(given.out, "qat_step", results, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = argparse.ArgumentParser(description="Compare the cost of a step of quantisation-aware training.")
    made.add_argument("--data-root", type=Path, required=True, help="folder of checkpoints/ and sr/train")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/qat_step"), help="where results go")
    made.add_argument("--network", default="rfdn_x4", help="stem of a checkpoint")
    made.add_argument("--batch", type=int, default=16, help="patches in a step")
    made.add_argument("--patch", type=int, default=48, help="side of a patch, LR pixels")
    made.add_argument("--rounds", type=int, default=7, help="timed steps of each arm")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--compiled", action="store_true", help="also with torch.compile")
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
