"""Matrix products of torch on a GPU: `python -m benchmarks.gpu_products`.

Dense fp16 beside what torch has for narrower numbers and for 2:4 weights: int8 (`_int_mm`), fp8 (`_scaled_mm`), and
semi-structured weights in fp16, bf16, int8 and fp8. Shapes are those of 1x1 convolutions of super-resolution networks,
of ViT feed-forward layers and of large layers. Every product is compared with float64 on the same rounded operands, on
integers bit by bit. Times are those of the GPU alone, by events around several calls that were launched while it was
kept waiting. int8 and fp8 are the product alone: quantising the input and scaling the result come on top where no other
kernel takes them in. Each shape has a process of its own: a kernel that does not take it can leave a GPU in disorder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks import command
from benchmarks.common import NOTHING, markdown_table, write_results
from benchmarks.gpu_kernels import DENSE, SPARSE, Product
from bitwright.foundation.errors import DeviceError
from bitwright.foundation.progress import track

CALLS = 16
"""Products of one timing."""
OPERANDS = 4
"""Different inputs that they take in turn."""
WAITED = 10_000_000
"""Cycles that the GPU waits for the launches: some milliseconds."""


@dataclass(frozen=True)
class Shape:
    """x [rows, inputs] times a weight [outputs, inputs]."""

    what: str
    rows: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        return f"{self.what}, {self.rows} x {self.inputs} to {self.outputs}"


SHAPES = (
    Shape("1x1 convolution, 48 channels", 128 * 128, 48, 48),
    Shape("1x1 convolution, 64 channels", 128 * 128, 64, 64),
    Shape("1x1 convolution, 128 channels", 320 * 180, 128, 128),
    Shape("1x1 convolution, 256 channels", 320 * 180, 256, 256),
    Shape("ViT-S feed-forward, 32 pictures", 32 * 197, 384, 1536),
    Shape("ViT-S feed-forward, 32 pictures", 32 * 197, 1536, 384),
    Shape("ViT-B feed-forward, 32 pictures", 32 * 197, 768, 3072),
    Shape("large", 4096, 4096, 4096),
    Shape("large", 3072, 10240, 3072),
    Shape("large", 8192, 8192, 8192),
    Shape("large, few rows", 64, 4096, 4096),
)


BASE = "fp16"


def timed(products: Mapping[str, Product], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one product, all of them in turn in each round; two unmeasured rounds first.

    The GPU is kept waiting while CALLS products are launched, so that launching them is not in the time.
    """
    times: dict[str, list[float]] = {name: [] for name in products}
    names = list(products)
    for turn in range(rounds + 2):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            product, before, after = products[name], _event(), _event()
            torch.cuda._sleep(WAITED)  # type: ignore[no-untyped-call]
            before.record()
            for number in range(CALLS):
                product.run(product.inputs[number % len(product.inputs)])
            after.record()
            after.synchronize()
            if turn >= 2:
                times[name].append(before.elapsed_time(after) / CALLS)
    return times


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def measured(shape: Shape, rounds: int, skipped: Mapping[str, str], begin: Callable[[str], None]) -> dict[str, Any]:
    """All products of a shape: error and milliseconds, or why there is none. `begin` is told what is tried next."""
    generator = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(shape.outputs, shape.inputs, generator=generator, device="cuda") * shape.inputs**-0.5
    xs = [torch.randn(shape.rows, shape.inputs, generator=generator, device="cuda") for _ in range(OPERANDS)]
    products: dict[str, Product] = {}
    found: dict[str, Any] = {name: {"refused": why} for name, why in skipped.items()}
    for name, maker in (DENSE | SPARSE).items():
        if name in skipped:
            continue
        begin(name)
        try:
            product = maker(weight, xs)
            found[name] = {"error": product.error()}
            timed({name: product}, 1)
        except (RuntimeError, ValueError) as problem:
            found[name] = {"refused": str(problem).strip().splitlines()[0]}
            # A GPU that was left in disorder refuses everything from here on; another process does not mind.
            torch.cuda.synchronize()
            continue
        products[name] = product
    begin("timing")
    for name, values in timed(products, rounds).items():
        found[name]["ms"] = values
    return {"shape": vars(shape), "products": found}


