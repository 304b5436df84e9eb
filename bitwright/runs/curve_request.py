"""CurveRequest: what decides a trade-off curve: a compression job, how many plans, and which point to pick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from bitwright.foundation.errors import UsageError
from bitwright.runs.precision import Precision
from bitwright.runs.request import CompressRequest


class CurveRequest(CompressRequest):
    """One curve. `max_drop` and `budget_ms` only pick a point, so that they may change from call to call."""

    verb: ClassVar[str] = "curve"
    page: ClassVar[str] = "curve.html"
    changeable: ClassVar[frozenset[str]] = frozenset({"out", "max_drop", "budget_ms"})

    points: Annotated[int, Field(ge=0, le=200)] = Field(
        default=10, description="Mixed-precision engines that are built and measured, at most."
    )
    budget_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Pick the best quality within this latency (median, ms)."
    )
    table: Path | None = Field(
        default=None, description="Latency table of `bitwright profile`; without it, kernels are timed in this run."
    )

    @model_validator(mode="after")
    def _of_dense_networks(self) -> Self:
        if self.sparsity is not None:
            raise UsageError("sparsity: a curve's plans are of dense networks; prune with `bitwright compress`")
        if self.narrow is not None:
            raise UsageError("narrow: a curve's plans are of the network as it is; narrow with `bitwright compress`")
        if self.precision is not Precision.INT8:
            raise UsageError("precision: a curve's plans are of int8 and float; use `bitwright compress` for others")
        return self

    @property
    def run_folder(self) -> Path:
        """Where the run goes: `out`, or runs/<checkpoint stem>-<device>-curve."""
        if self.out is not None:
            return self.out
        return Path("runs", f"{self.checkpoint.stem}-{Path(self.device).stem}-curve")

    def job_request(self) -> CompressRequest:
        """The compression job whose stages the curve shares; it sets no limit, so that every stage does its work."""
        shared = {name: getattr(self, name) for name in CompressRequest.model_fields}
        return CompressRequest.model_validate({**shared, "max_drop": None, "out": self.run_folder})

    def check_inputs(self) -> None:
        """UsageError for a checkpoint, a folder of samples or a table that is not there."""
        super().check_inputs()
        if self.table is not None and not self.table.is_file():
            raise UsageError(f"--table {self.table} is not a file; make one with `bitwright profile`")
