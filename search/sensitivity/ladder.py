"""Plans between all-integer and float that need no trust in the cost: the layers that hurt most go to float first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search.sensitivity.precision import is_float
from search.sensitivity.quality import QualityModel


def ladder(
    allowed: Mapping[str, Sequence[str]], quality: QualityModel, ties: Sequence[Sequence[str]] = ()
) -> list[dict[str, str]]:
    """Assignments with ever more layers in float, each strictly between the integer plan and the float plan.

    Starts with every layer in its first allowed precision. Each step sends one more group to float (the layers of a tie
    together), in the order of the error that this takes away by `quality`. Steps without integers are left out.
    """
    current = {layer: precisions[0] for layer, precisions in allowed.items()}
    exact = {layer: next((p for p in precisions if is_float(p)), None) for layer, precisions in allowed.items()}
    tied = {layer for group in ties for layer in group}
    groups = [tuple(group) for group in ties] + [(layer,) for layer in current if layer not in tied]
    movable = [g for g in groups if all(exact.get(layer) is not None for layer in g)]
    steps = []
    for group in sorted(movable, key=lambda group: -_gain(group, current, exact, quality)):
        if all(is_float(current[layer]) for layer in group):
            continue
        current |= {layer: precision for layer in group if (precision := exact[layer]) is not None}
        if not all(is_float(precision) for precision in current.values()):
            steps.append(dict(current))
    return steps


def _gain(
    group: Sequence[str], current: Mapping[str, str], exact: Mapping[str, str | None], quality: QualityModel
) -> float:
    """Predicted error that a group causes in its current precision beyond what it causes in float."""
    error = quality.layer_error
    return sum(error[layer][current[layer]] - error[layer][exact[layer] or current[layer]] for layer in group)
