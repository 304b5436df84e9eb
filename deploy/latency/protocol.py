"""Messages between the latency harness and an engine's worker process: one JSON object a line, each way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from deploy.engine import CallTimes, EngineSpec
from deploy.latency.policies import WarmUp
from deploy.latency.timing import Stages

DEFAULT_LOADER = "deploy.engines:load_engine"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoadCommand(_Message):
    """Import the loader, load the engine of `folder`, read the input (.npy, float32 NCHW)."""

    command: Literal["load"] = "load"
    loader: str = DEFAULT_LOADER
    folder: Path
    input_file: Path
    threads: int = Field(ge=1)
    cuda_graph: bool = Field(default=False, description="see `Engine.use_cuda_graph`")


class RunCommand(_Message):
    """Run `settle` times unrecorded (another engine has just used the caches), then `count` times recorded."""

    command: Literal["run"] = "run"
    count: int = Field(ge=1)
    settle: int = Field(default=0, ge=0)


class WarmUpCommand(_Message):
    """Run until steady under `policy`."""

    command: Literal["warm_up"] = "warm_up"
    policy: WarmUp


class ProfileCommand(_Message):
    """Load the network anew with the runtime's profiler on and time each call; see `Engine.time_calls`."""

    command: Literal["profile"] = "profile"
    warm_up: int = Field(ge=0)
    runs: int = Field(ge=1)
    blocks: int = Field(ge=1)


class InfoCommand(_Message):
    """Ask for the facts about the loaded engine and its process."""

    command: Literal["info"] = "info"


class ExitCommand(_Message):
    """End the process."""

    command: Literal["exit"] = "exit"


class LoadReply(_Message):
    """Times of a load: `import_ms` of the loader's module, `load_ms` of the loader (with imports it makes itself)."""

    reply: Literal["load"] = "load"
    import_ms: float
    load_ms: float
    rss_before_bytes: int | None


class RunReply(_Message):
    """Nanoseconds of each recorded run: wall clock, and CPU time of the whole worker process.

    `gpu_ms`: of an engine on a GPU the stages of each run, ms; see `Engine.gpu_stages_ms`.
    """

    reply: Literal["run"] = "run"
    wall_ns: tuple[int, ...]
    cpu_ns: tuple[int, ...]
    gpu_ms: tuple[Stages, ...] = ()


class WarmUpReply(_Message):
    """Wall nanoseconds of each warm-up run, and whether the last of them were steady."""

    reply: Literal["warm_up"] = "warm_up"
    wall_ns: tuple[int, ...]
    steady: bool


class ProfileReply(_Message):
    """Times of each call."""

    reply: Literal["profile"] = "profile"
    times: CallTimes


class InfoReply(_Message):
    """Facts about the engine and its process; `peak_rss_bytes` is None where the system does not tell."""

    reply: Literal["info"] = "info"
    spec: EngineSpec
    output_shape: tuple[int, ...]
    peak_rss_bytes: int | None
    affinity: tuple[int, ...] | None
    python_threads: int


class ExitReply(_Message):
    """The last line of a worker that ends as asked."""

    reply: Literal["exit"] = "exit"


class FailureReply(_Message):
    """A command that failed with an error of bitwright's own; `exit_code` tells which kind."""

    reply: Literal["failure"] = "failure"
    message: str
    exit_code: int


Command = Annotated[
    LoadCommand | RunCommand | WarmUpCommand | ProfileCommand | InfoCommand | ExitCommand,
    Field(discriminator="command"),
]
Reply = Annotated[
    LoadReply | RunReply | WarmUpReply | ProfileReply | InfoReply | ExitReply | FailureReply,
    Field(discriminator="reply"),
]

COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)
REPLIES: TypeAdapter[Reply] = TypeAdapter(Reply)
