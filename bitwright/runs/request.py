"""CompressRequest: everything that decides one job. Its field descriptions are the help text of the command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from bitwright.foundation.errors import UsageError
from bitwright.runs.complaints import complaint
from bitwright.runs.mask_rules import SEARCHES, check_masks
from bitwright.runs.options import POSITIONAL, option_name, split_size
from bitwright.runs.precision import ON_INTEGERS, Precision, require_device

RangeMethod = Literal["minmax", "percentile", "mse"]
PlacementName = Literal["inputs", "inputs_outputs", "everything"]
SparsityMethod = Literal[
    "one_shot", "ste", "ste_frozen", "sr_ste", "sr_ste_frozen", "mdgf_linear", "mdgf_exponential", "mdgf_linear_ste",
    "mdgf_exponential_ste", "sdgf_stepwise", "sdgf_geometric", "sdgf_stepwise_hard", "sdgf_geometric_hard",
    "sr_mdgf_exponential", "sr_sdgf_stepwise",
]  # fmt: skip
"""Methods of `compress.sparsity` that end in a mask; spelled out, because a help text must not wait for torch."""
Side = Annotated[int, Field(ge=1, le=16384)]

AUTO = ("auto", *SEARCHES)
"""Sparsity: a pattern for each layer, as many weights in all as 2:4 keeps: by measured sensitivity, or by a search."""


class CompressRequest(BaseModel):
    """One compression job. A value that does not fit raises UsageError (ProfileError for the device), one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    verb: ClassVar[str] = "compress"
    page: ClassVar[str] = "report.html"
    changeable: ClassVar[frozenset[str]] = frozenset({"out"})
    """Fields that may change when a run is continued: they decide nothing that is on the disk."""

    checkpoint: Path = Field(description="Trained float network: safetensors, or a torch file of plain weights.")
    device: str = Field(description="Device profile: a name from `bitwright devices`, or a YAML file.")
    data: Path = Field(description="Folder of pictures to calibrate on; they need no labels and no small versions.")
    eval_data: Path | None = Field(
        default=None, description="Folder of pictures that quality is reported on; without it, pictures of --data."
    )
    max_drop: Annotated[float, Field(ge=0, le=100)] | None = Field(
        default=None,
        description="Largest loss of quality that is allowed, in the metric's unit (dB, or % for classification).",
    )
    runtime: str | None = Field(
        default=None, description="Runtime of the engine; without it, the first one of the profile that is installed."
    )
    out: Path | None = Field(default=None, description="Run folder; without it, runs/<checkpoint>-<device>.")
    model: str | None = Field(
        default=None, description="package.module:factory of a network that bitwright does not recognise by itself."
    )
    scale: Annotated[int, Field(ge=1, le=16)] | None = Field(
        default=None, description="Enlargement factor, where the weights alone do not tell."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=0, description="Seed of everything that is drawn.")
    calibration_count: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=256, description="Number of calibration crops."
    )
    calibration_size: Annotated[int, Field(ge=8, le=4096)] = Field(
        default=64, description="Side of a calibration crop, in pixels of the network's input."
    )
    precision: Precision = Field(
        default=Precision.INT8,
        description="What quantised layers compute in: int8; fp8 where the GPU has it; w4a16: 16-bit floats, with "
        "matrices in 4 bits. fp16, bf16: nothing is quantised, all layers compute in that.",
    )
    sparsity: str | None = Field(
        default=None,
        description="Prune weights: N kept of every M input channels, such as 2:4; auto: N:M for each layer by its "
        "sensitivity; domino, sls: by a search that trains.",
    )
    sparsity_search_steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=400, description="Training steps of domino and sls, at most."
    )
    sparsity_except: str | None = Field(
        default=None, description="Layers that stay dense: names or globs such as body.0.*, with commas between them."
    )
    narrow: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Remove channels that only fill the device's kernels up, such as 2 of 50, for at most this drop "
        "before training; without it, none.",
    )
    sparsity_method: SparsityMethod = Field(
        default="one_shot",
        description="How masks are found: one_shot takes them at once; the others need --recover or --recover-minutes.",
    )
    sparsity_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Share of the recovery training that goes into masks, in float, before 8 bits; without it, half "
        "of it, and nothing for one_shot.",
    )
    sparsity_dense: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of the mask training ahead of the first mask."
    )
    sparsity_fine_tune: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.15, description="Share of the mask training under the final, fixed mask."
    )
    sparsity_restrict: Literal["grad", "update"] = Field(
        default="grad", description="What decay methods restrict: gradients, or the optimiser's steps."
    )
    sparsity_period: Annotated[int, Field(ge=1, le=10)] = Field(
        default=1, description="Steps between refreshes of moving masks."
    )
    sparsity_freeze_v: Annotated[int, Field(ge=0)] | Literal["auto"] | None = Field(
        default=None,
        description="Step from which Adam's second moment stands, or auto: once its norm has settled, "
        "after 2000 steps or more.",
    )
    sparsity_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1e-4, description="Learning rate of the mask training."
    )
    placement: PlacementName | None = Field(
        default=None, description="Which tensors are quantised; without it, what the runtime needs to be fast."
    )
    range_method: RangeMethod = Field(
        default="minmax",
        description="How activation ranges are chosen. Before a leaky ReLU, minmax and mse take the ends with the "
        "least error behind it.",
    )
    equalize: bool = Field(default=True, description="Balance weight ranges between layers first.")
    reconstruct: bool = Field(default=True, description="Learn the rounding of the weights on the calibration crops.")
    iterations: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Steps for the rounding of each block; without it, bitwright's default."
    )
    recover: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None, description="Steps of training that recover what rounding lost; without it, no training."
    )
    recover_minutes: Annotated[float, Field(gt=0, le=100_000)] | None = Field(
        default=None, description="Minutes of such training, in place of a number of steps."
    )
    stretched: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Share of its crops that are stretched to black and white, for pages of text."
    )
    truth: Annotated[float, Field(ge=0, le=1000)] = Field(
        default=0.0, description="Weight of the ground truth in its loss, beside what the float network says."
    )
    self_distillation: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of the labels that its own past answers have taken over at its end (PS-KD)."
    )
    arithmetic: Literal["float32", "bf16"] = Field(
        default="float32", description="What such training computes convolutions and matrix products in."
    )
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="Threads that latency is measured on.")
    input_size: tuple[Side, Side] = Field(
        default=(128, 128), description="Height x width of the network input that latency is measured on, in pixels."
    )
    measure_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=5.0, description="Timed seconds of each engine, at least."
    )
    tolerance: Annotated[float, Field(gt=0, le=100)] | None = Field(
        default=None, description="Largest difference between torch and the engine; by default 0.02 dB or 0.1 % top-1."
    )

    @model_validator(mode="wrap")
    @classmethod
    def _one_clear_line(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise UsageError(complaint(error, cls.model_fields, option_name)) from error

    @field_validator("input_size", mode="before")
    @classmethod
    def _size_from_text(cls, value: Any) -> Any:
        return split_size(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_length_of_training(self) -> Self:
        if self.recover is not None and self.recover_minutes is not None:
            raise UsageError("--recover gives steps and --recover-minutes a time; give one of them")
        return self

    @model_validator(mode="after")
    def _past_answers_soften_labels(self) -> Self:
        if self.self_distillation and not self.truth:
            raise UsageError("self_distillation softens labels; give them a weight too, such as --set truth=1")
        return self

    @model_validator(mode="after")
    def _one_kind_of_pruning(self) -> Self:
        if self.narrow is not None and self.sparsity is not None:
            raise UsageError("--narrow removes channels and --sparsity weights; give one of them")
        return self

    @model_validator(mode="after")
    def _masks_fit(self) -> Self:
        check_masks(self)
        return self

    @property
    def mask_share(self) -> float:
        """Share of the recovery training that trains masks."""
        if self.sparsity is None or (self.recover is None and self.recover_minutes is None):
            return 0.0
        if self.sparsity_share is not None:
            return self.sparsity_share
        return 0.0 if self.sparsity_method == "one_shot" else 0.5

    @property
    def mask_steps(self) -> int:
        """Steps of the recovery training that train masks; 0 where it is given as a time."""
        if self.recover is None or not self.mask_share:
            return 0
        return min(self.recover - 1, max(1, round(self.mask_share * self.recover)))

    @field_validator("sparsity")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        if value is None or value in AUTO:
            return value
        from compress.nm_pattern import Sparsity

        pattern = Sparsity.parse(value)
        if pattern.dense:
            raise ValueError(f"{pattern} prunes nothing; leave --sparsity out")
        return str(pattern)

    @field_validator("model")
    @classmethod
    def _names_a_factory(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.]+:\w+", value):
            raise ValueError("expected package.module:factory")
        return value

    @model_validator(mode="after")
    def _device_has_it(self) -> Self:
        require_device(self.device, self.runtime, self.precision)
        return self

    @model_validator(mode="after")
    def _works_in_the_precision(self) -> Self:
        asked = [name for name in ON_INTEGERS if getattr(self, name) is not None]
        if self.precision is not Precision.INT8 and asked:
            raise UsageError(f"{option_name(asked[0])} needs integers; leave it out, or --precision {self.precision}")
        return self

    @property
    def run_folder(self) -> Path:
        """Where the run goes: `out`, or runs/<checkpoint stem>-<device>."""
        return self.out if self.out is not None else Path("runs", f"{self.checkpoint.stem}-{Path(self.device).stem}")

    def check_inputs(self) -> None:
        """UsageError for a checkpoint or a folder of samples that is not there."""
        if not self.checkpoint.is_file():
            what = "is a folder, not a file" if self.checkpoint.is_dir() else "does not exist"
            raise UsageError(f"checkpoint {self.checkpoint} {what}")
        for flag, folder in (("--data", self.data), ("--eval", self.eval_data)):
            if folder is not None and not folder.is_dir():
                what = "is a file, not a folder" if folder.exists() else "does not exist"
                raise UsageError(f"{flag} {folder} {what}")

    def command(self) -> tuple[str, ...]:
        """The arguments that repeat this job, without those that are at their default."""
        words = ["bitwright", self.verb]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in POSITIONAL:
                words.append(str(value))
            elif value == field.default:
                continue
            elif isinstance(value, bool):
                words.append(option_name(name) if value else option_name(f"no_{name}"))
            elif isinstance(value, tuple):
                words += [option_name(name), "x".join(map(str, value))]
            else:
                words += [option_name(name), str(value)]
        return tuple(words)

    def command_line(self) -> str:
        """`command` as one line for a shell."""
        return shlex.join(self.command())
