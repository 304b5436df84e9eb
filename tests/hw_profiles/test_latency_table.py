from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import reporting_to
from hw_profiles.kernel import Kernel, TensorType
from hw_profiles.latency_table import LatencyRow, LatencyTable, NetworkRow, Quantiles, append, to_line
from tests.listener import Listener


def kernel(channels: int = 16, *, layers: tuple[str, ...] = (), implementation: str = "") -> Kernel:
    tensor = TensorType(shape=(1, channels, 8, 8), dtype="int8", layout="acdb")
    return Kernel(
        op="Convolution",
        precision="int8",
        inputs=(tensor,),
        outputs=(tensor.model_copy(update={"dtype": "bf16"}),),
        window=(3, 3),
        stride=(1, 1),
        groups=1,
        macs=channels * channels * 9 * 64,
        weight_elements=channels * channels * 9,
        fused=("Relu",),
        layers=layers,
        implementation=implementation,
    )


def row(ms: float, *, channels: int = 16, source: str = "a", fingerprint: str = "here") -> LatencyRow:
    return LatencyRow(
        profile="cpu",
        runtime="openvino",
        runtime_version="1",
        threads=1,
        kernel=kernel(channels),
        ms=Quantiles(p10=ms, p50=ms, p90=ms, mean=ms),
        n=10,
        source=source,
        fingerprint=fingerprint,
        created="2026-01-01T00:00:00+00:00",
    )


def network(ms: float, *, plan: str = "int8", fingerprint: str = "here") -> NetworkRow:
    data = row(ms, fingerprint=fingerprint).model_dump(exclude={"kernel", "kind"})
    shape = (1, 3, 8, 8)
    return NetworkRow(
        **data, network="net", plan=plan, input_shape=shape, kernels=(kernel(), kernel()), kernel_ms=(0.2, 0.3)
    )


def test_key_is_of_what_decides_the_time() -> None:
    assert kernel(layers=("a",), implementation="x").key == kernel(layers=("b",), implementation="y").key
    assert kernel(16).key != kernel(24).key
    assert kernel(16).bytes == 1024 + 2048 + 2304


def test_quantiles_interpolate_between_samples() -> None:
    found = Quantiles.of([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (found.p10, found.p50, found.p90, found.mean) == pytest.approx((1.4, 3.0, 4.6, 3.0))


def test_rows_come_back_from_the_file_as_they_were_added(tmp_path: Path) -> None:
    path, table = tmp_path / "sub" / "t.jsonl", LatencyTable()
    for added in (row(1.0), row(2.0, channels=24), network(4.0)):
        table.add(added, path)
    read = LatencyTable.load(path)
    assert read.kernels == table.kernels == (row(1.0), row(2.0, channels=24))
    assert read.networks == (network(4.0),)
    assert read.networks[0].kernels_share == pytest.approx(0.125)


def test_the_row_read_last_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    append(first, row(1.0))
    append(second, row(5.0))
    append(first, network(1.0))
    append(second, network(9.0, plan="fp32"))
    merged = LatencyTable.load(first, second)
    assert [r.ms.p50 for r in merged.kernels] == [5.0]
    assert LatencyTable.load(second).merged(LatencyTable.load(first)).kernels == (row(1.0),)
    assert {r.plan for r in merged.networks} == {"int8", "fp32"}
    merged.write(tmp_path / "3.jsonl")
    assert len(LatencyTable.load(tmp_path / "3.jsonl")) == len(merged) == 3


def test_lookup_takes_the_median_of_the_networks_that_execute_a_kernel() -> None:
    table = LatencyTable([row(9.0, source="a"), row(1.0, source="b"), row(2.0, source="c")])
    found = table.lookup(kernel(layers=("any",)), runtime="openvino")
    assert found is not None
    assert found.ms.p50 == 2.0
    assert table.lookup(kernel(24), runtime="openvino") is None
    assert table.lookup(kernel(), runtime="openvino", threads=2) is None


@pytest.mark.parametrize("cut", [1, 40, -20])
def test_a_torn_last_line_is_left_out_and_the_next_row_is_whole(tmp_path: Path, cut: int) -> None:
    path, listener = tmp_path / "t.jsonl", Listener()
    append(path, row(1.0))
    with path.open("a") as file:
        file.write(to_line(row(2.0, channels=24))[:cut])
    with reporting_to(listener):
        assert LatencyTable.load(path).kernels == (row(1.0),)
    assert len(listener.notes) == 1
    assert "line 2 was cut off" in listener.notes[0]
    append(path, row(3.0, channels=32))
    assert LatencyTable.load(path).kernels == (row(1.0), row(3.0, channels=32))


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    append(path, row(1.0))
    path.write_text(path.read_text() + to_line(row(2.0)).replace('"threads":1', '"threads":0') + "\n")
    with pytest.raises(UsageError, match=r"t\.jsonl line 2 is no row of a latency table: kernel\.threads"):
        LatencyTable.load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        LatencyTable.load(tmp_path / "absent.jsonl")


def test_rows_of_another_environment_are_warned_of() -> None:
    table = LatencyTable([row(1.0), row(2.0, channels=24), network(4.0, fingerprint="there")])
    assert table.foreign_warning("here") == (
        "warning: 1 of 3 rows of the latency table were measured in another environment, cpu (there), than this one "
        "(here); times may be off, measure here with `bitwright profile`"
    )
    assert LatencyTable([row(1.0)]).foreign_warning("here") is None
    assert table.fingerprints == ("here", "there")


def test_a_packed_table_is_read_but_not_added_to(tmp_path: Path) -> None:
    plain, packed = tmp_path / "t.jsonl", tmp_path / "t.jsonl.gz"
    append(plain, row(1.0))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert LatencyTable.load(packed).kernels == (row(1.0),)
    with pytest.raises(UsageError, match="is packed and can only be read"):
        append(packed, row(2.0))
    packed.write_bytes(packed.read_bytes()[:40])
    with pytest.raises(UsageError, match="cannot be read"):
        LatencyTable.load(packed)
