"""QuantNAS by latency beside fixed networks: `python -m benchmarks.quantnas_device --data-root DIR --table FILE`.

A search for each budget in milliseconds, and fixed networks of the literature at several sizes. All of them are trained
from random weights by one recipe, on the same pictures for the same steps, compressed by `bitwright compress` with the
same options, scored on the engine, and timed in one interleaved session. `--table` is one of `bitwright profile`, by
which the search knows the device. What is finished is a file: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks import command
from benchmarks.arms import Arm, ArmRecord, Network, claim, finished, slug
from benchmarks.common import markdown_table, speedup_text, write_results
from benchmarks.main_job_arms import Settings, bitwright_arm
from benchmarks.session import timed
from benchmarks.tables import circumstances
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import atomic_path, write_json
from bitwright.foundation.progress import note
from bitwright.foundation.suggest import nearest
from bitwright.runs.quantnas import search
from bitwright.runs.quantnas_request import QuantnasRequest
from deploy.latency import ComparisonResult
from workloads import architecture
from workloads.embedded.recipe import Recipe, fit
from workloads.loading import load_checkpoint
from workloads.super_resolution.models.espcn import ESPCN, ESPCNConfig
from workloads.super_resolution.models.fsrcnn import FSRCNN, FSRCNNConfig
from workloads.super_resolution.models.imdn import IMDN, IMDNConfig
from workloads.super_resolution.models.plain import PlainSR, PlainSRConfig
from workloads.super_resolution.models.rfdn import RFDN, RFDNConfig
from workloads.super_resolution.models.searched import Genotype, SearchedNetwork, save_network

SETS = ("Set14", "BSD100")
SCALE = 4
FIXED: dict[str, Callable[[], architecture.Network]] = {
    "espcn": lambda: ESPCN(ESPCNConfig(SCALE)),
    "fsrcnn": lambda: FSRCNN(FSRCNNConfig(SCALE)),
    "plain-16x8": lambda: PlainSR(PlainSRConfig(SCALE, 16, 8)),
    "plain-32x8": lambda: PlainSR(PlainSRConfig(SCALE, 32, 8)),
    "plain-48x8": lambda: PlainSR(PlainSRConfig(SCALE, 48, 8)),
    "imdn-32x3": lambda: IMDN(IMDNConfig(SCALE, 32, 8, 3)),
    "rfdn-32x2": lambda: RFDN(RFDNConfig(SCALE, 32, 16, 2)),
    "rfdn-48x2": lambda: RFDN(RFDNConfig(SCALE, 48, 24, 2)),
}
"""Networks at sizes of a few milliseconds; channels in steps of 16 where the network has a free choice."""


@dataclass(frozen=True)
class Entry:
    """One network of the comparison. `make`: with random weights; `expected`: predicted ms of one that was found."""

    name: str
    make: Callable[[], architecture.Network]
    expected: float | None = None


def pictures(given: argparse.Namespace) -> Path:
    """What is searched, trained and calibrated on."""
    found: Path = given.train or given.data_root / "sr" / "train"
    return found


def found_entry(given: argparse.Namespace, budget: float) -> Entry:
    """The network that a search for `budget` ms finds; searched once."""
    folder: Path = given.out / command.WORK / f"search-{given.space}-{given.width}-{budget:g}-ms"
    request = QuantnasRequest.model_validate({
        "data": pictures(given), "out": folder, "device": given.device,
        "space": given.space, "budgets": (budget,), "width": given.width, "cells": given.cells, "table": given.table,
        "retrain": False, "seed": given.seed, "input_size": (given.side, given.side), "cost": "latency",
        "search_settings": {
            "epochs": given.epochs, "warm_up": given.warm_up, "steps_per_epoch": given.search_steps,
            "batch": given.batch, "patch": given.patch, "alpha_rate": given.alpha_rate, "dual_rate": given.dual_rate,
        },
    })  # fmt: skip
    point = search(request, resume=folder.exists()).points[0]
    genotype = Genotype.load(folder / point.genotype)
    return Entry(f"found, {budget:g} ms", lambda: SearchedNetwork(genotype), point.cost)


def trained(given: argparse.Namespace, entry: Entry) -> Path:
    """The checkpoint of a network after the training that all have; trained once."""
    folder: Path = given.out / command.WORK / slug(entry.name)
    path, stamp = folder / "network.safetensors", folder / "recipe.json"
    recipe = Recipe(steps=given.steps, batch=given.batch, patch=given.patch, seed=given.seed, bf16=given.bf16)
    if stamp.is_file() and json.loads(stamp.read_bytes()) != asdict(recipe):
        raise UsageError(f"{folder} holds a network of another training; remove it, or choose another --out")
    write_json(stamp, asdict(recipe))
    if path.is_file():
        note(f"{entry.name}: trained before")
        return path
    note(f"{entry.name}: training {given.steps} steps")
    torch.manual_seed(given.seed)
    network = fit(entry.make(), recipe, [pictures(given)], folder / "train.pt")
    if isinstance(network, SearchedNetwork):
        save_network(path, network)
    else:
        tensors = {name: value.detach().contiguous().clone() for name, value in network.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
    (folder / "train.pt").unlink(missing_ok=True)
    return path


def compressed(given: argparse.Namespace, entry: Entry) -> tuple[Network, ArmRecord]:
    """The network of an entry with its engine."""
    path = trained(given, entry)
    test = given.data_root / "sr" / "test"
    loaded = load_checkpoint(path, scale=SCALE)
    network = Network(
        entry.name, path, loaded, pictures(given), test, given.out / command.WORK / "engines", given.images
    )
    settings = Settings.of(given, network)
    claim(replace(network, work=network.work / f"{slug(entry.name)}-of"), settings.decisive())
    record = finished(network, Arm(entry.name, partial(bitwright_arm, network, settings, given.max_drop)), SETS)
    return network, record


def rows_of(entries: list[Entry], networks: dict[str, Network], records: list[ArmRecord],
            times: ComparisonResult) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each network by ascending latency; `beaten_by`: those that are faster and better on the first set."""
    rows = []
    for entry, record in zip(entries, records, strict=True):
        state = networks[entry.name].loaded.module.state_dict()
        rows.append({
            "network": entry.name, "parameters": sum(v.numel() for v in state.values()),
            "predicted_ms": entry.expected, "median_ms": times.measurement(entry.name).to_summary().median_ms,
            "psnr_db": {name: score.mean for name, score in record.quality.items()},
            "int8_layers": record.int8_layers, "layers": record.layers,
        })  # fmt: skip
    for row in rows:
        row["beaten_by"] = [
            other["network"] for other in rows
            if other["median_ms"] <= row["median_ms"] and other["psnr_db"][SETS[0]] > row["psnr_db"][SETS[0]]
        ]  # fmt: skip
    return sorted(rows, key=lambda row: float(row["median_ms"]))


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, write its results and return its table."""
    torch.set_num_threads(given.torch_threads)
    for name in given.fixed:
        if name not in FIXED:
            raise UsageError(f"--fixed: no network is named {name!r}; {nearest(name, sorted(FIXED))}")
    entries = [Entry(name, FIXED[name]) for name in given.fixed]
    entries += [found_entry(given, budget) for budget in given.budgets]
    if not entries:
        raise UsageError("there is nothing to compare; give --budgets or --fixed")
    made = [compressed(given, entry) for entry in entries]
    networks = {entry.name: network for entry, (network, _) in zip(entries, made, strict=True)}
    records = [record for _, record in made]
    times = timed(made[0][0], records, command.timing_of(given), networks)
    rows = rows_of(entries, networks, records, times)
    slowest = rows[-1]["network"]
    cells = [
        [
            row["network"], f"{row['parameters'] / 1000:.0f}", f"{row['int8_layers']}/{row['layers']}",
            "" if row["predicted_ms"] is None else f"{row['predicted_ms']:.2f}", f"{row['median_ms']:.2f}",
            speedup_text(times.speedup(row["network"], slowest)), *(f"{row['psnr_db'][name]:.3f}" for name in SETS),
            ", ".join(row["beaten_by"]) or "-",
        ]
        for row in rows
    ]  # fmt: skip
    titles = ["network", "k parameters", "int8 layers", "predicted ms", "median ms", f"over {slowest} [95 %]",
              *(f"{name} dB" for name in SETS), "faster and better"]  # fmt: skip
    course = f"{given.steps} steps of {given.batch} x {given.patch}x{given.patch}{' in bf16' if given.bf16 else ''}"
    head = f"## x{SCALE}, each trained for {course}"
    text = f"{head}\n\n{markdown_table(titles, cells)}\n\n{circumstances(times)}"
    results = {"rows": rows, "timing": times.model_dump(mode="json")}
    write_results(given.out, "quantnas_device", results, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    parser = command.parser("Compare searches by latency with fixed networks.", "benchmarks/results/quantnas_device")
    parser.add_argument("--train", type=Path, help="pictures to search and train on; default: sr/train")
    parser.add_argument("--table", type=Path, help="latency table of `bitwright profile`, before estimates")
    parser.add_argument("--space", default="basic", help="rfdn, basic or a file")
    parser.add_argument("--width", type=int, default=48, help="channels of the space")
    parser.add_argument("--cells", type=int, default=2, help="cells of the space")
    parser.add_argument("--budgets", type=float, nargs="*", default=[4.0, 8.0, 12.0], help="ms of each search")
    parser.add_argument("--fixed", nargs="*", default=list(FIXED), help="fixed networks")
    parser.add_argument("--steps", type=int, default=14_000, help="training steps of every network")
    parser.add_argument("--bf16", action="store_true", help="train networks in bf16 (all of them alike)")
    parser.add_argument("--batch", type=int, default=16, help="of searches and trainings")
    parser.add_argument("--patch", type=int, default=36, help="side of their crops, LR pixels")
    parser.add_argument("--epochs", type=int, default=20, help="of a search")
    parser.add_argument("--warm-up", type=int, default=4, help="epochs of a search that train weights only")
    parser.add_argument("--search-steps", type=int, default=50, help="steps of an epoch of a search")
    parser.add_argument("--alpha-rate", type=float, default=1e-2, help="learning rate of logits")
    parser.add_argument("--dual-rate", type=float, default=3e-3, help="growth of the multiplier of the budget")
    parser.add_argument("--max-drop", type=float, default=0.15, help="dB that compression may cost")
    parser.add_argument("--torch-threads", type=int, default=1, help="threads of searches and trainings")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of bitwright")
    given = parser.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
