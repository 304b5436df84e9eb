"""What it costs to recompute N:M masks: `python -m benchmarks.nm_mask_cost`.

Three things in turn in one process: a training step of a network, the masks of all its sparse layers by the selection
network, and the same by an argsort over each weight reshaped to groups. The last one is given weights whose grouped
axis is already last, so that it does not pay for bringing it there. Times are process CPU times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import command
from benchmarks.common import markdown_table, write_results
from compress.nm_pattern import Sparsity
from compress.sparsity import Scored, WeightLayout, layout_of, magnitude, nm_masks
from workloads.super_resolution.models.edsr import EDSR, EDSRConfig

PATTERNS = ("2:4", "1:4", "4:8", "1:8", "1:16", "1:32")


def super_resolution(width: int, blocks: int) -> nn.Module:
    """A residual network of 3x3 convolutions."""
    return EDSR(EDSRConfig(scale=4, width=width, blocks=blocks))


def vision_mlp() -> nn.Module:
    """The MLP block of a ViT-S: 384 to 1536 and back."""
    return nn.Sequential(nn.LayerNorm(384), nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))


def step_of(network: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """One training step with Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(network(inputs).square().mean())
        optimizer.step()

    return step


def sparse_weights(network: nn.Module, pattern: Sparsity) -> dict[str, tuple[Tensor, WeightLayout]]:
    """The weights that M divides."""
    found = {}
    for name, module in network.named_modules():
        layout = layout_of(module)
        weight = getattr(module, "weight", None)
        if layout is not None and isinstance(weight, Tensor) and layout.length(tuple(weight.shape)) % pattern.m == 0:
            found[name] = weight, layout
    return found


def ours(layers: dict[str, tuple[Tensor, WeightLayout]], pattern: Sparsity) -> dict[str, Tensor]:
    """All masks from the weights as they lie, as in each step of a training."""
    scored = {name: Scored(weight, layout) for name, (weight, layout) in layers.items()}
    return nm_masks(scored, pattern, magnitudes=True)


def by_argsort(rows: list[Tensor], pattern: Sparsity) -> list[Tensor]:
    """Masks of canonical rows by sorting each group, as public implementations do."""
    masks = []
    for weight in rows:
        groups = weight.detach().abs().reshape(-1, pattern.m)
        dropped = groups.argsort(dim=1)[:, : pattern.m - pattern.n]
        masks.append(torch.ones_like(groups).scatter_(1, dropped, 0.0).reshape(weight.shape))
    return masks


def timed(arms: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each arm, in turn; an unmeasured round first."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, arm in arms.items():
            started = time.process_time()
            arm()
            if turn:
                times[name].append(time.process_time() - started)
    return {name: statistics.median(found) for name, found in times.items()}


def rows_of(name: str, network: nn.Module, inputs: Tensor, rounds: int) -> list[dict[str, Any]]:
    """One row for each pattern."""
    found = []
    step = step_of(network, inputs)
    for text in PATTERNS:
        pattern = Sparsity.parse(text)
        layers = sparse_weights(network, pattern)
        canonical = [layout.rows(weight.detach()).contiguous() for weight, layout in layers.values()]
        mine = ours(layers, pattern)
        theirs = by_argsort(canonical, pattern)
        for mask, other, (weight, layout) in zip(mine.values(), theirs, layers.values(), strict=True):
            # Equal magnitudes may be kept in another order; what is kept must weigh the same.
            size = layout.rows(magnitude(weight)).double()
            if not torch.isclose((size * layout.rows(mask)).sum(), (size * other).sum(), rtol=1e-12):
                raise AssertionError(f"the two ways disagree on {name} at {text}")
        arms: dict[str, Callable[[], Any]] = {
            "step": step,
            "ours": partial(ours, layers, pattern),
            "argsort": partial(by_argsort, canonical, pattern),
        }
        seconds = timed(arms, rounds)
        weights = sum(w.numel() for w in canonical)
        found.append(
            {"network": name, "pattern": text, "weights": weights, **{f"{k}_s": v for k, v in seconds.items()}}
        )
    return found


def benchmark(given: argparse.Namespace) -> str:
    """Run, write the results and return the table."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    edsr = super_resolution(given.width, given.blocks)
    count = sum(p.numel() for p in edsr.parameters()) / 1e6
    subjects = [
        (f"EDSR, {count:.2f} M, batch {given.batch} of {given.patch}x{given.patch}", edsr,
         torch.rand(given.batch, 3, given.patch, given.patch)),
        (f"ViT-S MLP block, batch {given.batch} of 197 tokens", vision_mlp(), torch.rand(given.batch, 197, 384)),
    ]  # fmt: skip
    rows = [row for name, network, inputs in subjects for row in rows_of(name, network, inputs, given.rounds)]
    shown = [
        [
            row["network"], row["pattern"], f"{row['weights'] / 1e6:.2f}", f"{1e3 * row['step_s']:.1f}",
            f"{1e3 * row['ours_s']:.2f}", f"{100 * row['ours_s'] / row['step_s']:.2f} %",
            f"{row['argsort_s'] / row['ours_s']:.1f}",
        ]
        for row in rows
    ]  # fmt: skip
    titles = ("network", "pattern", "M weights", "step ms", "masks ms", "of a step", "argsort over ours")
    text = f"## N:M masks, {given.threads} thread(s), {given.rounds} rounds, CPU time\n\n" + markdown_table(
        titles, shown
    )
    results = {
        "rows": rows,
    }
    write_results(given.out, "nm_mask_cost", results, text, {given.out: "OUT"})
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = argparse.ArgumentParser(description="Compare the cost of N:M masks with a training step and with argsort.")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/nm_mask_cost"), help="where results go")
    made.add_argument("--width", type=int, default=64, help="channels of the super-resolution network")
    made.add_argument("--blocks", type=int, default=4, help="its residual blocks")
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--patch", type=int, default=48, help="side of a patch, LR pixels")
    made.add_argument("--rounds", type=int, default=15)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--seed", type=int, default=0)
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
