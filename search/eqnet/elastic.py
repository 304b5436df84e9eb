"""Elastic quantisers: a learned scale, and a learned offset where there is one, for every width and form on its own.

Scales are learned as logarithms, offsets in units of the first scale, each as a Parameter of its own: what a step does
not use has no gradient, and so no optimiser moves it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitwright.foundation.errors import UsageError
from compress.compressed import QuantizedWeight
from compress.quantizers import SMALLEST_SCALE, Granularity, QuantFormat, QuantParams, container, quantize
from compress.recovery.rounding import round_activation, round_weight
from search.eqnet.clip_search import fit
from search.eqnet.forms import Form, OffsetMode, activation_grid, weight_grid

NEVER_NEGATIVE = -1e-9


class _Elastic(nn.Module):
    """Scales and offsets by key. `unit_<key>`: the first scale, in which the offset is counted."""

    def __init__(self, mode: OffsetMode) -> None:
        super().__init__()
        self.mode = mode
        self.log_scale = nn.ParameterDict()
        self.offset = nn.ParameterDict()
        self.key = ""

    def _add(self, key: str, count: int, symmetric: bool) -> None:
        self.log_scale[key] = nn.Parameter(torch.zeros(count))
        if not symmetric:
            self.offset[key] = nn.Parameter(torch.zeros(count))
            self.register_buffer(f"unit_{key}", torch.ones(count))

    @torch.no_grad()
    def _put(self, key: str, scale: Tensor, offset: Tensor) -> None:
        self.log_scale[key].copy_(scale.log())
        if key in self.offset:
            self.offset[key].copy_(offset / scale)
            self._unit(key).copy_(scale)

    def _unit(self, key: str) -> Tensor:
        unit = self.get_buffer(f"unit_{key}")
        assert isinstance(unit, Tensor)
        return unit

    def scale(self) -> Tensor:
        """The scales in use, [C] or [1], differentiable and always positive."""
        return torch.exp(self.log_scale[self.key]).clamp_min(SMALLEST_SCALE)

    def shift(self) -> Tensor | None:
        """The offsets in use in the unit of the tensor, of either sign; None for a symmetric form."""
        if self.key not in self.offset:
            return None
        moved: Tensor = self.offset[self.key] * self._unit(self.key)
        return moved

    def _zero(self, scale: Tensor, grid: QuantFormat) -> Tensor:
        """Integer zero points, with the gradient of the unrounded ones straight through."""
        shift = self.shift()
        if shift is None:
            return torch.zeros_like(scale.detach())
        real = -shift / scale
        settled = torch.clamp(torch.round(real.detach()), grid.qmin, grid.qmax)
        return settled + (real - real.detach())

    def _params(self, grid: QuantFormat, axis: int | None) -> QuantParams:
        with torch.no_grad():
            scale = self.scale().clone()
            zero = self._zero(scale, grid).round().to(torch.int32)
        return QuantParams(scale, zero, axis) if axis is not None else QuantParams(scale[0], zero[0])


class ElasticWeight(_Elastic):
    """Rounds a weight in the width and form chosen last. `axis`: its output channels."""

    def __init__(self, weight: Tensor, axis: int, bits: Sequence[int], mode: OffsetMode = OffsetMode.INTEGER) -> None:
        super().__init__(mode)
        self.axis, self.bits, self.channels = axis, tuple(bits), weight.shape[axis]
        self.variants = {
            _weight_key(b, g, s): (b, g, s)
            for b in bits for g in (Granularity.TENSOR, Granularity.CHANNEL) for s in (True, False)
        }  # fmt: skip
        for key, (_, granularity, symmetric) in self.variants.items():
            self._add(key, self.channels if granularity is Granularity.CHANNEL else 1, symmetric)
        self.grid = weight_grid(self.bits[-1], Granularity.CHANNEL, symmetric=True)
        self.choose(self.bits[-1], Granularity.CHANNEL, symmetric=True)

    def fit(self, weight: Tensor) -> None:
        """Set all scales and offsets from a trained weight."""
        rows = weight.detach().transpose(0, self.axis).reshape(self.channels, -1)
        for key, (bits, granularity, symmetric) in self.variants.items():
            wanted = rows if granularity is Granularity.CHANNEL else rows.reshape(1, -1)
            grid = weight_grid(bits, granularity, symmetric)
            self._put(key, *fit(wanted, grid, symmetric=symmetric, mode=self.mode))

    def choose(self, bits: int, granularity: Granularity, symmetric: bool) -> None:
        """Round in this width and form from now on; UsageError for a width that it does not have."""
        key = _weight_key(bits, granularity, symmetric)
        if key not in self.variants:
            raise UsageError(f"no {bits}-bit scales for this weight; it has {', '.join(map(str, self.bits))}")
        self.key, self.grid = key, weight_grid(bits, granularity, symmetric)

    @property
    def _axis(self) -> int | None:
        return self.axis if self.grid.granularity is Granularity.CHANNEL else None

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, float32, the shape of `weight`."""
        scale, grid = self.scale(), self.grid
        shift = self.shift()
        if shift is not None and self.mode is OffsetMode.FLOAT:
            shape = [1] * weight.dim()
            if self._axis is not None:
                shape[self.axis] = -1
            moved = shift.reshape(shape)
            zero = torch.zeros_like(scale.detach())
            return round_weight(weight - moved, scale, zero, self._axis, grid.qmin, grid.qmax) + moved
        return round_weight(weight, scale, self._zero(scale, grid), self._axis, grid.qmin, grid.qmax)

    @torch.no_grad()
    def quantized(self, weight: Tensor) -> QuantizedWeight:
        """The integers of a weight under the present choice, with an integer zero point whatever the mode is."""
        params = self._params(self.grid, self._axis)
        return QuantizedWeight(quantize(weight, params, self.grid).to(container(self.grid)), params, self.grid)


