"""Packages that are not always installed, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from bitwright.foundation.errors import MissingPackageError


def require(module: str, *, extra: str | None = None) -> ModuleType:
    """Import `module`, or raise MissingPackageError that names the pip command to type."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = f"bitwright[{extra}]" if extra else module.partition(".")[0]
        raise MissingPackageError(
            f"{module} cannot be imported ({error}); install it with: pip install '{package}'"
        ) from error
