"""The recipe of the embedded network: PlainSR x4, trained from scratch on folders of photographs.

    python -m workloads.embedded.recipe --data FOLDER [--data FOLDER ...] --out plain_x4.safetensors

Adam on the L1 loss with a one-cycle schedule; the weights that are written are an exponential moving average. The job
writes a checkpoint every `save_every` steps and goes on from it when it is started again with the same --out.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Subset

from bitwright.foundation.files import atomic_path
from bitwright.foundation.progress import note
from workloads.architecture import Network
from workloads.super_resolution.format import SRFormat
from workloads.super_resolution.models.plain import PlainSR, PlainSRConfig
from workloads.super_resolution.task import SuperResolution
from workloads.super_resolution.training_data import PatchDataset

Net = TypeVar("Net", bound=Network)


@dataclass(frozen=True)
class Recipe:
    """All that decides the result besides the photographs. Sizes in LR pixels; `bf16`: what convolutions compute in."""

    width: int = 32
    depth: int = 8
    scale: int = 4
    steps: int = 14_000
    batch: int = 16
    patch: int = 36
    peak_rate: float = 1.5e-3
    warm_up: int = 200
    ema: float = 0.998
    seed: int = 0
    bf16: bool = False
    save_every: int = 250


def rate(recipe: Recipe, step: int) -> float:
    """Learning rate at a step: linear warm-up, then half a cosine down to 1 % of the peak."""
    if step < recipe.warm_up:
        return recipe.peak_rate * (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return recipe.peak_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(recipe: Recipe, folders: list[Path], out: Path, workers: int = 0) -> PlainSR:
    """Train, resume if a checkpoint lies beside `out`, write `out` (safetensors) and return the averaged network."""
    torch.manual_seed(recipe.seed)
    network = PlainSR(PlainSRConfig(recipe.scale, recipe.width, recipe.depth))
    average = fit(network, recipe, folders, out.with_suffix(".train.pt"), workers)
    metadata = {"architecture": "plain", "recipe": repr(asdict(recipe))}
    with atomic_path(out) as temporary:
        save_file({k: v.contiguous() for k, v in average.state_dict().items()}, temporary, metadata=metadata)
    return average


def fit(network: Net, recipe: Recipe, folders: list[Path], checkpoint: Path, workers: int = 0) -> Net:
    """Train any network of ours as the recipe trains its own, and return the averaged one.

    The state at `checkpoint`, if there is one, is gone on from.
    """
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99))
    start = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
    io = network.io
    assert isinstance(io, SRFormat)
    task = SuperResolution(io)
    data = PatchDataset(folders, io, recipe.patch, recipe.steps * recipe.batch, recipe.seed)
    rest = Subset(data, range(start * recipe.batch, len(data)))
    running, began = 0.0, time.monotonic()
    for step, (lr, hr) in enumerate(DataLoader(rest, recipe.batch, num_workers=workers), start):
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, step)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            output = network(lr)
        loss = task.loss(output.float(), hr)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        with torch.no_grad():
            keep = min(recipe.ema, (step + 1) / (step + 10))
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)
        running += loss.item()
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            with atomic_path(checkpoint) as temporary:
                torch.save(
                    {
                        "network": network.state_dict(),
                        "average": average.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": step + 1,
                    },
                    temporary,
                )
            pace = (time.monotonic() - began) / (step + 1 - start)
            left = pace * (recipe.steps - step - 1) / 60
            note(f"step {step + 1}/{recipe.steps}  L1 {running / recipe.save_every:.5f}  {left:.0f} min left")
            running = 0.0
    return average.eval()


class _Lines:
    """Prints notes as lines; progress bars are not wanted in a log file."""

    def start(self, description: str, total: int | None) -> int:
        return 0

    def advance(self, handle: int, steps: int = 1) -> None:
        return None

    def stop(self, handle: int) -> None:
        return None

    def note(self, message: str) -> None:
        print(message, flush=True)  # noqa: T201 - this is the program's output


def main() -> None:
    """Command line of the recipe."""
    from bitwright.foundation.progress import reporting_to

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True, help="folder of HR photographs")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--bf16", action="store_true", help="compute convolutions in bf16: faster where a CPU can")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with reporting_to(_Lines()):
        train(Recipe(steps=options.steps, bf16=options.bf16), options.data, options.out)


if __name__ == "__main__":
    main()
