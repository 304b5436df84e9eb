"""The bundle as the runner sees it: an archive whose every file is checked before any is used."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from bitwright.foundation.errors import UsageError
from bitwright.foundation.files import write_bytes

MANIFEST = "manifest.json"
_AGAIN = "make the bundle anew, or copy it again"


class Archive:
    """A bundle that has been checked: each file is the one that its manifest names, and there is no other."""

    def __init__(self, path: Path) -> None:
        """Check the bundle at `path`; UsageError names the first file that is missing, unknown or not as bundled."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                content = _read(archive, path, MANIFEST)
                self.manifest: dict[str, Any] = json.loads(content)
                hashes: dict[str, str] = self.manifest["files"]
                for name in sorted(set(names) ^ {MANIFEST, *hashes}):
                    what = "is not in its manifest" if name in names else "is missing"
                    raise UsageError(f"{path}: {name} {what}; {_AGAIN}")
                for name, digest in hashes.items():
                    if names.count(name) != 1 or hashlib.sha256(_read(archive, path, name)).hexdigest() != digest:
                        raise UsageError(f"{path}: {name} is not the file that was bundled; {_AGAIN}")
        except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is not a whole bundle ({error}); {_AGAIN}") from error
        self.digest = hashlib.sha256(content).hexdigest()
        """SHA-256 of the manifest, which names the bundle."""

    def unpack(self, name: str, folder: Path) -> Path:
        """Write one file of the bundle into `folder`; returns its path there."""
        target = folder / name.replace("/", "-")
        with zipfile.ZipFile(self.path) as archive:
            write_bytes(target, _read(archive, self.path, name))
        return target


def _read(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    try:
        return archive.read(name)
    except (KeyError, zipfile.BadZipFile, zlib.error, OSError, ValueError) as error:
        what = "is missing" if isinstance(error, KeyError) else "is not the file that was bundled"
        raise UsageError(f"{path}: {name} {what}; {_AGAIN}") from error
