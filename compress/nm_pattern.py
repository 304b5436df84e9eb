"""Sparsity: an N:M pattern, at most N weights other than zero in each group of M along the input channels."""

from __future__ import annotations

import re
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bitwright.foundation.errors import UsageError


class Sparsity(BaseModel):
    """N of every M weights are kept, along input channels. N = M is the dense layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(ge=1)
    m: int = Field(ge=2)

    @model_validator(mode="after")
    def _keeps_at_most_all(self) -> Self:
        if self.n > self.m:
            raise ValueError(f"{self.n}:{self.m} keeps more than there is; N is at most M")
        return self

    @property
    def density(self) -> float:
        """Share of weights that is kept, N / M."""
        return self.n / self.m

    @property
    def dense(self) -> bool:
        """Whether nothing is pruned."""
        return self.n == self.m

    def halved(self) -> Sparsity | None:
        """The pattern over groups half as long: M / 2, and N / 2 but at least 1; None where M is odd or would be 1."""
        if self.m % 2 or self.m < 4:
            return None
        return Sparsity(n=max(1, self.n // 2), m=self.m // 2)

    def fits_two_of_four(self) -> bool:
        """Whether every mask of this pattern is also a legal 2:4 mask, which is what sparse tensor cores read.

        True of 1:2 (two groups to each four) and of N <= 2 in groups that fours divide.
        """
        return (self.n, self.m) == (1, 2) or (self.n <= 2 and self.m % 4 == 0)

    @staticmethod
    def parse(text: str) -> Sparsity:
        """The pattern of a text such as 2:4; UsageError for anything else."""
        found = re.fullmatch(r"(\d{1,6}):(\d{1,6})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]) or int(found[2]) < 2:
            raise UsageError(f"{text!r} is not an N:M pattern; expected N kept of every M, such as 2:4 or 1:8")
        return Sparsity(n=int(found[1]), m=int(found[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"
