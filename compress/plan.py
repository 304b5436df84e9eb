"""Plan: for each layer, what its weights and activations are quantised and pruned to. Versioned JSON."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_text
from compress.nm_pattern import Sparsity
from compress.quantizers import QuantFormat

PLAN_SCHEMA = 1


class Placement(StrEnum):
    """Which tensors around a quantised layer are quantised; decides quality as much as speed."""

    INPUTS = "inputs"
    """Only what enters a quantised layer; Adds, Multiplies and Concats stay in float (OpenVINO)."""
    INPUTS_OUTPUTS = "inputs_outputs"
    """Also what leaves it, which ONNX Runtime needs to pick an integer kernel."""
    EVERYTHING = "everything"
    """Also elementwise operators, concatenations and the network output (fastest in ONNX Runtime)."""


class LayerPlan(BaseModel):
    """The decision for one layer: both formats set (it computes on integers or in fp8), only that of the weight (it is
    stored so, and computes in float), or both null (float).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: QuantFormat | None = None
    activation: QuantFormat | None = None
    sparsity: Sparsity | None = None
    reason: str = Field(default="", description="why a layer is not quantised")

    @property
    def quantized(self) -> bool:
        """Whether the layer's weight is quantised."""
        return self.weight is not None

    @property
    def weight_only(self) -> bool:
        """Whether the layer is stored quantised and computes in float."""
        return self.weight is not None and self.activation is None

    @property
    def fp8(self) -> bool:
        """Whether the layer computes in fp8."""
        return any(form is not None and form.is_fp8 for form in (self.weight, self.activation))

    @model_validator(mode="after")
    def _one_encoding(self) -> Self:
        if self.weight is None and self.activation is not None:
            raise ValueError("a layer on quantised activations has a quantised weight too")
        if self.weight is not None and self.activation is not None and self.weight.is_fp8 != self.activation.is_fp8:
            raise ValueError("weights and activations of a layer are both integers or both fp8")
        return self


class Cost(BaseModel):
    """What a plan costs on its device, ms per inference; a null was not predicted or not measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    predicted_ms: float | None = Field(default=None, gt=0)
    measured_ms: float | None = Field(default=None, gt=0)
    source: str = Field(description="what predicted it: the predictor of a measured table, or a roofline (estimated)")


class Plan(BaseModel):
    """What is done to a model for a device and runtime; travels inside every artefact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(default=PLAN_SCHEMA, ge=1, le=PLAN_SCHEMA)
    architecture: str
    device: str
    runtime: str
    float_precision: str = Field(description="what layers that are not quantised execute in: fp32, bf16 or fp16")
    placement: Placement
    layers: dict[str, LayerPlan]
    genotype: dict[str, str | int] | None = None
    cost: Cost | None = None

    @property
    def sparse_layers(self) -> dict[str, Sparsity]:
        """The pattern of each layer that is pruned, in network order."""
        return {n: p.sparsity for n, p in self.layers.items() if p.sparsity is not None and not p.sparsity.dense}

    @property
    def quantized_layers(self) -> tuple[str, ...]:
        """Names of the layers whose weight is quantised, in network order."""
        return tuple(name for name, layer in self.layers.items() if layer.quantized)

    @property
    def fp8(self) -> bool:
        """Whether any layer computes in fp8."""
        return any(layer.fp8 for layer in self.layers.values())

    @property
    def weight_only(self) -> bool:
        """Whether any layer is stored quantised and computes in float."""
        return any(layer.weight_only for layer in self.layers.values())

    def require_integers(self, what: str) -> None:
        """UsageError where a layer is quantised and not on integers, which `what` ("recovery training") cannot do."""
        for name, layer in self.layers.items():
            if layer.fp8 or layer.weight_only:
                how = "is in fp8" if layer.fp8 else "has only its weight quantised"
                raise UsageError(f"{what} works on integers, and layer {name} {how}; compress it to int8 for that")

    def with_float(self, names: set[str], reason: str) -> Plan:
        """The same plan with some layers left in float; what it costs is no longer known."""
        unknown = names - self.layers.keys()
        if unknown:
            raise UsageError(f"the plan has no layer {sorted(unknown)[0]!r}")
        layers = {n: LayerPlan(sparsity=p.sparsity, reason=reason) if n in names else p for n, p in self.layers.items()}
        return self.model_copy(update={"layers": layers, "cost": None})

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_text(path, self.model_dump_json(indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> Plan:
        """Read a plan; UsageError names the first field that does not follow the schema."""
        try:
            return Plan.model_validate_json(Path(path).read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{path} is not a plan of schema {PLAN_SCHEMA}: {where}: {first['msg']}") from error
