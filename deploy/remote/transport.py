"""Transport: how commands and bytes reach another machine; one file for each kind of connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar


@dataclass(frozen=True)
class Ended:
    """How a command ended there: its exit code and what it printed on stderr."""

    code: int
    errors: str

    @property
    def last_error(self) -> str:
        """The last line of stderr, without control characters."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return printable(lines[-1]) if lines else "it printed nothing"


class Transport(ABC):
    """A connection to one machine, opened anew for each command.

    `default_folder`: where bundles lie there; a relative one is taken from where a login lands, the home folder.
    """

    default_folder: ClassVar[str]

    @property
    @abstractmethod
    def name(self) -> str:
        """What the machine is called in messages."""

    @abstractmethod
    def run(
        self,
        arguments: Sequence[str],
        *,
        source: BinaryIO | None = None,
        sink: Callable[[bytes], None],
        silence_seconds: float,
    ) -> Ended:
        """Run a command there, each argument as it is; what it prints on stdout goes to `sink` as it comes.

        `source`, an unbuffered file at some position, is sent as its stdin. Raises DeviceError where the machine cannot
        be reached, refuses the login, is not the one that is known, or where the connection drops or nothing moves for
        `silence_seconds`.
        """


def printable(text: str) -> str:
    """Text from another machine with its control characters replaced, so that it cannot steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
