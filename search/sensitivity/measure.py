"""Measures sensitivities: each layer and each group is quantised in place, on calibration data."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import track
from compress.blocks import output_name
from search.sensitivity.groups import Group
from search.sensitivity.precision import Alternatives
from search.sensitivity.sensitivities import EXACT, GroupError, Option, OptionError, Sensitivities
from search.sensitivity.variants import Values, Variant, float_values, stored_bytes

MEMORY_BYTES = 2**30
"""Float activations and output errors that may be held at once; decides how many crops share a forward pass."""

PIECE = 2**15
"""Output values whose products are summed in float32."""


def all_options(alternatives: Alternatives, float_precisions: Sequence[str]) -> tuple[Option, ...]:
    """Every layer in every precision that is not exact, layer by layer."""
    rounded = [p for p in float_precisions if p != EXACT]
    return tuple((n, p) for n in alternatives.layers for p in (*alternatives.integer_precisions(n), *rounded))


def alone(alternatives: Alternatives, layers: Sequence[str], precision: str) -> Variant:
    """`layers` in one precision, all others exact."""
    if precision not in alternatives.models:
        return Variant.short_floats(alternatives, layers, precision)
    chosen = {name: precision if name in layers else EXACT for name in alternatives.layers}
    return Variant.of(alternatives, alternatives.plan(chosen, EXACT))


def measure(
    alternatives: Alternatives,
    inputs: Tensor,
    options: Sequence[Option],
    together: Sequence[Group] = (),
    memory_bytes: int = MEMORY_BYTES,
) -> Sensitivities:
    """Measure `options` one by one, and groups in each integer precision that all their layers have as an option.

    `inputs`: [N, C, H, W]. Deterministic. The crops go through in chunks: per chunk the float network runs once, and
    each option runs only what lies behind its layer.
    """
    if not len(inputs) or not options:
        raise UsageError("sensitivities need at least one calibration input and one layer that can be quantised")
    started = time.perf_counter()
    number = {option: i for i, option in enumerate(options)}
    moved = [(g, p) for g in together for p in alternatives.models if all((name, p) in number for name in g.layers)]
    variants = [alone(alternatives, [layer], p) for layer, p in options]
    variants += [alone(alternatives, group.layers, p) for group, p in moved]
    gram, joint = np.zeros((len(options), len(options))), np.zeros(len(moved))
    power, count = 0.0, 0
    chunk = _chunk(alternatives, inputs, len(options), memory_bytes)
    parts = list(torch.split(inputs, chunk))
    for turn, part in enumerate(parts, 1):
        values, exact = _exact(alternatives, part)
        errors = torch.empty(len(options), exact.numel())
        for i, variant in enumerate(track(variants, f"measuring sensitivities ({turn}/{len(parts)})")):
            error = (variant.again(alternatives.float_graph, part, values) - exact).flatten()
            if i < len(options):
                errors[i] = error
            else:
                joint[i - len(options)] += float(error.double().square().sum())
        gram += _products(errors)
        power += float(exact.double().square().sum())
        count += exact.numel()
    gram /= count
    found = [OptionError(layer=n, precision=p, error=float(gram[i, i])) for i, (n, p) in enumerate(options)]
    groups = []
    for (group, precision), total in zip(moved, joint, strict=True):
        rows = [number[name, precision] for name in group.layers]
        summed = float(gram[np.ix_(rows, rows)].sum())
        groups.append(GroupError(group=group, precision=precision, error=float(total / count), summed=summed))
    return Sensitivities(
        options=tuple(found),
        interactions=tuple(map(tuple, gram.tolist())),
        groups=tuple(groups),
        crops=len(inputs),
        output_power=power / count,
        seconds=time.perf_counter() - started,
    )


def _exact(alternatives: Alternatives, part: Tensor) -> tuple[Values, Tensor]:
    values = float_values(alternatives.float_graph, part)
    output = values[output_name(alternatives.float_graph)]
    assert isinstance(output, Tensor)
    return values, output


def _chunk(alternatives: Alternatives, inputs: Tensor, options: int, memory_bytes: int) -> int:
    """Crops that fit into memory at once: their activations and one output error per option."""
    values, output = _exact(alternatives, inputs[:1])
    return max(1, min(len(inputs), int(memory_bytes // (stored_bytes(values) + options * 4 * output.numel()))))


def _products(errors: Tensor) -> np.ndarray:
    """Inner products of rows, [options, options] in float64; summed in pieces so that float32 keeps its digits."""
    total = np.zeros((len(errors), len(errors)))
    for piece in torch.split(errors, PIECE, dim=1):
        total += (piece @ piece.T).double().numpy()
    return (total + total.T) / 2
