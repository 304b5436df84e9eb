"""The tables of `benchmarks.eqnet_mixed`: predictors, what orders subnets, and the plans that were chosen."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from benchmarks.common import markdown_table, spread
from benchmarks.eqnet_study import COMPARED
from search.eqnet.predictor import Agreement

UNIFORM, GENETIC, PREDICTED, EVALUATED = (
    "uniform", "genetic search", "random, predicted", "random, evaluated",
)  # fmt: skip
ARMS = (UNIFORM, EVALUATED, PREDICTED, GENETIC)


class Chosen(BaseModel):
    """A plan that an arm chose within the BitOps of a uniform width.

    `sqnr` in dB and top-1 in percent are those of held-out images, `test` is top-1 on the test set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: str
    bits: int
    seed: int
    evaluations: int
    share: float
    sqnr: float
    held_out: float
    test: float
    widths: tuple[tuple[int, int], ...]


class Learnt(BaseModel):
    """Agreement of a kind of predictor that has learnt from some samples, with SQNR in dB."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    samples: int
    told: Agreement


class Ordered(BaseModel):
    """Agreement of a quality with top-1 on the test set; they differ in their unit, so that the error means nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quality: str
    told: Agreement


def tables(found: Sequence[Chosen], learnt: Sequence[Learnt], ordered: Sequence[Ordered]) -> str:
    """Predictors by their samples; what orders subnets by top-1; and the quality of plans by arm and BitOps."""
    agreed = ["Pearson", "Kendall", "Kendall, best quarter"]
    rows = [[one.kind, str(one.samples), *_coefficients(one.told), f"{one.told.rmse:.2f}"] for one in learnt]
    parts = [
        f"SQNR of logits on held-out images, predicted, on {learnt[0].told.samples} other subnets of all eight forms:",
        markdown_table(["predictor", "samples", *agreed, "RMSE, dB"], rows),
        "Agreement with top-1 on the test set, of the same subnets:",
        markdown_table(["quality", *agreed], [[one.quality, *_coefficients(one.told)] for one in ordered]),
    ]
    budgets = sorted({one.bits for one in found}, reverse=True)
    rows = []
    for arm in ARMS:
        mine = [[one for one in found if one.arm == arm and one.bits == bits] for bits in budgets]
        if all(mine):
            cells = [spread([getattr(o, key) for o in ones], 2) for key in ("test", "sqnr") for ones in mine]
            rows.append([arm, str(mine[0][0].evaluations), *cells])
    names = [f"{what}, {bits} bits" for what in ("test, %", "SQNR, dB") for bits in budgets]
    parts += [
        f"Within the BitOps of a uniform width, form {COMPARED}: top-1 on the test set, and what plans were chosen by:",
        markdown_table(["arm", "evaluations per budget", *names], rows),
    ]
    return "\n\n".join(parts)


def _coefficients(told: Agreement) -> list[str]:
    values = (told.pearson, told.kendall, told.kendall_top_quartile)
    return ["n/a" if value is None else f"{value:.3f}" for value in values]
