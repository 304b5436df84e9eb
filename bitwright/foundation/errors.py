"""The error tree. Each class carries the process exit code that the command line returns for it."""

from __future__ import annotations


class BitwrightError(Exception):
    """Base of every error that is raised on purpose; its message is one line that says what, where and what to do."""

    exit_code = 1


class UsageError(BitwrightError):
    """The request cannot be carried out as given: bad input, bad option, missing file or package."""

    exit_code = 2


class CheckpointError(UsageError):
    """A checkpoint that cannot be read, is not safe to read, or does not fit the model."""


class DataError(UsageError):
    """A folder of samples that yields nothing usable."""


class ProfileError(UsageError):
    """A device profile that does not exist or does not follow the schema."""


class GraphError(UsageError):
    """A model that cannot be captured as a graph, or a graph transform that does not preserve the function."""


class MissingPackageError(UsageError):
    """An optional package is not installed; the message names the extra that brings it."""


class OutputError(UsageError):
    """The output folder cannot be written: read-only, full, or in use by another job."""


class ConstraintError(BitwrightError):
    """The asked-for quality or latency cannot be reached; the best result so far has been written."""

    exit_code = 3


class VerificationError(BitwrightError):
    """The engine does not do what was planned: numerics beyond tolerance, or a layer in another precision."""

    exit_code = 4


class DeviceError(BitwrightError):
    """A device that should build or run an engine cannot be reached."""

    exit_code = 5
