"""LatencyPredictor: the time of a network under a plan, from the kernels that the runtime fuses for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_text
from bitwright.foundation.progress import note
from hw_profiles.kernel import Kernel
from hw_profiles.latency_table import LatencyTable
from hw_profiles.model import Part
from hw_profiles.predictor.correction import Method
from hw_profiles.predictor.kernel_model import KernelModel, Peaks
from hw_profiles.predictor.memory import peak_memory_bytes
from hw_profiles.predictor.network_model import NetworkModel
from hw_profiles.predictor.observations import Observations
from hw_profiles.predictor.prediction import KernelTime, Prediction, Source
from hw_profiles.predictor.validation import FitReport, cross_validate
from hw_profiles.schema import DeviceProfile

PREDICTOR_SCHEMA = 1
METHODS = (Method.NEIGHBOURS, Method.LINEAR, Method.NONE)
"""What a fit chooses among; trees can be asked for, and take about ten times as long."""


class LatencyPredictor(Part):
    """Fitted on the rows of one runtime and number of threads; a plain JSON file on disk."""

    schema_version: int = Field(default=PREDICTOR_SCHEMA, ge=1, le=PREDICTOR_SCHEMA)
    profile: str
    runtime: str
    runtime_versions: tuple[str, ...]
    threads: int
    fingerprints: tuple[str, ...] = Field(description="environments that the rows were measured in")
    kernels: KernelModel
    whole: NetworkModel
    report: FitReport

    @classmethod
    def fit(
        cls,
        table: LatencyTable,
        *,
        runtime: str,
        threads: int = 1,
        profile: DeviceProfile,
        methods: Sequence[Method] = METHODS,
    ) -> Self:
        """Choose a method on held-out networks, then fit it on all rows; its error is told and kept in `report`.

        `profile` gives the peaks for kernels of which nothing similar was measured. Deterministic. UsageError where
        the table has no rows of the runtime.
        """
        observations = Observations.of(table, runtime, threads)
        peaks = Peaks.of(profile, threads)
        report = cross_validate(observations, peaks, methods)
        fitted = cls(
            profile=profile.id,
            runtime=runtime,
            runtime_versions=tuple(sorted({row.runtime_version for row in observations.rows})),
            threads=threads,
            fingerprints=tuple(sorted({row.fingerprint for row in observations.rows})),
            kernels=KernelModel.fit(observations.without(()), peaks, report.chosen),
            whole=NetworkModel.fit(observations.networks),
            report=report,
        )
        error = report.agreement
        note(
            f"latency predictor ({report.chosen}): "
            + (
                "no network could be held out, so its error is unknown"
                if error is None
                else f"held-out networks {error}"
            )
        )
        return fitted

    def predict(self, kernels: Sequence[Kernel]) -> Prediction:
        """Time of one inference that executes `kernels`, with the source of each and how much of it was measured."""
        if not kernels:
            raise UsageError("a network without kernels has no time to predict")
        times = tuple(self.kernels.time(kernel) for kernel in kernels)
        total = sum(item.ms for item in times)
        measured = sum(item.ms for item in times if item.source is Source.MEASURED)
        guessed = [item for item in times if item.source is Source.ROOFLINE]
        ms = self.whole.ms([item.ms for item in times])
        low, high = self.report.low, self.report.high
        return Prediction(
            ms=ms,
            low=None if low is None else ms * low,
            high=None if high is None else ms * high,
            kernels=times,
            # A kernel that nothing is known of counts zero ms, so its share is unknown: then none is claimed in full.
            coverage=_share(measured, total, complete=all(item.source is Source.MEASURED for item in times)),
            uncovered=tuple(dict.fromkeys(name for item in guessed for name in _names(item))),
            peak_memory_bytes=peak_memory_bytes(kernels),
        )

    def foreign_warning(self, fingerprint: str) -> str | None:
        """One line if any row was measured in another environment than `fingerprint`; None if all are from it."""
        others = [found for found in self.fingerprints if found != fingerprint]
        if not others:
            return None
        return (
            f"warning: the latency predictor was fitted on times from another environment ({', '.join(others)}) than "
            f"this one ({fingerprint}); its times may be off, measure here with `bitwright profile`"
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_text(path, self.model_dump_json() + "\n")

    @classmethod
    def load(cls, path: Path, *, fingerprint: str | None = None) -> Self:
        """Read what `save` wrote; with `fingerprint`, that of this machine, a note warns of times from another one."""
        try:
            found = cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise UsageError(f"the latency predictor {path} cannot be read ({error.strerror})") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise UsageError(f"{path} is no latency predictor: {where}: {first['msg']}; fit it again") from error
        warning = None if fingerprint is None else found.foreign_warning(fingerprint)
        if warning is not None:
            note(warning)
        return found


def _share(measured: float, total: float, *, complete: bool) -> float:
    if complete:
        return 1.0
    return min(measured / total, 1.0) if total > 0 else 0.0


def _names(item: KernelTime) -> tuple[str, ...]:
    return item.kernel.layers or (f"{item.kernel.op} {item.kernel.precision}",)
