"""An interrupt that falls where Python drops it still ends what runs."""

from __future__ import annotations

import sys
import time

import pytest

from bitwright.cli import interrupts


class Closing:
    """Something that is interrupted while it is finalised."""

    def __del__(self) -> None:
        raise KeyboardInterrupt


def drop_one() -> None:
    with interrupts.kept():
        closing = Closing()
        del closing
        time.sleep(10)


def test_an_interrupt_within_a_finaliser_comes_again() -> None:
    before = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt):
        drop_one()
    assert sys.unraisablehook is before


def test_other_errors_are_told_as_ever(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: seen.append(dropped.exc_type))
    monkeypatch.setattr(Closing, "__del__", lambda self: 1 / 0)
    with interrupts.kept():
        closing = Closing()
        del closing
    assert seen == [ZeroDivisionError]
