"""What a job reads, as hashes: two jobs are the same only if their files are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bitwright.foundation import progress
from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import sha256_file
from bitwright.runs.request import CompressRequest


class InputHashes(BaseModel):
    """SHA-256 of the files behind a request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    device: str = Field(description="hash of the device profile, its parents merged in")
    data: str = Field(description="hash of the names and contents of all files below the folder")
    eval_data: str | None = None

    @classmethod
    def of(cls, request: CompressRequest) -> InputHashes:
        """Read and hash everything that `request` names; UsageError for what cannot be read."""
        from hw_profiles import load_profile

        request.check_inputs()
        data = folder_hash(request.data)
        try:
            checkpoint = sha256_file(request.checkpoint)
        except OSError as error:
            raise UsageError(f"cannot read {request.checkpoint}: {error.strerror}") from error
        same = request.eval_data is not None and request.eval_data.resolve() == request.data.resolve()
        evaluation = None if request.eval_data is None else data if same else folder_hash(request.eval_data)
        return cls(checkpoint=checkpoint, device=load_profile(request.device).hash(), data=data, eval_data=evaluation)


def folder_hash(folder: Path) -> str:
    """Hex SHA-256 over the relative names and contents of the files below `folder`, hidden ones left out."""
    digest = hashlib.sha256()
    for path in progress.track(sorted(_files(folder)), f"hashing {folder}"):
        try:
            content = sha256_file(path)
        except OSError as error:
            # A file that cannot be read is skipped with its name when the samples are decoded.
            content = f"unreadable: {error.errno}"
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))
