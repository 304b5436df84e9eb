"""The records of a sample log as they are read at home, where nothing in them is trusted."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from deploy.environment import Environment, Heat
from deploy.latency.energy import Energy

Cores = Annotated[float, Field(ge=0)]
Nanoseconds = Annotated[int, Field(gt=0)]
Milliseconds = Annotated[float, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Head(_Record):
    """The first record: which bundle was measured, and the run that it was made from."""

    record: Literal["head"]
    schema_version: Literal[1]
    bundle: str = Field(pattern="^[0-9a-f]{64}$")
    run: str


class ArmFacts(_Record):
    """An engine that is loaded and warm."""

    import_ms: Milliseconds
    load_ms: Milliseconds
    rss_before_load_bytes: int | None
    first_ns: Nanoseconds
    output_shape: tuple[int, ...]
    warm_ns: tuple[Nanoseconds, ...]
    steady: bool


class Ready(_Record):
    """The begin of a session: the machine, how quiet it was, and every engine."""

    record: Literal["ready"]
    environment: Environment
    foreign_cores: Cores
    waited_seconds: float = Field(ge=0)
    heat: Heat
    arms: dict[str, ArmFacts]


class Block(_Record):
    """One value a run."""

    wall_ns: tuple[Nanoseconds, ...] = Field(min_length=1)
    cpu_ns: tuple[Annotated[int, Field(ge=0)], ...]
    gpu_ms: tuple[tuple[Milliseconds, Milliseconds, Milliseconds], ...] = Field(
        default=(), description="of an engine on a GPU the stages of each run; see `deploy.latency.timing.Stages`"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.wall_ns) != len(self.cpu_ns):
            raise ValueError("wall_ns and cpu_ns differ in length")
        if self.gpu_ms and len(self.wall_ns) != len(self.gpu_ms):
            raise ValueError("wall_ns and gpu_ms differ in length")
        return self


class Round(_Record):
    """One block of each engine in this order; `seconds` and `foreign_cores` count from the session's first round."""

    record: Literal["round"]
    order: tuple[str, ...]
    blocks: dict[str, Block]
    seconds: float = Field(ge=0)
    foreign_cores: Cores


class ArmEnd(_Record):
    """An engine after its last round."""

    peak_rss_bytes: int | None
    affinity: tuple[int, ...] | None
    output_difference: float = Field(ge=0)
    executed: str | None = Field(default=None, description="SHA-256 of the file that tells what was executed, if any")


class End(_Record):
    """The last record; `sha256` is that of all bytes before it."""

    record: Literal["end"]
    heat: Heat
    arms: dict[str, ArmEnd]
    energy: Energy | None = None
    sha256: str


Record = Annotated[Head | Ready | Round | End, Field(discriminator="record")]
RECORDS: TypeAdapter[Record] = TypeAdapter(Record)
