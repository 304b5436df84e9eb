"""Package: what an AOTInductor package says of itself, read without loading any of its code."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bitwright.foundation.errors import UsageError

DESCRIPTION = "bitwright"
"""Key of our description in the metadata of a package."""

MODEL = "model"
"""Name of the network in a package."""


class Description(BaseModel):
    """What is known when a package is compiled. `layers`: names of the exported nodes, in the order of `layer{i}_`.

    `shape`: of the input, [N, C, H, W], null where a size may vary; `smallest`: least height and width. `device`: cpu
    or cuda; which GPU it was compiled for stands in the stamp of the engine.
    """

    # Packages of earlier versions tell of their GPU here as well.
    model_config = ConfigDict(frozen=True, extra="ignore")

    layers: tuple[str, ...]
    shape: tuple[int | None, int, int | None, int | None]
    smallest: tuple[int, int]
    device: str
    capabilities: tuple[str, ...]

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an input of this shape can be run; the code itself checks nothing."""
        if (
            len(shape) != 4
            or shape[0] < 1
            or any(size < least for size, least in zip(shape[2:], self.smallest, strict=True))
        ):
            return False
        return all(wanted in {None, size} for wanted, size in zip(self.shape, shape, strict=True))

    @property
    def words(self) -> str:
        """What the network takes, in words."""
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"float32 [{sizes}] of {self.smallest[0]} x {self.smallest[1]} pixels at least"


@dataclass(frozen=True)
class Package:
    """Our description, and the C++ source of the function that calls the kernels."""

    described: Description
    source: str

    @staticmethod
    def read(path: Path) -> Package:
        """UsageError where the file is no package that was compiled here."""
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                sources = [name for name in names if name.endswith(".wrapper.cpp")]
                notes = [name for name in names if name.endswith("wrapper_metadata.json")]
                if len(sources) != 1 or len(notes) != 1:
                    raise UsageError(f"{path} is not a package of one network; rebuild the engine")
                source = archive.read(sources[0]).decode()
                described = Description.model_validate_json(json.loads(archive.read(notes[0]))[DESCRIPTION])
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, ValidationError) as error:
            first = str(error).partition("\n")[0]
            raise UsageError(f"{path} is not a package that bitwright made ({first}); rebuild the engine") from error
        return Package(described, source)

    def why_not_here(self) -> str | None:
        """Why its code cannot run on this machine's processor, in words; None where it can."""
        lacking = sorted(set(self.described.capabilities) - set(capabilities()))
        if lacking:
            return f"it was compiled for a processor with {', '.join(lacking)}, which this one lacks; build it here"
        return None


def capabilities() -> tuple[str, ...]:
    """The kind of this machine's processor and the instructions that it has, in torch's words.

    Code is compiled for all of them, so a processor that lacks one may not run it.
    """
    import torch

    found = torch.cpu.get_capabilities()
    return (str(found.get("architecture", "")), *sorted(name for name, value in found.items() if value is True))
