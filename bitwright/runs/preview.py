"""Preview: what a job would do, layer by layer, before any of it is done and without writing anything."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from bitwright.report.text import scaled
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from bitwright.runs.lock import FolderLock
from bitwright.runs.precision import Precision
from bitwright.runs.request import AUTO, CompressRequest
from bitwright.runs.settled import instead


class LayerPreview(BaseModel):
    """One layer: the widths it would get, or why it stays in float."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    op: str
    macs: int
    weight_bits: int | None = Field(description="null: stays in float")
    act_bits: int | None = Field(description="null: stays in float")
    reason: str = Field(default="", description="why it stays in float")
    sparsity: str | None = Field(
        default=None, description="N:M that its weights would be pruned to; auto, domino, sls: found in the job"
    )
    dense_because: str = Field(default="", description="why it is not pruned, or pruned to another pattern")


class Preview(BaseModel):
    """A job's first plan. The quality limit may still move layers back to float."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    parameters: int
    device: str
    runtime: str
    instead: str | None = Field(default=None, description="what a job goes on with where `runtime` lacks an operator")
    precision: Precision
    placement: str
    run_folder: str
    calibration_crops: int
    held_out_samples: int
    layers: tuple[LayerPreview, ...]
    command: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """The preview for a terminal."""
        touched = [layer for layer in self.layers if layer.weight_bits is not None]
        total = sum(layer.macs for layer in self.layers)
        share = 100 * sum(layer.macs for layer in touched) / total if total else 0.0
        lacking = f"where {self.runtime} lacks an operator of this network, the job goes on with {self.instead}"
        head = (
            f"{self.architecture}, {scaled(self.parameters)} parameters, for {self.device} with {self.runtime}",
            *((lacking,) if self.instead else ()),
            f"{len(touched)} of {len(self.layers)} layers would run {self.precision.computed}, {share:.1f} % of "
            f"{scaled(total)} MACs",
            f"tensors that would be quantised: {self.placement}",
            f"calibration on {self.calibration_crops} crops, plans chosen on {self.held_out_samples} held-out samples",
            f"the run would go to {self.run_folder}; nothing has been written",
        )
        return (*head, *(f"  {_layer_line(layer)}" for layer in self.layers))


def preview(request: CompressRequest) -> Preview:
    """Load and check everything that `request` names, and plan; errors as for the job itself."""
    # A folder that is neither opened nor locked: planning only needs its path.
    run = RunFolder(request.run_folder, (), FolderLock(request.run_folder))
    job = Job.open(request, run)
    other = instead(job)
    plan = job.first_plan()
    layers, asked = [], request.sparsity
    for row in job.table.rows:
        layer = plan.layers[row.name]
        decided = job.sparsity.get(row.name)
        layers.append(
            LayerPreview(
                name=row.name,
                op=str(row.op),
                macs=row.macs,
                weight_bits=None if layer.weight is None else layer.weight.bits,
                act_bits=None if layer.activation is None else layer.activation.bits,
                reason=layer.reason,
                sparsity=None if layer.sparsity is None else asked if asked in AUTO else str(layer.sparsity),
                dense_because="" if decided is None else decided.reason or decided.warning,
            )
        )
    return Preview(
        architecture=job.loaded.architecture,
        parameters=job.loaded.parameters,
        device=job.profile.id,
        runtime=job.runtime.value,
        instead=None if other is None else other.value,
        precision=request.precision,
        placement=plan.placement.value,
        run_folder=str(request.run_folder),
        calibration_crops=len(job.calibration),
        held_out_samples=len(job.held_out),
        layers=tuple(layers),
        command=request.command(),
    )


def _layer_line(layer: LayerPreview) -> str:
    widths = "float" if layer.weight_bits is None else f"w{layer.weight_bits}a{layer.act_bits}"
    words = [widths, layer.sparsity or "", layer.reason, layer.dense_because]
    return f"{layer.name:<32} {layer.op:<14} {scaled(layer.macs):>8} MACs  {'  '.join(word for word in words if word)}"