class ElasticActivation(_Elastic):
    """Rounds an activation, per tensor, in the chosen width and symmetry; `fit` settles `signed`, which is saved."""

    signed: Tensor

    def __init__(self, bits: Sequence[int], mode: OffsetMode = OffsetMode.INTEGER) -> None:
        super().__init__(mode)
        self.bits = tuple(bits)
        self.variants = {_activation_key(b, s): (b, s) for b in bits for s in (True, False)}
        for key, (_, symmetric) in self.variants.items():
            self._add(key, 1, symmetric)
        self.register_buffer("signed", torch.tensor(True))
        # A mirror on the host: reading the buffer in each step would wait for a GPU.
        self.is_signed = True
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            lambda module, _: module.read_signed()
        )
        self.symmetric = True
        self.grid = activation_grid(self.bits[-1], symmetric=True, signed=True)
        self.choose(self.bits[-1], symmetric=True)

    def read_signed(self) -> None:
        """Take over the saved sign flag."""
        self.is_signed = bool(self.signed)
        self.grid = activation_grid(self.grid.bits, self.symmetric, self.is_signed)

    def fit(self, values: Tensor) -> None:
        """Set the sign flag and all scales and offsets from values seen, any shape."""
        row = values.detach().reshape(1, -1)
        self.signed.fill_(bool(row.min() < NEVER_NEGATIVE))
        self.read_signed()
        for key, (bits, symmetric) in self.variants.items():
            grid = activation_grid(bits, symmetric, self.is_signed)
            self._put(key, *fit(row, grid, symmetric=symmetric, mode=self.mode))

    def choose(self, bits: int, symmetric: bool) -> None:
        """Round in this width and symmetry from now on; UsageError for a width that it does not have."""
        key = _activation_key(bits, symmetric)
        if key not in self.variants:
            raise UsageError(f"no {bits}-bit scales for this activation; it has {', '.join(map(str, self.bits))}")
        self.key, self.symmetric, self.grid = key, symmetric, activation_grid(bits, symmetric, self.is_signed)

    def forward(self, x: Tensor) -> Tensor:
        """The rounded activation, float32, [N, ...]."""
        scale, grid = self.scale(), self.grid
        shift = self.shift()
        if shift is not None and self.mode is OffsetMode.FLOAT:
            zero = torch.zeros_like(scale.detach())
            return round_activation(x.float() - shift, scale, zero, grid.qmin, grid.qmax) + shift
        return round_activation(x, scale, self._zero(scale, grid), grid.qmin, grid.qmax)

    def params(self) -> QuantParams:
        """Scale and zero point under the present choice, shape []."""
        return self._params(self.grid, None)


def choose_weight(quantizer: ElasticWeight, bits: int, form: Form) -> None:
    """Choose by form."""
    quantizer.choose(bits, form.granularity, form.weight_symmetric)


def _weight_key(bits: int, granularity: Granularity, symmetric: bool) -> str:
    return f"{bits}_{granularity.value}_{'sym' if symmetric else 'asym'}"


def _activation_key(bits: int, symmetric: bool) -> str:
    return f"{bits}_{'sym' if symmetric else 'asym'}"
