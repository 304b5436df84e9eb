"""The main job against its peers: `python -m benchmarks.main_job --data-root DIR`.

For each network: ONNX Runtime float, OpenVINO bf16, NNCF's post-training int8, and `bitwright compress` under each
allowed drop. Everything is calibrated on the same crops of sr/train, timed in one interleaved session, and evaluated on
the engine itself. Arms that are finished are not made again.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks import command
from benchmarks.arms import Network, claim, finished
from benchmarks.common import write_results
from benchmarks.main_job_arms import BASELINE, Settings, arms_of, drops_of, names_of
from benchmarks.session import Timing, timed
from benchmarks.tables import circumstances, rows_of, table_of


def settings_of(given: argparse.Namespace, network: Network, timing: Timing) -> Settings:
    """The settings of a network's arms."""
    return Settings(
        device=given.device,
        drops=drops_of(given.drops),
        crops=given.crops,
        crop_side=given.crop_side,
        seed=given.seed,
        accuracy_control=given.accuracy_control,
        accuracy_drop=given.accuracy_drop,
        options=tuple(given.set),
        input_shape=timing.input_shape(network),
        images=given.images,
    )


def benchmark(given: argparse.Namespace) -> str:
    """Run the benchmark, writing the results after each network, and return the text of all tables."""
    timing = command.timing_of(given)
    networks: dict[str, Any] = {}
    sections: list[str] = []
    for name in names_of(given.networks):
        network = command.network_of(given, name)
        settings = settings_of(given, network, timing)
        claim(network, settings.decisive())
        records = [finished(network, arm) for arm in arms_of(network, settings)]
        times = timed(network, records, timing)
        networks[name] = {
            "checkpoint_sha256": network.loaded.sha256,
            "rows": rows_of(records, times, BASELINE),
            "arms": [record.model_dump(mode="json") for record in records],
            "latency": times.model_dump(mode="json"),
        }
        sections.append(f"## {name}\n\n{table_of(records, times, BASELINE)}\n\n{circumstances(times)}")
        results = {
            "baseline": BASELINE,
            "seed": given.seed,
            "networks": networks,
        }
        write_results(given.out, "main_job", results, "\n\n".join(sections), command.hidden(given))
    return "\n\n".join(sections)


def main() -> int:
    """Parse the command line, run and print."""
    parser = command.parser("Compare bitwright compress with its peers.", "benchmarks/results/main_job")
    parser.add_argument("--networks", default="rfdn_x4,imdn_x4,pan_x4", help="stems of checkpoints")
    parser.add_argument("--drops", default="0.15,0.05", help="allowed drops of the bitwright arms, dB")
    parser.add_argument("--accuracy-control", action="store_true", help="also NNCF's accuracy-controlled mode (slow)")
    parser.add_argument("--accuracy-drop", type=float, default=0.1, help="drop that this mode is asked for, dB")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of bitwright")
    given = parser.parse_args()
    return command.run(lambda: print(benchmark(given)))


if __name__ == "__main__":
    sys.exit(main())
