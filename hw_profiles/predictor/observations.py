"""What a table says of kernels and networks, in the form that models are fitted on."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bitwright.foundation.errors import UsageError
from hw_profiles.kernel import Kernel
from hw_profiles.latency_table import LatencyTable, MeasuredRow, NetworkRow

GRID = "grid"
"""Networks of this architecture only teach; they are not what a predictor is judged by."""


def architecture(network: str) -> str:
    """What a network's name begins with, up to the first `_`, `-` or space: networks that share it share kernels."""
    return re.split(r"[_\- ]", network, maxsplit=1)[0]


@dataclass(frozen=True)
class Observations:
    """Rows of one runtime on one number of threads. `kernels`: (architecture, quiet, kernel, ms)."""

    kernels: tuple[tuple[str, bool, Kernel, float], ...]
    networks: tuple[NetworkRow, ...]
    rows: tuple[MeasuredRow, ...]

    @classmethod
    def of(cls, table: LatencyTable, runtime: str, threads: int) -> Observations:
        """Of a table; UsageError where it has no kernel of this runtime on as many threads."""
        wanted = (runtime, threads)
        singles = [row for row in table.kernels if (row.runtime, row.threads) == wanted]
        # Of engines that were timed as a whole only, no kernel is known that the time could be told from.
        networks = [row for row in table.networks if (row.runtime, row.threads) == wanted and row.kernels]
        kernels = [(architecture(row.source), not row.noisy, row.kernel, row.ms.p50) for row in singles]
        told = {row.kernel.key for row in singles}
        for row in networks:
            parts = zip(row.kernels, row.kernel_ms, strict=True)
            new = [(architecture(row.network), not row.noisy, k, ms) for k, ms in parts if k.key not in told]
            kernels += new
        if not kernels:
            raise UsageError(
                f"the latency table has no kernel of {runtime} on {threads} threads; "
                "measure some with `bitwright profile`"
            )
        return cls(tuple(kernels), tuple(networks), (*singles, *networks))

    def without(self, held_out: Collection[str]) -> list[tuple[Kernel, float]]:
        """(kernel, ms) of other architectures; of equal kernels those timed on a quiet machine count alone."""
        kept = [entry for entry in self.kernels if entry[0] not in held_out]
        quiet = {kernel.key for _, calm, kernel, _ in kept if calm}
        return [(kernel, ms) for _, calm, kernel, ms in kept if calm or kernel.key not in quiet]

    def architectures(self) -> tuple[str, ...]:
        """What a predictor is judged by, sorted: the architectures of measured networks, the grid's own left out."""
        return tuple(sorted({architecture(row.network) for row in self.networks} - {GRID}))

    def judged(self, names: Collection[str]) -> Sequence[NetworkRow]:
        """The measured networks of some architectures."""
        return [row for row in self.networks if architecture(row.network) in names]
