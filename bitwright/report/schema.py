"""Report: everything one run has to say about itself, as one frozen tree; the content of `report.json`.

A value that was not measured is null, never zero. Units are in the field names or in the descriptions.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from bitwright.report import text
from bitwright.report.measured import Latency
from bitwright.report.pruned import NarrowedResult, SparsityResult

# Fields named `float` and `bytes` hide the builtins inside their class, so the number types have names of their own.
Metric = FiniteFloat
Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
EstimatedMs = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_ROUNDING = 1e-3


class Part(BaseModel):
    """Base of the parts of a report: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class Device(Part):
    """The device profile that the engine was built for."""

    id: str
    name: str
    hash: str = Field(description="hash of the profile file, so that two reports can be compared")


class RuntimeInfo(Part):
    """The software that ran the engine."""

    name: str
    version: str
    float_precision: str = Field(description="what the layers that are not quantised execute in: fp32, bf16 or fp16")
    threads: PositiveInt


class Score(Part):
    """A quality metric over a set of samples, in the unit of `Quality.unit`."""

    mean: Metric
    per_image: dict[str, Metric] = Field(default_factory=dict)
    extra: dict[str, Metric] = Field(default_factory=dict, description="further means, such as SSIM-Y (no unit)")


class Dataset(Part):
    """The samples that quality was measured on."""

    folder: str = Field(description="name of the folder, not its path")
    n: NonNegativeInt = Field(description="number of images")
    data_hash: str
    held_out: bool = Field(default=False, description="images kept out of the calibration folder: no independent set")

    @property
    def words(self) -> str:
        """What the figures were measured on, for a sentence."""
        return f"held-out images of {self.folder}" if self.held_out else self.folder


class Quality(Part):
    """Quality before and after. `engine` is measured on the exported artefact; `torch` is the simulation beside it."""

    metric: str = Field(description="for example PSNR-Y; higher is better")
    unit: str = Field(description="dB or %")
    float: Score
    torch: Score | None = Field(default=None, description="the compressed model in torch; null where not simulated")
    engine: Score
    drop: Metric = Field(description="float.mean - engine.mean; positive is a loss")
    torch_engine_gap: Metric | None = Field(default=None, description="absolute difference of the two means")
    dataset: Dataset
    decided_on: str = Field(description="the data that the plan was decided on")

    @model_validator(mode="after")
    def _drop_is_the_difference(self) -> Self:
        expected = self.float.mean - self.engine.mean
        if abs(self.drop - expected) > _ROUNDING:
            raise ValueError(f"drop is {self.drop} but float.mean - engine.mean is {expected:.4f}")
        return self


class AuditedLayer(Part):
    """What one planned layer executed in, as read from the built engine; null: not found in the engine."""

    layer: str
    planned: str
    executed: str | None
    kernel: str | None = None


class Mismatch(Part):
    """A layer that did not execute in its planned precision."""

    layer: str
    planned: str
    executed: str | None
    kernel: str | None
    reason: str


class AuditResult(Part):
    """Planned against executed precision: the number of layers per precision, and each layer that differs."""

    planned: dict[str, NonNegativeInt]
    executed: dict[str, NonNegativeInt]
    mismatches: tuple[Mismatch, ...] = ()
    layers: tuple[AuditedLayer, ...] = ()


class Layer(Part):
    """One compressible layer. MACs and BitOps are computed; `estimated_ms` comes from the profile, not a clock."""

    name: str
    op: str
    input_shape: tuple[NonNegativeInt, ...]
    output_shape: tuple[NonNegativeInt, ...]
    macs: NonNegativeInt
    params: NonNegativeInt
    weight_bits: PositiveInt
    act_bits: PositiveInt
    planned: str
    executed: str | None = Field(description="precision read from the engine; null where no engine was built")
    bitops: NonNegativeInt = Field(description="MACs x weight bits x activation bits")
    sensitivity_db: Metric | None = Field(default=None, description="loss when this layer alone is quantised, dB")
    estimated_ms: EstimatedMs | None = None
    kernel: str | None = Field(default=None, description="the runtime's own name of the kernel")


