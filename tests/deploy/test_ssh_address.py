"""Addresses of machines: what is read, and what is refused before it reaches ssh."""

from __future__ import annotations

import pytest

from bitwright.foundation.errors import UsageError
from deploy.remote import SshAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://pi@board", SshAddress("board", "pi")),
        ("ssh://board.local:2222/", SshAddress("board.local", None, 2222)),
        ("ssh://me@[::1]:22", SshAddress("::1", "me", 22)),
    ],
)
def test_addresses_are_read(text: str, address: SshAddress) -> None:
    assert SshAddress.parse(text) == address
    assert SshAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "board", "http://board", "ssh://", "ssh://-oProxyCommand=x", "ssh://-l@board", "ssh://a b", "ssh://board:0",
        "ssh://board:99999", "ssh://board/path", "ssh://u;x@board", "ssh://board\n", "ssh://bo\tard", "ssh://board?x",
        "ssh://$(x)", "adb:SERIAL",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no address; give ssh://user@host"):
        SshAddress.parse(text)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="an address holds no password") as caught:
        SshAddress.parse("ssh://me:secret@board")
    assert "secret" not in str(caught.value)
