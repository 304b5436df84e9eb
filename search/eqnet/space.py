"""ElasticSpace: the widths that each layer may have, and what binds layers; Configuration: one choice for all."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field
from torch import fx

from bitwright.foundation.errors import UsageError
from compress.graph import layer_nodes, weight_name
from search.eqnet.forms import FORMS, NARROWEST, WIDEST, Form

ALL_BITS = tuple(range(NARROWEST, WIDEST + 1))
LIGHT_BITS = tuple(range(3, WIDEST + 1))
"""For networks of depthwise convolutions, which collapse at 2 bits (section 2)."""


class ElasticLayer(BaseModel):
    """One layer call. `weight` and `source` name what it reads: calls that share one of them have its width together.

    A pinned layer has 8 bits only; its form varies as any other's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weight: str
    source: str
    weight_bits: tuple[int, ...] = Field(min_length=1)
    activation_bits: tuple[int, ...] = Field(min_length=1)
    pinned: bool


@dataclass(frozen=True)
class LayerChoice:
    """Width of weights and of the input, and the form, of one layer."""

    weight_bits: int
    activation_bits: int
    form: Form


@dataclass(frozen=True)
class Configuration:
    """A choice for every layer of a space, in its order."""

    layers: tuple[LayerChoice, ...]

    @property
    def key(self) -> str:
        """Hash of the configuration, for caches."""
        return hashlib.sha256(repr(self.numbers).encode()).hexdigest()

    @property
    def numbers(self) -> tuple[tuple[int, int, int], ...]:
        """(weight bits, activation bits, form index) of each layer, as they are written to files."""
        return tuple((c.weight_bits, c.activation_bits, c.form.index) for c in self.layers)

    @property
    def form(self) -> Form | None:
        """The form that all layers have, or None where they differ."""
        forms = {c.form for c in self.layers}
        return forms.pop() if len(forms) == 1 else None

    @staticmethod
    def of(numbers: Sequence[Sequence[int]]) -> Configuration:
        """The configuration that `numbers` wrote."""
        return Configuration(tuple(LayerChoice(w, a, FORMS[f]) for w, a, f in numbers))


class ElasticSpace(BaseModel):
    """The layers of a network in execution order. JSON by pydantic's own methods."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[ElasticLayer, ...] = Field(min_length=1)

    @staticmethod
    def of(
        graph_module: fx.GraphModule,
        bits: Sequence[int] = ALL_BITS,
        *,
        pinned: Collection[str] | None = None,
        least: Mapping[str, int] | None = None,
    ) -> ElasticSpace:
        """The space of a captured network. `pinned`: layers with 8 bits only; without it, the first and the last one.

        `least`: a lower bound for some layers, such as 4 for the convolutions of an upsampler.
        """
        widths = tuple(sorted(set(bits)))
        if not widths or widths[0] < NARROWEST or widths[-1] > WIDEST:
            raise UsageError(f"widths are {NARROWEST} to {WIDEST} bits, not {list(bits)}")
        calls = list(layer_nodes(graph_module))
        names = [name for name, _ in calls]
        fixed = {names[0], names[-1]} if pinned is None else set(pinned)
        bounds = dict(least or {})
        for name in (*fixed, *bounds):
            if name not in names:
                raise UsageError(f"the network has no layer {name!r}")
        layers = []
        for name, node in calls:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            mine = tuple(b for b in widths if b >= bounds.get(name, NARROWEST))
            own = (WIDEST,) if name in fixed or not mine else mine
            layers.append(
                ElasticLayer(
                    name=name, weight=weight_name(node), source=source.name, weight_bits=own, activation_bits=own,
                    pinned=name in fixed,
                )
            )  # fmt: skip
        return ElasticSpace(layers=tuple(_tied(layers)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Layer names in order."""
        return tuple(layer.name for layer in self.layers)

    @cached_property
    def free(self) -> tuple[int, ...]:
        """Numbers of the layers that are not pinned."""
        return tuple(i for i, layer in enumerate(self.layers) if not layer.pinned)

    @cached_property
    def weight_of(self) -> tuple[int, ...]:
        """For each layer, the first layer with the same weight."""
        return _leaders([layer.weight for layer in self.layers])

    @cached_property
    def source_of(self) -> tuple[int, ...]:
        """For each layer, the first layer that reads the same tensor."""
        return _leaders([layer.source for layer in self.layers])

    def uniform(self, bits: int, form: Form) -> Configuration:
        """Every layer at `bits`, or at its own nearest width; pinned layers at 8 bits."""
        return Configuration(
            tuple(
                LayerChoice(_nearest(bits, layer.weight_bits), _nearest(bits, layer.activation_bits), form)
                for layer in self.layers
            )
        )

    def check(self, configuration: Configuration) -> None:
        """UsageError names the first layer whose choice is not of the space, or differs from one it is tied to."""
        if len(configuration.layers) != len(self.layers):
            raise UsageError(f"a configuration of {len(self.layers)} layers is needed, not {len(configuration.layers)}")
        for number, (layer, choice) in enumerate(zip(self.layers, configuration.layers, strict=True)):
            if choice.weight_bits not in layer.weight_bits or choice.activation_bits not in layer.activation_bits:
                raise UsageError(
                    f"layer {layer.name} cannot have {choice.weight_bits}/{choice.activation_bits} bits; it has "
                    f"{list(layer.weight_bits)} for weights and {list(layer.activation_bits)} for its input"
                )
            first, reader = (configuration.layers[of[number]] for of in (self.weight_of, self.source_of))
            shares = (first.weight_bits, first.form.granularity, first.form.weight_symmetric)
            if shares != (choice.weight_bits, choice.form.granularity, choice.form.weight_symmetric):
                raise UsageError(f"layer {layer.name} shares its weight and must have its width and form")
            input_form = (choice.activation_bits, choice.form.activation_symmetric)
            if (reader.activation_bits, reader.form.activation_symmetric) != input_form:
                raise UsageError(f"layer {layer.name} shares its input, which has one quantiser")


def _tied(layers: Sequence[ElasticLayer]) -> list[ElasticLayer]:
    """Layers with the widths that all calls of their weight, and all readers of their input, may have."""
    found = []
    for layer in layers:
        weights = [set(other.weight_bits) for other in layers if other.weight == layer.weight]
        inputs = [set(other.activation_bits) for other in layers if other.source == layer.source]
        common = tuple(sorted(set.intersection(*weights))), tuple(sorted(set.intersection(*inputs)))
        if not all(common):
            raise UsageError(f"layer {layer.name} and those that share its weight or its input have no common width")
        found.append(layer.model_copy(update={"weight_bits": common[0], "activation_bits": common[1]}))
    return found


def _leaders(keys: Sequence[str]) -> tuple[int, ...]:
    first: dict[str, int] = {}
    return tuple(first.setdefault(key, number) for number, key in enumerate(keys))


def _nearest(bits: int, allowed: Sequence[int]) -> int:
    return min(allowed, key=lambda b: (abs(b - bits), -b))
