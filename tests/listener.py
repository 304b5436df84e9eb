"""What a user is shown while something takes long, kept for a test to look at."""

from __future__ import annotations


class Listener:
    """Hears progress: `notes` in order, and by description the steps of each task."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: dict[str, int] = {}
        self._names: list[str] = []

    def start(self, description: str, total: int | None) -> int:
        self._names.append(description)
        self.steps[description] = 0
        return len(self._names) - 1

    def advance(self, handle: int, steps: int = 1) -> None:
        self.steps[self._names[handle]] += steps

    def stop(self, handle: int) -> None:
        return None

    def note(self, message: str) -> None:
        self.notes.append(message)
