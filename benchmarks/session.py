"""The timing of all arms of a network in one interleaved session, kept as `latency.json` beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.arms import ArmRecord, Network
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from deploy.engines import read_spec
from deploy.latency import Candidate, ComparisonResult, LoadGate, measure

LATENCY = "latency.json"


@dataclass(frozen=True)
class Timing:
    """How a session is measured; `side` is the height and width of the network's input in pixels."""

    seconds: float = 10.0
    threads: int = 1
    side: int = 128
    seed: int = 0
    again: bool = False

    def input_shape(self, network: Network) -> tuple[int, int, int, int]:
        """[1, C, H, W] of the timed input."""
        _, channels, height, width = network.loaded.workload.example_input(self.side, self.side).shape
        return 1, channels, height, width


def timed(
    network: Network, records: Sequence[ArmRecord], timing: Timing, others: Mapping[str, Network] | None = None
) -> ComparisonResult:
    """Measure the arms side by side; an earlier session is read if it timed exactly these engines in this way.

    `others`: the network of each arm that is none of `network`, by the arm's name; its input may have other channels.
    """
    path = network.work / LATENCY
    networks = {record.arm: (others or {}).get(record.arm, network) for record in records}
    if path.is_file() and not timing.again:
        before = ComparisonResult.model_validate_json(path.read_bytes())
        if _same(before, networks, records, timing):
            note(f"{network.name}: timed before")
            return before
    candidates = []
    for record in records:
        x = networks[record.arm].loaded.workload.example_input(timing.side, timing.side).numpy()
        source = network.work / f"input-{x.shape[1]}.npy"
        np.save(source, x)
        folder = network.work / record.engine
        candidates.append(Candidate(record.arm, folder, record.loader, input_file=source))
    result = measure(
        candidates,
        threads=timing.threads,
        min_seconds=timing.seconds,
        max_seconds=120.0 + 4.0 * timing.seconds * len(candidates),
        seed=timing.seed,
        percentiles=(50.0, 90.0),
        gate=LoadGate.for_session(timing.seconds),
    )
    write_text(path, result.model_dump_json() + "\n")
    return result


def _same(
    before: ComparisonResult, networks: Mapping[str, Network], records: Sequence[ArmRecord], timing: Timing
) -> bool:
    wanted = {record.arm: read_spec(networks[record.arm].work / record.engine) for record in records}
    return (
        {m.name: m.spec for m in before.measurements} == wanted
        and all(m.threads == timing.threads for m in before.measurements)
        and all(m.input_shape == timing.input_shape(networks[m.name]) for m in before.measurements)
        and (before.min_seconds, before.seed) == (timing.seconds, timing.seed)
    )