class Size(Part):
    """Size on disk of the engine and of the float model, bytes."""

    bytes: NonNegativeInt
    float_bytes: NonNegativeInt


class NeededPackage(Part):
    """A package that the device needs; `bytes` as it was installed where the engine was built, null if unknown."""

    name: str
    version: str
    bytes: NonNegativeInt | None


class Needs(Part):
    """What the device needs to run the engine, besides Python: files with bytes, and the runtime with its packages.

    `beside`: in words, what no package brings.
    """

    files: dict[str, NonNegativeInt]
    packages: tuple[NeededPackage, ...]
    beside: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Files, then the runtime, then what the runtime depends on, each with its size, then what is beside them."""
        named = [(f"{package.name} {package.version}", package.bytes) for package in self.packages]
        parts = [text.sizes(self.files.items()), text.sizes(named[:1]), text.sizes(named[1:]), ", ".join(self.beside)]
        return "; ".join(part for part in parts if part)


class BitOpsTotal(Part):
    """BitOps of the whole network at `Latency.input_shape`; computed, not measured."""

    planned: NonNegativeInt
    float: NonNegativeInt
    ratio: Ratio = Field(description="float / planned: how many times fewer")


class ModelInfo(Part):
    """The network that was compressed."""

    architecture: str
    path: str
    sha256: str
    parameters: NonNegativeInt


class Picture(Part):
    """One crop of a test picture before and after; paths are relative to the run folder, PNG."""

    name: str
    low_res: str
    float_png: str
    engine_png: str
    reference_png: str | None = None
    psnr_float: Metric | None = Field(default=None, description="PSNR of the crop, dB; null without a reference")
    psnr_engine: Metric | None = Field(default=None, description="PSNR of the crop, dB; null without a reference")
    crop: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt] = Field(
        description="left, top, right, bottom in pixels of the high-resolution picture"
    )

    @model_validator(mode="after")
    def _stays_inside_the_run_folder(self) -> Self:
        for path in (self.low_res, self.float_png, self.engine_png, self.reference_png):
            if path is not None and (PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts):
                raise ValueError(f"picture path {path!r} leaves the run folder; give it relative to the run folder")
        return self


class PlanStep(Part):
    """One plan that the search looked at."""

    step: NonNegativeInt
    quantized_layers: NonNegativeInt = Field(
        validation_alias=AliasChoices("quantized_layers", "planned_int8_layers"),
        description="layers planned in int8 or fp8; reports of earlier versions call it planned_int8_layers",
    )
    drop_db: Metric | None = Field(description="quality loss on `Quality.decided_on`; null where not evaluated")
    chosen: bool = False
    note: str = ""


class Limits(Part):
    """What the user asked for, and whether the result keeps it on the engine."""

    max_drop_db: Metric | None = None
    reached: bool | None = Field(default=True, description="null where a limit was asked for and the engine not run")


class Report(Part):
    """All results of one run. `quality`, `latency` and `audit` are null where the run did not get there."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    bitwright_version: str
    created: AwareDatetime
    model: ModelInfo
    device: Device
    runtime: RuntimeInfo
    quality: Quality | None
    latency: Latency | None
    audit: AuditResult | None
    layers: tuple[Layer, ...]
    size: Size
    sparsity: SparsityResult | None = None
    narrowed: NarrowedResult | None = None
    needs: Needs | None = None
    bitops: BitOpsTotal
    limits: Limits = Limits()
    pictures: tuple[Picture, ...] = ()
    plan_search: tuple[PlanStep, ...] = ()
    timings_s: dict[str, Seconds] = Field(default_factory=dict, description="wall-clock seconds per stage")
    warnings: tuple[str, ...] = ()
    environment: dict[str, JsonValue]
    command: tuple[str, ...]
    next_command: str

    @property
    def was_run(self) -> bool:
        """Whether the engine was run; one for a device that is not here is only built and audited."""
        return self.quality is not None or self.latency is not None

    def to_json(self) -> str:
        """The text of `report.json`: indented, with a final newline."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Read `report.json`; raises pydantic.ValidationError that names the field that does not fit."""
        return cls.model_validate_json(text)