def _work(pipe: Connection, shape: Shape, rounds: int, skipped: Mapping[str, str]) -> None:
    warnings.simplefilter("ignore")
    pipe.send(measured(shape, rounds, skipped, pipe.send))


def apart(shape: Shape, rounds: int) -> dict[str, Any]:
    """`measured` in a process of its own, begun again without a product that ends it."""
    skipped: dict[str, str] = {}
    context = multiprocessing.get_context("spawn")
    while True:
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, shape, rounds, skipped))
        process.start()
        theirs.close()
        told: Any = "its start"
        try:
            while isinstance(told, str):
                tried = told
                told = mine.recv()
            return dict(told)
        except EOFError:
            if tried not in DENSE | SPARSE:
                raise DeviceError(f"{shape}: the process ended while it was at {tried}") from None
            skipped[tried] = "it ends the process"
        finally:
            process.join()


def ratio(row: dict[str, Any], name: str, base: str) -> tuple[float, float, float] | None:
    """Median, lowest and highest over rounds of how many times faster `name` is than `base`; None where one is not."""
    mine, other = (row["products"][key].get("ms") for key in (name, base))
    if not mine or not other:
        return None
    ratios = sorted(b / a for a, b in zip(mine, other, strict=True))
    return statistics.median(ratios), ratios[0], ratios[-1]


def tables(rows: list[dict[str, Any]]) -> str:
    """Milliseconds and ratios over fp16, of 2:4 over the same precision, and the errors."""
    names = [*DENSE, *SPARSE]
    first, second, third = [], [], []
    for row in rows:
        title, products = str(Shape(**row["shape"])), row["products"]
        base = products[BASE].get("ms")
        first.append([title, f"{statistics.median(base):.4f}" if base else NOTHING,
                      *(_ratio_text(ratio(row, name, BASE)) for name in names if name != BASE)])  # fmt: skip
        second.append([title, *(_ratio_text(ratio(row, name, name.split()[1])) for name in SPARSE)])
        third.append([title, *(f"{products[n]['error']:.1e}" if "error" in products[n] else NOTHING for n in names)])
    over = [f"{name} over fp16" for name in names if name != BASE]
    parts = [
        markdown_table(["x times weight", "fp16 ms", *over], first),
        "2:4 over the dense product of the same precision. Below 1.00 it is slower.\n\n"
        + markdown_table(["x times weight", *SPARSE], second),
        "Relative error against float64 on the same operands; of int8, 0 where every element is equal.\n\n"
        + markdown_table(["x times weight", *names], third),
    ]
    refused = {
        f"- {name}, {Shape(**row['shape'])}: {row['products'][name]['refused']}"
        for row in rows for name in names if "refused" in row["products"][name]
    }  # fmt: skip
    if refused:
        parts.append("Refused by torch:\n\n" + "\n".join(sorted(refused)))
    return "\n\n".join(parts)


def _ratio_text(found: tuple[float, float, float] | None) -> str:
    return NOTHING if found is None else f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


def benchmark(given: argparse.Namespace) -> str:
    """Run, write the results and return the tables; DeviceError without a GPU."""
    if not torch.cuda.is_available():
        raise DeviceError("this benchmark is of kernels of a CUDA GPU, and torch finds none here")
    name = torch.cuda.get_device_name()
    head = f"## Matrix products of torch {torch.__version__} on {name}\n\nMedian of {given.rounds} rounds [range]."
    rows, text = [], ""
    for shape in track(list(SHAPES), "shapes"):
        rows.append(apart(shape, given.rounds))
        text = f"{head}\n\n{tables(rows)}"
        # After each shape: a benchmark that is stopped has the shapes before.
        write_results(given.out, "gpu_products", {"device": name, "rows": rows}, text, {given.out: "OUT"})
    return text


def main() -> int:
    """Parse the command line, run and print."""
    made = argparse.ArgumentParser(description="Compare torch's products of narrow and of 2:4 weights on a GPU.")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu_products"), help="where results go")
    made.add_argument("--rounds", type=int, default=30)
    given = made.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
