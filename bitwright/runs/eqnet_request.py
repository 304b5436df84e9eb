"""EqnetRequest: everything that decides a run of `bitwright search eqnet`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from bitwright.foundation.errors import UsageError
from bitwright.foundation.suggest import nearest
from hw_profiles import load_profile
from search.eqnet.settings import EqnetSettings

_OWN = {"seed", "steps"}
"""Settings that have fields of their own."""


class EqnetRequest(BaseModel):
    """One supernet, and a plan for each device."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    checkpoint: Path = Field(description="Trained float network: safetensors, or a torch file of plain weights.")
    devices: tuple[str, ...] = Field(min_length=1, description="Device profiles that plans are wanted for.")
    data: Path = Field(description="Folder of pictures to train, calibrate and choose on.")
    eval_data: Path | None = Field(default=None, description="Folder of pictures that quality is reported on.")
    out: Path = Field(description="Run folder.")
    bits: tuple[int, ...] | None = Field(
        default=None,
        description="Bit widths of the supernet; without it, 2 to 8, and from 4 where the output is an image.",
    )
    pinned: tuple[str, ...] | None = Field(
        default=None, description="Layers with 8 bits only; without it, the first and the last one."
    )
    steps: Annotated[int, Field(ge=1)] = Field(default=3000, description="Training steps of the supernet.")
    samples: Annotated[int, Field(ge=8)] = Field(default=800, description="Subnets that the predictor learns from.")
    candidates: Annotated[int, Field(ge=1)] = Field(
        default=20_000, description="Candidates of the multi-objective search."
    )
    generations: Annotated[int, Field(ge=1)] = Field(default=500, description="Generations of the genetic search.")
    budget: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Largest latency in ms on each device whose profile predicts one; kept by the measured latency too "
        "where the engine runs here.",
    )
    budget_bitops: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Largest BitOps on each device whose profile predicts no latency."
    )
    budget_size: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Largest size of all weights in bytes, at the bits that they have, on every device."
    )
    measure_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=3.0, description="Timed seconds of an engine that runs here, at least."
    )
    emulated: bool = Field(default=False, description="Also widths that a device's runtime emulates.")
    calibration_count: Annotated[int, Field(ge=1)] = Field(
        default=2048, description="Training images that batch norms are calibrated on for each subnet."
    )
    model: str | None = Field(default=None, description="package.module:factory of an unknown network.")
    scale: int | None = Field(default=None, description="Enlargement factor, where the weights alone do not tell.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of everything that is drawn.")
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.devices)) != len(self.devices):
            raise UsageError("a device is named twice")
        for device in self.devices:
            load_profile(device)
        self.training(images=False)
        return self

    def widths(self, *, images: bool) -> tuple[int, ...]:
        """Bit widths of the supernet.

        For images they begin at 4, as section 11.3 of the specification has it.
        """
        if self.bits is not None:
            return self.bits
        return (4, 5, 6, 7, 8) if images else (2, 3, 4, 5, 6, 7, 8)

    def training(self, *, images: bool) -> EqnetSettings:
        """The settings of the training, for logits or images; UsageError for a value that does not fit."""
        base = EqnetSettings.for_images() if images else EqnetSettings.for_classes()
        known = {field.name for field in dataclasses.fields(EqnetSettings)} - _OWN
        for name in self.settings:
            if name not in known:
                raise UsageError(f"--set: unknown setting {name!r}; {nearest(name, sorted(known))}")
        values = dataclasses.asdict(base) | self.settings | {"seed": self.seed, "steps": self.steps}
        try:
            return TypeAdapter(EqnetSettings).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"--set {'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    def check_inputs(self) -> None:
        """UsageError for a checkpoint or folder that is not there."""
        if not self.checkpoint.is_file():
            raise UsageError(f"checkpoint {self.checkpoint} does not exist or is no file")
        for flag, folder in (("--data", self.data), ("--eval", self.eval_data)):
            if folder is not None and not folder.is_dir():
                raise UsageError(f"{flag} {folder} is not a folder")
