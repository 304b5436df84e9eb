"""A profiling session: measures what a table lacks, and puts it on the disk item by item."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.plan import Plan
from deploy.profiling.rows import Circumstances, kernel_rows, network_row
from deploy.profiling.subject import Subject, build
from deploy.profiling.timing import profile_engine
from hw_profiles.latency_table import LatencyTable, NetworkRow

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Session:
    """A table, the file that it is kept in, where it is measured, and how long each engine is timed, about.

    `redo_noisy`: what was measured while others kept the machine busy counts as missing.
    """

    table: LatencyTable
    path: Path
    where: Circumstances
    seconds: float = 2.0
    redo_noisy: bool = False

    def measured_at(self, network: str, plan: str, size: tuple[int, int]) -> bool:
        """Whether the table has this network from this environment; `size` is height and width."""
        here = (self.where.runtime, self.where.runtime_version, self.where.threads, self.where.fingerprint)
        return any(
            (row.network, row.plan, row.input_shape[2:]) == (network, plan, size)
            and (row.runtime, row.runtime_version, row.threads, row.fingerprint) == here
            for row in self.table.networks
            if not (self.redo_noisy and row.noisy)
        )

    def profile(self, subject: Subject, plans: Mapping[str, Plan], shapes: Sequence[Shape]) -> Iterator[NetworkRow]:
        """Measure a network under each plan at each shape, [N, C, H, W], less what is measured; yields what is new.

        A network's own row is written after those of its kernels, so that it stands for all of them.
        """
        subject.watch(plans.values())
        for name, plan in plans.items():
            missing = [shape for shape in shapes if not self.measured_at(subject.name, name, shape[2:])]
            if not missing:
                continue
            with tempfile.TemporaryDirectory(prefix="bitwright-profile-") as temporary:
                file = Path(temporary) / "network.onnx"
                subject.export(plan, file)
                for shape in missing:
                    yield self._measure(file, subject.name, name, plan, shape)

    def _measure(self, file: Path, network: str, plan_name: str, plan: Plan, shape: Shape) -> NetworkRow:
        engine = file.parent / "x".join(map(str, shape))
        build(file, engine, plan, shape)
        times = profile_engine(engine, shape, threads=self.where.threads, seconds=self.seconds)
        for row in kernel_rows(times, self.where, network, plan_name, shape):
            self.table.add(row, self.path)
        whole = network_row(times, self.where, network, plan_name, shape)
        self.table.add(whole, self.path)
        return whole
