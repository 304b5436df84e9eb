"""The pictures of an upscaling job: what is read, where each result goes, and what an earlier call has done already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bitwright.foundation.errors import OutputError, UsageError
from bitwright.foundation.files import explain_os_error, sha256_file
from bitwright.foundation.progress import note
from bitwright.runs.journal import Journal
from bitwright.runs.lock import FolderLock
from workloads.super_resolution.images import SUFFIXES, ImageFile, Skipped, UnreadableImageError, list_images
from workloads.super_resolution.picture import PictureHeader, read_header

SUFFIX = ".png"
JOURNAL = "upscale.jsonl"
LOCK = ".upscale.lock"


@dataclass(frozen=True)
class Item:
    """A picture and its result. `name` and `target` are relative to the folders that are read and written."""

    path: Path
    name: str
    target: str
    header: PictureHeader


@dataclass(frozen=True)
class Inputs:
    """All pictures of a job, in natural order; `folder` is where results go.

    `many`: whether a folder is read; `resumable`: whether results go to a folder, which keeps a journal of them.
    """

    folder: Path
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...]
    many: bool
    resumable: bool


def find_inputs(source: Path, out: Path, min_side: int) -> Inputs:
    """The pictures of a file or folder and their targets.

    Pictures that cannot be opened, or with a side under `min_side`, are skipped by name. Results have the names of
    their sources with `.png`; sources that differ by their ending only keep it: a.jpg.png. UsageError: `source` is
    not there; `out` is the folder that is read, or the file of a picture where a folder is read.
    """
    many = source.is_dir()
    if not many and not source.is_file():
        raise UsageError(f"{source} does not exist; give a picture or a folder of pictures")
    as_file = out.suffix.lower() in SUFFIXES and not out.is_dir()
    if as_file and (many or out.suffix.lower() != SUFFIX):
        what = "pictures of a folder need a folder" if many else "results are PNG files"
        raise UsageError(f"--out {out}: {what}; give {'a folder' if many else out.with_suffix(SUFFIX).name}")
    if not as_file and out.is_file():
        raise OutputError(f"{out} is a file; choose another --out")
    if many and out.resolve() == source.resolve():
        raise UsageError(f"--out {out} is the folder that is read; choose another")
    if as_file:
        found, targets = [ImageFile(source, source.name)], [out.name]
    else:
        # Results may lie in a folder of the one that is read, where a second call meets them.
        results = out.resolve()
        found = (
            [file for file in list_images(source) if not file.path.resolve().is_relative_to(results)]
            if many
            else [ImageFile(source, source.name)]
        )
        targets = _targets([file.name for file in found])
    folder = out.parent if as_file else out
    items: list[Item] = []
    skipped: list[Skipped] = []
    for file, target in zip(found, targets, strict=True):
        if (folder / target).resolve() == file.path.resolve():
            raise UsageError(f"--out {out} would replace {file.path}, which is read; choose another")
        if not _is_text(file.name):
            skipped.append(Skipped(file.name.encode("utf-8", "replace").decode(), "its name is not UTF-8; rename it"))
            continue
        try:
            header = read_header(file.path)
        except UnreadableImageError as error:
            skipped.append(Skipped(file.name, error.reason))
            continue
        if min(header.height, header.width) < min_side:
            sides = f"{header.width}x{header.height}"
            skipped.append(Skipped(file.name, f"it has {sides} pixels and the network needs {min_side} a side"))
            continue
        items.append(Item(file.path, file.name, target, header))
    return Inputs(folder, tuple(items), tuple(skipped), many, not as_file)


def _is_text(name: str) -> bool:
    """Whether a file name can be written to the journal."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _targets(names: Sequence[str]) -> list[str]:
    """The name of each result; names are compared without case, as some file systems do."""
    plain = [str(PurePosixPath(name).with_suffix(SUFFIX)) for name in names]
    times = Counter(name.casefold() for name in plain)
    return [
        short if times[short.casefold()] == 1 else f"{name}{SUFFIX}" for name, short in zip(names, plain, strict=True)
    ]


class Done:
    """The results that are there already, by the journal of the folder that is written.

    `settings`: what results depend on beside their pictures and, where tiles show, their side; null where not.
    """

    def __init__(self, folder: Path, settings: dict[str, str | int | None]) -> None:
        self._journal = Journal(folder, JOURNAL, independent=True)
        self._journal.read()
        self._folder = folder
        self._settings = settings

    def tile_before(self, items: Sequence[Item]) -> int | None:
        """The tile of the first of the items that these settings have made; None where there is none."""
        made = (self._made(item) for item in items)
        return next((values["tile"] for values in made if values is not None), None)

    def pending(self, items: Sequence[Item], tile: int | None, overwrite: bool) -> list[Item]:
        """The items that are still to be made; with `overwrite` also those whose target something else has made.

        OutputError for such a target without it.
        """
        left = []
        for item in items:
            made = self._made(item)
            if made is not None and made["tile"] == tile:
                continue
            if (self._folder / item.target).exists() and not overwrite:
                raise OutputError(
                    f"{self._folder / item.target} is there and is not what this engine makes of {item.path}; "
                    "choose another --out, or --overwrite to replace it"
                )
            left.append(item)
        return left

    def add(self, item: Item, source_sha256: str, tile: int | None, seconds: float) -> None:
        """Record a result that has been written."""
        files = {item.target: sha256_file(self._folder / item.target)}
        values = {"source_sha256": source_sha256, **self._settings, "tile": tile}
        self._journal.append(item.name, files, values, seconds)

    def _made(self, item: Item) -> dict[str, Any] | None:
        """What is recorded of a result that is whole and made with these settings; None for any other."""
        entry = self._journal.entry(item.name)
        if entry is None or set(entry.files) != {item.target} or self._journal.damaged_file(item.name):
            return None
        wanted = {"source_sha256": sha256_file(item.path), **self._settings, "tile": entry.values.get("tile")}
        return dict(entry.values) if entry.values == wanted else None


@contextmanager
def output_folder(inputs: Inputs) -> Iterator[Path]:
    """The folder of results, made if need be, without what a killed call left, and locked against another call."""
    folder = inputs.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    lock = FolderLock(folder, LOCK) if inputs.resumable else None
    if lock is not None:
        lock.acquire()
    try:
        for item in inputs.items:
            target = folder / item.target
            for leftover in target.parent.glob(f".{_literal(target.name)}.*.part"):
                note(f"removed {leftover.name}, which a call that was killed had left")
                leftover.unlink(missing_ok=True)
        yield folder
    finally:
        if lock is not None:
            lock.release()


def _literal(name: str) -> str:
    """A file name as a pattern that matches nothing else."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
