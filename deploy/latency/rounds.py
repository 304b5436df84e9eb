"""Rounds: one block of every engine in an order drawn anew, until each engine has enough samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from deploy.latency.statistics import median
from deploy.latency.timing import Stages

SETTLE_RUNS = 1
"""Unrecorded runs at the head of a block: another engine has just used the caches."""

MIN_ROUNDS = 10
_BLOCK_RUNS = (3, 1000)


@dataclass
class Samples:
    """What one engine has given so far, ns (`gpu_ms`: ms); the runs came in blocks of `block_sizes`."""

    name: str
    block_runs: int = 1
    wall_ns: list[int] = field(default_factory=list)
    cpu_ns: list[int] = field(default_factory=list)
    block_sizes: list[int] = field(default_factory=list)
    gpu_ms: list[Stages] = field(default_factory=list)

    def size_blocks(self, warm_ns: Sequence[int], block_seconds: float) -> None:
        """Let a block take about `block_seconds`, judged by the later half of a warm-up."""
        self.block_runs = int(np.clip(round(block_seconds * 1e9 / _run_ns(warm_ns)), *_BLOCK_RUNS))

    def add(self, wall_ns: Sequence[int], cpu_ns: Sequence[int], gpu_ms: Sequence[Stages] = ()) -> None:
        """Take in one block."""
        self.gpu_ms += gpu_ms
        self.wall_ns += wall_ns
        self.cpu_ns += cpu_ns
        self.block_sizes.append(len(wall_ns))

    def done(self, min_seconds: float, min_samples: int) -> bool:
        """Whether there are enough samples, in number and in timed seconds."""
        return len(self.wall_ns) >= min_samples and sum(self.wall_ns) >= min_seconds * 1e9

    def expected_rounds(self, warm_ns: Sequence[int], min_seconds: float, min_samples: int) -> int:
        """How many rounds all of it takes if the runs stay as long as at the end of the warm-up."""
        seconds = self.block_runs * _run_ns(warm_ns) / 1e9
        return max(MIN_ROUNDS, -(-min_samples // self.block_runs), int(np.ceil(min_seconds / seconds)))


def run_rounds(
    arms: Sequence[Samples],
    run_block: Callable[[Samples], None],
    *,
    seed: int,
    min_seconds: float,
    min_samples: int,
    max_seconds: float,
    past: int = 0,
) -> Iterator[tuple[str, ...]]:
    """Run rounds until all arms are done or `max_seconds` are over; yields the order of each round when it is run.

    `past`: rounds that were run before, by a session that was cut short; their orders are drawn and passed over, so
    that both sessions together run the orders that one would have.
    """
    generator = np.random.default_rng(seed)
    for _ in range(past):
        generator.permutation(len(arms))
    deadline = time.monotonic() + max_seconds
    rounds = past
    while rounds < MIN_ROUNDS or not all(arm.done(min_seconds, min_samples) for arm in arms):
        order = [arms[index] for index in generator.permutation(len(arms))]
        for arm in order:
            run_block(arm)
        rounds += 1
        yield tuple(arm.name for arm in order)
        if time.monotonic() >= deadline:
            return


def _run_ns(warm_ns: Sequence[int]) -> float:
    return median(warm_ns[len(warm_ns) // 2 :])
