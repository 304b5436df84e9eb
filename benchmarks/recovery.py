"""What recovery training brings back: `python -m benchmarks.recovery --data-root DIR`.

Super-resolution: `bitwright compress` of a network to integers, without and with `--recover-minutes`, and narrowed with
it, evaluated on Set14 and BSD100 on the engine and timed beside ONNX Runtime float. Classification: a CIFAR-10 ResNet
in 8 and 4 bits, before and after training, several seeds; simulated in torch and labelled so: no runtime here executes
4 bits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks import command
from benchmarks.arms import Arm, Network, claim, finished
from benchmarks.common import markdown_table, speedup_text, write_results
from benchmarks.main_job_arms import BASELINE, Settings, bitwright_arm, names_of, onnxruntime_float
from benchmarks.recovery_classification import BITS, TITLES, Trained, trained
from benchmarks.session import timed
from benchmarks.tables import circumstances

SETS = ("Set14", "BSD100")
LIMIT = 0.15
"""Allowed drop of the arms, dB: RFDN stays on integers altogether; the table tells how many layers do."""


def trained_arm(network: Network, settings: Settings, given: argparse.Namespace, title: str, steps: int | None) -> Arm:
    """`bitwright compress` with that many steps of training, or with the minutes that were given."""
    length, recover = f"{given.minutes:g} min", f"recover_minutes={given.minutes:g}"
    if steps is not None:
        length, recover = f"{steps} steps", f"recover={steps}"
    training = replace(settings, options=(*settings.options, recover))
    return Arm(f"{title}, {length} of training", partial(bitwright_arm, network, training, LIMIT))


def narrowing(text: str) -> tuple[float, int | None]:
    """`0.004:1600` as the drop that layers are narrowed for and steps of training, None where none are given."""
    drop, _, steps = text.partition(":")
    return float(drop), int(steps) if steps else None


def restored(network: Network, given: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The table of a super-resolution network and its figures."""
    timing = command.timing_of(given)
    settings = Settings.of(given, network)
    length = f"{given.minutes:g} min" if given.training_steps is None else f"{given.training_steps} steps"
    claim(network, {**settings.decisive(), "length": length})
    arms = [
        Arm(BASELINE, partial(onnxruntime_float, network, settings)),
        Arm("bitwright int8", partial(bitwright_arm, network, settings, LIMIT)),
    ]
    if given.training_steps != 0:
        arms.append(trained_arm(network, settings, given, "bitwright int8", given.training_steps))
    for drop, steps in given.narrow:
        narrower = replace(settings, options=(*settings.options, f"narrow={drop:g}"))
        arms.append(
            trained_arm(
                network, narrower, given, f"bitwright int8, narrowed for {drop:g} dB", steps or given.training_steps
            )
        )
    records = [finished(network, arm, SETS) for arm in arms]
    times = timed(network, records, timing)
    rows = []
    for record in records:
        quality = [f"{record.quality[name].mean:.3f}" for name in SETS]
        drops = [f"{records[0].quality[name].mean - record.quality[name].mean:.3f}" for name in SETS]
        summary = times.measurement(record.arm).to_summary()
        speed = speedup_text(times.speedup(record.arm, BASELINE))
        layers = f"{record.int8_layers}/{record.layers}"
        rows.append([record.arm, layers, f"{summary.median_ms:.1f}", speed, *quality, *drops])
    titles = ["arm", "int8 layers", "median ms", "speed-up [95 %]", *(f"{n} dB" for n in SETS)]
    table = markdown_table([*titles, *(f"{n} drop dB" for n in SETS)], rows)
    text = f"## {network.name}\n\n{table}\n\n{circumstances(times)}"
    return text, {"arms": [r.model_dump(mode="json") for r in records], "timing": times.model_dump(mode="json")}


def classified(given: argparse.Namespace) -> tuple[str, list[Trained]]:
    """The table of the classifier, and a row for each bit width and seed."""
    found = [trained(given, bits, seed) for bits in BITS for seed in range(given.seeds)]
    table = markdown_table(TITLES, [row.cells() for row in found])
    return f"## {given.classifier}, CIFAR-10 test set, simulated in torch\n\n{table}", found


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, write its results and return the text of its tables."""
    parts, figures = [], {}
    for name in names_of(given.networks):
        text, figures[name] = restored(command.network_of(given, name), given)
        parts.append(text)
    rows: Sequence[Trained] = ()
    if given.seeds:
        text, rows = classified(given)
        parts.append(text)
    results = {
        "networks": figures,
        "classification": [row.model_dump(mode="json") for row in rows],
    }
    text = "\n\n".join(parts)
    write_results(given.out, "recovery", results, text, command.hidden(given))
    return text


def main() -> int:
    """Parse the command line, run and print."""
    parser = command.parser("Measure what recovery training brings back.", "benchmarks/results/recovery")
    parser.add_argument("--networks", default="rfdn_x4", help="stems of super-resolution checkpoints")
    parser.add_argument("--minutes", type=float, default=45.0, help="training time of each network, wall clock")
    parser.add_argument("--training-steps", type=int, default=None,
                        help="training steps of each network, not minutes; 0: only of narrowed ones")  # fmt: skip
    parser.add_argument("--narrow", type=narrowing, nargs="*", default=[(0.004, None)], metavar="DB[:STEPS]",
                        help="drops to narrow layers for")  # fmt: skip
    parser.add_argument("--classifier", default="resnet20_cifar10", help="stem of a checkpoint in classification/")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of the classifier at each bit width; 0: none")
    parser.add_argument("--steps", type=int, default=400, help="steps of each of them, batches of 64")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of bitwright")
    given = parser.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
