"""Methods of N:M training side by side: `python -m benchmarks.nm_methods --recipe digits|vit|sr`.

Every method has the same steps, the same initial weights and the same data order for a seed; in the second account,
as many steps as the FLOPs of the dense training pay for. A finished arm is a file: a stopped run goes on. What is small
enough for a CPU checks formulas and diagnostics, and is no claim about large networks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import command
from benchmarks.common import write_results
from benchmarks.nm_digits import Digits
from benchmarks.nm_recipe import Rates, Recipe
from benchmarks.nm_sls import SLS
from benchmarks.nm_sr import SmallEDSR
from benchmarks.nm_tables import tables_of
from benchmarks.nm_training import Arm, train
from benchmarks.nm_vit import TinyViT
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_json
from bitwright.foundation.progress import track
from compress.sparsity import METHODS

ACCOUNTS = ("steps", "flops")


def _data(given: argparse.Namespace) -> Path:
    if given.data_root is None:
        raise UsageError(f"the recipe {given.recipe!r} needs --data-root DIR, which holds classification/ and sr/")
    path: Path = given.data_root
    return path


RECIPES: dict[str, Callable[[argparse.Namespace], Recipe]] = {
    Digits.name: lambda given: Digits(),
    TinyViT.name: lambda given: TinyViT(_data(given), given.images, given.vit_patch),
    SmallEDSR.name: lambda given: SmallEDSR(
        _data(given), given.out / command.WORK / SmallEDSR.name, given.start_steps, given.images
    ),
}


def recipe_of(given: argparse.Namespace) -> Recipe:
    """The recipe with the schedule that was asked for."""
    recipe = RECIPES[given.recipe](given)
    schedule, recipe.device = recipe.schedule, torch.device(given.device)
    recipe.schedule = replace(
        schedule, batch=given.batch or schedule.batch, steps=given.steps or schedule.steps,
        rates=Rates(given.rates or schedule.rates),
    )  # fmt: skip
    return recipe


def arms_of(given: argparse.Namespace, recipe: Recipe) -> list[Arm]:
    """Everything that is trained, seed by seed; the dense method once for each, whatever the pattern."""
    methods, patterns = given.methods or recipe.methods, given.patterns or recipe.patterns
    known = (*METHODS, SLS)
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise UsageError(f"--methods: {unknown[0]!r} is not one of {', '.join(known)}")
    steps, found = recipe.schedule.steps, []
    for seed in range(given.seeds):
        if "dense" in methods:
            found.append(Arm("dense", "dense", seed, False, steps))
        for pattern in patterns:
            for method in methods:
                if method == "dense" or (method == SLS and not _choice(pattern)):
                    continue
                found += [Arm(method, pattern, seed, account == "flops", steps) for account in given.accounts]
    return found


def _choice(pattern: str) -> bool:
    """Whether layers can have different N at this mean: with N = 1 in each there is nothing to search."""
    return not pattern.startswith("1:")


def result_of(recipe: Recipe, arm: Arm, folder: Path) -> dict[str, Any]:
    """The result of an arm, from its file where it was trained before."""
    path = folder / f"{arm.name}-{recipe.described()}.json"
    if not path.is_file():
        write_json(path, train(recipe, arm))
    value = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def text_of(recipe: Recipe, results: list[dict[str, Any]]) -> str:
    """Head, remarks and tables."""
    seeds = len({r["seed"] for r in results})
    schedule = recipe.schedule
    length = f"{schedule.steps} steps of {schedule.batch}, {schedule.rates} learning rate"
    head = f"## N:M methods on {recipe.title}: {length}, {seeds} seed(s)"
    told = "Mean ± standard deviation over seeds." if seeds > 1 else "One seed only: no spread is known."
    halves = (
        f"nsr: noise over signal of the gradient, of half-batches of {schedule.batch // 2}, second half of training."
    )
    return "\n\n".join([head, " ".join([told, halves]), *recipe.remarks(results), tables_of(recipe, results)])


def folder_of(recipe: Recipe) -> str:
    """The folder of the tables: rates other than the usual ones have their own, because they change the ranking."""
    rates = recipe.schedule.rates
    return recipe.name if rates is Rates.COSINE else f"{recipe.name}_{rates}"


def benchmark(given: argparse.Namespace) -> str:
    """Train what is missing, write the results after each seed and return the tables."""
    torch.set_num_threads(1)
    recipe = recipe_of(given)
    folder, out = given.out / command.WORK / recipe.name, given.out / folder_of(recipe)
    names = {given.out: "OUT", **({given.data_root: "DATA"} if given.data_root else {})}
    results: list[dict[str, Any]] = []
    text = ""
    arms = arms_of(given, recipe)
    for number, arm in enumerate(track(arms, "training arms"), 1):
        results.append(result_of(recipe, arm, folder))
        if number == len(arms) or arms[number].seed != arm.seed:
            text = text_of(recipe, results)
            write_results(out, "nm_methods", {"recipe": recipe.name, "rows": results}, text, names)
    return text


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Compare methods of N:M training on one recipe.")
    made.add_argument("--recipe", choices=list(RECIPES), default=Digits.name)
    made.add_argument("--data-root", type=Path, help="folder of classification/ and sr/ (for vit and sr)")
    made.add_argument("--out", type=Path, default=Path("benchmarks/results/nm_methods"), help="where results go")
    made.add_argument("--patterns", nargs="+", metavar="N:M", help="default: those of the recipe")
    made.add_argument("--methods", nargs="+", metavar="NAME", help="default: those of the recipe")
    made.add_argument("--accounts", nargs="+", choices=ACCOUNTS, default=list(ACCOUNTS), help="what is made equal")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--steps", type=int, help="steps of the dense training; default: the recipe's")
    made.add_argument("--batch", type=int, help="default: the recipe's")
    made.add_argument("--start-steps", type=int, help="sr: steps of the dense network that all arms start from")
    made.add_argument("--vit-patch", type=int, choices=(4, 8, 16), default=4, help="vit: side of a token, pixels")
    made.add_argument(
        "--rates", choices=[rates.value for rates in Rates], help="course of the learning rate; default: the recipe's"
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where networks are trained")
    made.add_argument("--images", type=int, help="test images of a set at most (for a trial run)")
    return made


def main() -> int:
    """Parse the command line, run and print."""
    given = parser().parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
