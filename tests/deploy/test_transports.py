"""What every connection to another machine promises, over each of them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitwright.foundation.errors import DeviceError, UsageError
from deploy.remote import Transport, transport_to
from tests.deploy.adb_machine import adb_device
from tests.deploy.bundle_helpers import Bundle
from tests.deploy.far_machine import HOSTILE, start_server
from tests.deploy.far_runs import far


@pytest.fixture(scope="module", params=["ssh", "adb"])
def transport(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    if request.param == "adb":
        with adb_device() as device:
            yield transport_to(device.address)
    else:
        server = start_server(tmp_path_factory.mktemp("server"))
        yield transport_to(server.address, server.config)
        server.stop()


def test_arguments_arrive_as_they_are_whatever_is_in_them(transport: Transport, tmp_path: Path) -> None:
    words = [HOSTILE, "", "-n", "~", "$HOME", "a\\b", "!x", "{1,2}", "\t", str(tmp_path)]
    received = io.BytesIO()
    code = "import sys, json; sys.stdout.write(json.dumps(sys.argv[1:]))"
    ended = transport.run(
        [sys.executable, "-c", code, *words], sink=lambda b: received.write(b) and None, silence_seconds=60
    )
    assert ended.code == 0
    assert json.loads(received.getvalue()) == words


def test_a_command_that_hangs_is_given_up(transport: Transport) -> None:
    with pytest.raises(DeviceError, match="nothing has moved for 1 s"):
        transport.run([sys.executable, "-c", "import time; time.sleep(20)"], sink=lambda _: None, silence_seconds=1.0)


def test_a_python_that_is_not_there_is_told(transport: Transport, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"/no/such/python cannot be run there .*name its Python with --python"):
        far(transport, bundle, tmp_path, "/no/such/python").measure(tmp_path / "samples")
