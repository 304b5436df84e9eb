"""Configurations with their true quality, for the predictor: drawn over the whole range of widths, kept, and resumed.

Uniform draws of the widths hardly reach the ends of the average; here a target of the average is drawn, and the width
of each layer from p(b) ~ exp(theta b) with theta solved for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitwright.foundation.errors import CheckpointError, UsageError
from bitwright.foundation.progress import track
from search.eqnet.accounting import Accounting
from search.eqnet.forms import FORMS, Form
from search.eqnet.space import Configuration, ElasticSpace, LayerChoice

Evaluate = Callable[[Configuration], float]
"""True quality of a subnet, higher is better."""


class Scored(NamedTuple):
    """True quality of a subnet with the secondary metrics of its evaluation, such as cross-entropy."""

    value: float
    extra: Mapping[str, float]


MARGIN, TOLERANCE = 0.4, 0.1
"""Distance of the targets from the least and greatest width, and of an accepted average from its target."""
ATTEMPTS, STEEPEST = 400, 30.0
CHECKED = 0.2


@dataclass(frozen=True)
class Measured:
    """A configuration and its true quality. `extra`: the secondary metrics, as in `Scored`."""

    configuration: Configuration
    value: float
    extra: Mapping[str, float] = field(default_factory=dict)


def split(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the samples that check a predictor, a fifth of all, and of those that it learns from.

    UsageError for fewer than 4 samples.
    """
    held = max(2, round(CHECKED * count))
    if count - held < 2:
        raise UsageError(f"a predictor needs at least 4 samples, not {count}")
    order = np.random.default_rng(seed).permutation(count)
    return order[:held], order[held:]


def draw(space: ElasticSpace, accounting: Accounting, seed: int, index: int, form: Form | None = None) -> Configuration:
    """Draw number `index`: form index mod 8 unless one is given, and averages spread evenly over what is possible.

    Where none of ATTEMPTS comes within TOLERANCE of the target, as in networks of few layers, the nearest one counts.
    """
    random = np.random.default_rng([seed, index])
    chosen = FORMS[index % len(FORMS)] if form is None else form
    weights = _widths(space, accounting.weights, 0, random)
    inputs = _widths(space, accounting.inputs, 1, random)
    return Configuration(tuple(LayerChoice(int(w), int(a), chosen) for w, a in zip(weights, inputs, strict=True)))


def _widths(
    space: ElasticSpace, amounts: NDArray[np.float64], kind: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Widths of all layers, [L], with an average over the free ones that is near a drawn target."""
    allowed = [(layer.weight_bits, layer.activation_bits)[kind] for layer in space.layers]
    leader = np.array((space.weight_of, space.source_of)[kind])
    shares = np.zeros(len(allowed))
    shares[list(space.free)] = amounts[list(space.free)]
    if not shares.sum():
        return np.array([widths[0] for widths in allowed])
    shares = shares / shares.sum()
    ends = [sum(s * w[at] for s, w in zip(shares, allowed, strict=True)) for at in (0, -1)]
    margin = min(MARGIN, (ends[1] - ends[0]) / 4)
    target = float(random.uniform(ends[0] + margin, ends[1] - margin))
    theta = _steepness(allowed, shares, target)
    chances = random.random((ATTEMPTS, len(allowed)))
    drawn = np.zeros(chances.shape, np.int64)
    for widths in set(allowed):
        layers = [number for number, own in enumerate(allowed) if own == widths]
        ends_of = np.cumsum(_probabilities(widths, theta))[:-1]
        drawn[:, layers] = np.array(widths)[np.searchsorted(ends_of, chances[:, layers], side="right")]
    drawn = drawn[:, leader]
    away = np.abs(drawn @ shares - target)
    first = np.nonzero(away <= TOLERANCE)[0]
    chosen: NDArray[np.int64] = drawn[int(first[0]) if len(first) else int(away.argmin())]
    return chosen


def _probabilities(widths: tuple[int, ...], theta: float) -> NDArray[np.float64]:
    powers = theta * (np.array(widths, np.float64) - np.mean(widths))
    weights = np.exp(powers - powers.max())
    result: NDArray[np.float64] = weights / weights.sum()
    return result


def _steepness(allowed: list[tuple[int, ...]], shares: NDArray[np.float64], target: float) -> float:
    """Theta at which the expected average is the target; the average grows with theta."""
    low, high = -STEEPEST, STEEPEST
    kinds = {w: float(sum(s for s, other in zip(shares, allowed, strict=True) if other == w)) for w in set(allowed)}
    for _ in range(60):
        theta = (low + high) / 2
        mean = sum(s * float(_probabilities(w, theta) @ np.array(w)) for w, s in kinds.items() if s)
        low, high = (theta, high) if mean < target else (low, theta)
    return (low + high) / 2


def collect(
    space: ElasticSpace, accounting: Accounting, evaluate: Callable[[Configuration], float | Scored], count: int, *,
    seed: int, owner: str, path: Path | None = None, form: Form | None = None, part: int = 0, parts: int = 1,
) -> list[Measured]:  # fmt: skip
    """`count` distinct configurations, evaluated; those that `path` (JSON lines) holds are not evaluated again.

    What was evaluated is known by the configuration itself, whatever seed, count or form it was drawn with. `owner`
    tells the supernet, the images and what else decides a value apart: a file of another one is a UsageError. Several
    processes share the work with `part` of `parts`, each with a file of its own.
    """
    wanted: dict[str, Configuration] = {}
    index = 0
    while len(wanted) < count and index < 20 * count:
        made = draw(space, accounting, seed, index, form)
        wanted.setdefault(made.key, made)
        index += 1
    mine = [pair for number, pair in enumerate(wanted.items()) if number % parts == part]
    known = _read(path, _owner(space, owner)) if path is not None else {}
    found = []
    for key, configuration in track(mine, "evaluating subnets for the predictor"):
        if key not in known:
            scored = evaluate(configuration)
            known[key] = scored if isinstance(scored, Scored) else Scored(scored, {})
            if path is not None:
                value, extra = known[key]
                _append(path, {"layers": configuration.numbers, "value": value, "extra": dict(extra)})
        found.append(Measured(configuration, *known[key]))
    return found


def _owner(space: ElasticSpace, owner: str) -> str:
    return hashlib.sha256(f"{space.model_dump_json()}/{owner}".encode()).hexdigest()


def _read(path: Path, owner: str) -> dict[str, Scored]:
    """Values and secondary metrics by the configuration's key; a last line that was cut off is dropped."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"owner": owner}) + "\n", encoding="utf-8")
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    try:
        head, *rest = [json.loads(line) for line in whole.splitlines()]
        if head["owner"] != owner:
            raise UsageError(
                f"{path} holds samples of another supernet, space, quality or set of images; delete it to evaluate "
                "subnets anew, or choose another --out"
            )
        return {
            Configuration.of(entry["layers"]).key: Scored(float(entry["value"]), dict(entry.get("extra", {})))
            for entry in rest
        }
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged; delete it to evaluate the subnets again") from error


def _append(path: Path, entry: dict[str, object]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
