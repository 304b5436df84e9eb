"""What quantising each layer and group in place costs at the output of a network; JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_text
from search.sensitivity.groups import Group

SCHEMA = 1
EXACT = "fp32"
"""The precision that all errors are measured against."""

Option = tuple[str, str]
"""A layer and the precision it is put in, the others being exact."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptionError(_Model):
    """One layer in one precision. `error`: mean squared output error per output value; `measured` False: predicted."""

    layer: str
    precision: str
    error: float
    proxy: float | None = None
    measured: bool = True


class GroupError(_Model):
    """A group in one integer precision, all at once. `summed`: what its layers predict, interactions included."""

    group: Group
    precision: str
    error: float
    summed: float


class Sensitivities(_Model):
    """What quantising in place costs at the output of a network.

    `interactions`: [options, options], the mean product of two options' output errors; its diagonal holds the errors.
    The error of a plan is the sum over all pairs of its options: exact as long as errors add up at the output.
    """

    schema_version: int = Field(default=SCHEMA, ge=1, le=SCHEMA)
    options: tuple[OptionError, ...]
    interactions: tuple[tuple[float, ...], ...]
    groups: tuple[GroupError, ...] = ()
    crops: int = Field(ge=1)
    output_power: float = Field(description="mean square of the float output")
    seconds: float

    def to_json(self, path: Path) -> None:
        """Write as JSON."""
        write_text(path, self.model_dump_json() + "\n")

    @staticmethod
    def from_json(path: Path) -> Sensitivities:
        """Read what `to_json` wrote; UsageError for any other file."""
        try:
            return Sensitivities.model_validate_json(Path(path).read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UsageError(f"{path} holds no sensitivities of schema {SCHEMA}: {where}: {first['msg']}") from error

    @property
    def errors(self) -> dict[Option, float]:
        """Error by layer and precision."""
        return {(option.layer, option.precision): option.error for option in self.options}

    def matrix(self) -> np.ndarray:
        """`interactions` as float64, [options, options]."""
        return np.asarray(self.interactions, dtype=np.float64).reshape(len(self.options), len(self.options))
