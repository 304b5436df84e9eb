"""QuantnasRequest: what decides a run of `bitwright search quantnas`. Its field descriptions are the help texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from bitwright.foundation.errors import UsageError
from bitwright.foundation.suggest import nearest
from bitwright.foundation.yaml_file import parse_yaml
from bitwright.runs.event_log import check_installed
from search.quantnas.presets import preset
from search.quantnas.quant_settings import QuantSettings
from search.quantnas.settings import RetrainSettings, SearchSettings
from workloads.super_resolution.models.searched import SearchSpace

T = TypeVar("T", QuantSettings, SearchSettings, RetrainSettings)
CostName = Literal["latency", "bitops"]
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
PENALTY_RANGE = (1e-6, 1e-2)
"""Of a sweep: the paper's penalties and a decade on."""
_OWN = {"budget", "penalty", "seed"}
"""Settings that have fields of their own."""


class QuantnasRequest(BaseModel):
    """One run: a search for each budget or penalty, and the training of what each finds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: Path = Field(description="Folder of pictures to search and train on; they need no small versions.")
    eval_data: Path | None = Field(default=None, description="Folder of pictures that quality is reported on.")
    out: Path = Field(description="Run folder.")
    preset: str = Field(default="paper-b", description="Settings to start from: paper-a, paper-b or smoke.")
    space: str | None = Field(default=None, description="rfdn, basic, or a FILE; without it, the preset's.")
    device: str | None = Field(default=None, description="Device profile that the network is for.")
    runtime: str | None = Field(default=None, description="Runtime on the device.")
    cost: CostName | None = Field(
        default=None, description="What is to be small; without it, latency with --device and bitops without."
    )
    budgets: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(), description="Largest cost of the whole network, ms or BitOps (4.6G); several give a front."
    )
    penalties: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(), description="Fixed coefficients of the relative cost in place of budgets; several give a front."
    )
    sweep: int | None = Field(
        default=None, ge=1, description="Trials of a study that chooses penalties, between two of `penalties`."
    )
    bitops_exponent: Literal[1, 2] = Field(default=2, description="Power of the bit width in BitOps; 1: an ablation.")
    bitops_weight: float = Field(
        default=0.0, ge=0, description="Weight of BitOps beside latency, each over its own start; with penalties."
    )
    width: int | None = Field(default=None, ge=1, description="Channels of the space.")
    cells: int | None = Field(default=None, ge=0, description="Cells of the space.")
    bits: tuple[int, ...] | None = Field(
        default=None, description="Bit widths to choose from; with latency, by default those that the device has."
    )
    end_bits: int = Field(
        default=8, ge=0, description="Least bit width of the layers that read or make the picture; 0: any, as searched."
    )
    fixed_bits: int | None = Field(default=None, description="Bit width of what is not searched.")
    table: Path | None = Field(default=None, description="Latency table of `bitwright profile`, before estimates.")
    input_size: tuple[int, int] | None = Field(
        default=None, description="LR height x width that cost is counted at; 32x32 for bitops, 128x128 for latency."
    )
    retrain: bool = Field(default=True, description="Train what was found.")
    compress: bool = Field(default=False, description="Then compress it for --device: engine, audit, quality, latency.")
    tensorboard: bool = Field(default=False, description="Write scalars for TensorBoard.")
    seed: int = Field(default=777, ge=0, lt=2**32, description="Seed of everything that is drawn.")
    search_settings: dict[str, Any] = Field(default_factory=dict)
    quant_settings: dict[str, Any] = Field(default_factory=dict)
    retrain_settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for flag, given in (("--budget", self.budgets), ("--penalty", self.penalties)):
            if len(set(given)) < len(given):
                raise UsageError(f"{flag} has one value twice; a point is made once")
        if self.budgets and self.penalties:
            raise UsageError("--budget meets an absolute cost and --penalty weighs it; give one of them")
        if self.cost == "latency" and self.device is None:
            raise UsageError("--cost latency needs a --device")
        if self.compress and (self.device is None or not self.retrain):
            raise UsageError("--compress needs a --device and the training of the network")
        self._check_sweep()
        if self.bitops_weight and (not self.by_latency or self.budgets):
            raise UsageError("--bitops-weight adds BitOps to a latency and has no unit; use it with --penalty")
        self.search()
        self.retraining()
        return self

    def _check_sweep(self) -> None:
        if self.sweep is None:
            return
        if self.budgets or self.compress or not self.retrain:
            raise UsageError("--sweep chooses penalties by training: give no --budget, --compress or --no-retrain")
        if self.penalties and (len(self.penalties) != 2 or not 0 < self.penalties[0] < self.penalties[1]):
            raise UsageError("--sweep chooses between two penalties above 0: give the lower, then the higher one")

    @property
    def by_latency(self) -> bool:
        """Whether cost is time on the device."""
        return self.cost == "latency" or (self.cost is None and self.device is not None)

    def searched_space(self) -> SearchSpace:
        """The space at the size that was asked for."""
        space = preset(self.preset).sized_space(self.space)
        return space.resized(width=self.width, cells=self.cells, bits=self.bits, fixed_bits=self.fixed_bits)

    @property
    def penalty_range(self) -> tuple[float, float]:
        """Least and greatest penalty of a sweep."""
        low, high = self.penalties or PENALTY_RANGE
        return low, high

    def points(self) -> tuple[tuple[str, float | None, float | None], ...]:
        """(folder name, budget, penalty) of each search."""
        if self.budgets:
            return tuple((f"budget-{_named(value)}", value, None) for value in self.budgets)
        given = self.penalties or (self.search().penalty,)
        return tuple((f"penalty-{_named(value)}", None, value) for value in given)

    def search(self, budget: float | None = None, penalty: float | None = None) -> SearchSettings:
        """The settings of one search; UsageError for a value that does not fit."""
        base = preset(self.preset).search
        quant = _replaced(base.quant, self.quant_settings, "quant")
        base = dataclasses.replace(base, quant=quant, seed=self.seed, budget=budget)
        if penalty is not None:
            base = dataclasses.replace(base, penalty=penalty)
        return _replaced(base, self.search_settings, "search")

    def retraining(self) -> RetrainSettings:
        """The settings of training what was found."""
        base = dataclasses.replace(preset(self.preset).retrain, seed=self.seed)
        return _replaced(base, self.retrain_settings, "retrain")

    def check_inputs(self) -> None:
        """UsageError for a folder or file that is not there."""
        for flag, folder in (("--data", self.data), ("--eval", self.eval_data)):
            if folder is not None and not folder.is_dir():
                raise UsageError(f"{flag} {folder} is not a folder")
        if self.tensorboard:
            check_installed()
        if self.table is not None and not self.table.is_file():
            raise UsageError(f"--table {self.table} is not a file; make one with `bitwright profile`")


def _named(value: float) -> str:
    """A number in a folder's name: short where that is the number itself, else in full, so that no two are alike."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def quantity(text: str) -> float:
    """A cost such as 12.5 or 4.6G; UsageError for anything else."""
    factor = _UNITS.get(text[-1:], 1.0)
    try:
        return float(text[:-1] if text[-1:] in _UNITS else text) * factor
    except ValueError as error:
        raise UsageError(f"{text!r} is no cost; expected a number such as 12.5, 4.6e9 or 4.6G") from error


def assigned(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`--set name=value` as fields of the request: search settings, or quant.NAME and retrain.NAME of the others."""
    made: dict[str, dict[str, Any]] = {"search_settings": {}, "quant_settings": {}, "retrain_settings": {}}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        group, dot, rest = name.strip().partition(".")
        if not equals:
            raise UsageError(f"--set {assignment}: expected name=value, such as --set epochs=5 or retrain.epochs=5")
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {assignment}: the value is not valid YAML") from error
        key = f"{group}_settings" if dot else "search_settings"
        if key not in made:
            raise UsageError(f"--set {assignment}: {group} is none of quant, retrain")
        made[key][(rest if dot else group).replace("-", "_")] = value
    return made


def _replaced(base: T, changes: Mapping[str, Any], what: str) -> T:
    known = {field.name for field in dataclasses.fields(base)} - _OWN - {"quant"}
    for name in changes:
        if name not in known:
            raise UsageError(f"--set: unknown {what} setting {name!r}; {nearest(name, sorted(known))}")
    try:
        values = TypeAdapter(type(base)).validate_python({**_shallow(base), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"--set {where}: {first['msg']}") from error
    return values


def _shallow(base: QuantSettings | SearchSettings | RetrainSettings) -> dict[str, Any]:
    return {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
