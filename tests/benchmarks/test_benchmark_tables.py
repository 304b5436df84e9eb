"""Tables, JSON and the keeping of arms, on engines that are built and timed for real but are tiny."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.arms import Arm, ArmRecord, Network, Prepared, Score, claim, count_layers, finished, slug
from benchmarks.common import markdown_table, speedup_text, without_paths, write_results
from benchmarks.ir_engine import LOADER, load_ir, save_ir
from benchmarks.main_job_arms import BASELINE, Settings, arms_of, compress_command
from benchmarks.session import Timing, timed
from benchmarks.tables import rows_of, table_of
from bitwright.foundation.errors import UsageError
from deploy.engine import FloatPrecision, Runtime
from deploy.engines.runtime_packages import import_runtime
from deploy.latency import Speedup, Verdict
from workloads.loading import load_checkpoint


def test_columns_of_a_table_line_up_as_text() -> None:
    lines = markdown_table(["arm", "ms"], [["a long name", "1.0"], ["b", "123.4"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "|:------------|------:|"
    assert lines[3] == "| b           | 123.4 |"


def test_a_speedup_without_an_interval_says_so() -> None:
    some = Speedup(ratio=3.125, low=3.0, high=3.25, verdict=Verdict.FASTER, blocks=10)
    assert speedup_text(some) == "3.12 [3.00, 3.25]"
    assert speedup_text(some.model_copy(update={"low": None})) == "3.12 (no interval)"


def test_results_name_no_path_of_this_machine(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    results = {"command": ["run", str(data / "sr"), f"{data}base"], str(out): [{"folder": str(out)}], "n": 1}
    write_results(out, "some", results, "| a |", {data: "DATA", out: "OUT"})
    read = json.loads((out / "results.json").read_text())
    assert [read.pop(key) for key in ("schema", "benchmark")] == [1, "some"]
    assert set(read.pop("versions")) >= {"torch", "onnx"}
    assert read.pop("created") <= datetime.now(UTC).isoformat()
    # A name that only begins alike is another path; a key is never touched.
    assert read == {"command": ["run", "DATA/sr", f"{data}base"], str(out): [{"folder": "OUT"}], "n": 1}
    assert (out / "table.md").read_text() == "| a |\n"
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "table.md"]


def test_the_longest_path_is_replaced_first() -> None:
    names = {Path("/a"): "A", Path("/a/b"): "B"}
    assert without_paths(["/a/b/c", "/a/c"], names) == ["B/c", "A/c"]


def test_a_name_becomes_a_folder() -> None:
    assert slug("nncf default, rest bf16") == "nncf-default-rest-bf16"
    assert slug("bitwright 0.15 dB") == "bitwright-0.15-db"


@pytest.fixture(scope="module")
def network(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Network:
    checkpoint = data / "checkpoints" / "imdn_rtc_x2.pth"
    work = tmp_path_factory.mktemp("benchmark")
    folders = data / "sr" / "train", data / "sr" / "test"
    return Network("imdn_rtc_x2", checkpoint, load_checkpoint(checkpoint), *folders, work, images=1)


@pytest.fixture(scope="module")
def settings(network: Network) -> Settings:
    return Settings(
        device="x86-avx512-vnni-bf16",
        drops=(0.15, 0.05),
        crops=4,
        crop_side=32,
        seed=0,
        accuracy_control=False,
        accuracy_drop=0.1,
        options=("iterations=5",),
        input_shape=(1, 3, 32, 32),
        images=1,
    )


def test_arms_are_the_peers_and_one_for_each_drop(network: Network, settings: Settings) -> None:
    names = [arm.name for arm in arms_of(network, settings)]
    assert names[0] == BASELINE
    assert names[-2:] == ["bitwright 0.15 dB", "bitwright 0.05 dB"]
    assert len(names) == 8
    assert len({slug(name) for name in names}) == 8


def test_the_command_is_one_that_bitwright_takes(network: Network, settings: Settings, tmp_path: Path) -> None:
    words = compress_command(network, settings, 0.15, tmp_path / "run")
    assert words[words.index("--max-drop") + 1] == "0.15"
    assert words[words.index("--calibration-size") + 1] == "32"
    assert words[words.index("--input-size") + 1] == "32x32"
    assert words[words.index("--set") + 1] == "iterations=5"


def test_float_arms_are_made_once_timed_side_by_side_and_tabled(network: Network, settings: Settings) -> None:
    timing = Timing(seconds=0.05, side=32)
    arms = arms_of(network, settings)[:2]
    claim(network, settings.decisive())
    records = [finished(network, arm) for arm in arms]

    def never(folder: Path) -> Prepared:
        raise AssertionError(f"{folder} was made before")

    assert [finished(network, Arm(arm.name, never)) for arm in arms] == records
    assert all(record.int8_layers == 0 and record.layers == 28 for record in records)
    times = timed(network, records, timing)
    assert timed(network, records, timing) == times
    assert {m.spec.input_shape for m in times.measurements} == {None, (1, 3, 32, 32)}
    rows = rows_of(records, times, BASELINE)
    assert rows[0]["drop_db"] == {"Set5": 0.0, "Set14": 0.0}
    assert rows[0]["speedup"]["ratio"] == 1.0
    # bf16 changes the output, but by little.
    assert 0 < abs(rows[1]["drop_db"]["Set14"]) < 0.05
    table = table_of(records, times, BASELINE).splitlines()
    assert [line.split("|")[2].strip() for line in table[2:]] == ["0/28", "0/28"]
    assert "preparation" in table[0]
    assert "preparation" not in table_of(records, times, BASELINE, preparation=False)


def test_arms_of_another_job_are_not_mixed_in(network: Network, settings: Settings) -> None:
    claim(network, settings.decisive())
    with pytest.raises(UsageError, match=r"\(crops differ\)"):
        claim(network, {**settings.decisive(), "crops": 5})


def test_a_record_with_a_number_that_is_none_is_refused() -> None:
    record = {"arm": "a", "engine": "a", "loader": LOADER, "int8_layers": 0, "layers": 1}
    quality = {"Set5": Score(mean=1.0, per_image={})}
    with pytest.raises(ValueError, match="finite"):
        ArmRecord.model_validate({**record, "preparation_s": float("nan"), "quality": quality})


def test_an_ir_engine_counts_its_integer_layers_and_checks_its_file(tmp_path: Path) -> None:
    import numpy as np

    openvino = import_runtime(Runtime.OPENVINO)
    assert "openvino_telemetry" not in sys.modules
    ops = openvino.opset13
    x = ops.parameter([-1, 3, -1, -1], np.float32)
    levels = [ops.constant(np.float32(value)) for value in (0.0, 1.0, 0.0, 1.0)]
    weight = ops.constant(np.linspace(-1, 1, 16 * 3 * 9, dtype=np.float32).reshape(16, 3, 3, 3))
    ends = [ops.constant(np.float32(value)) for value in (-1.0, 1.0, -1.0, 1.0)]
    inner = ops.convolution(
        ops.fake_quantize(x, *levels, 256), ops.fake_quantize(weight, *ends, 255), [1, 1], [1, 1], [1, 1], [1, 1]
    )
    outer = ops.convolution(
        ops.relu(inner),
        ops.constant(np.full((4, 16, 1, 1), 0.5, np.float32)),
        [1, 1], [0, 0], [0, 0], [1, 1],
    )  # fmt: skip
    shape = (1, 3, 24, 24)
    save_ir(openvino.Model([outer], [x]), tmp_path, precision=FloatPrecision.FP32, input_shape=shape, profile="any")
    engine = load_ir(tmp_path, 1)
    assert count_layers(engine) == (1, 2)
    assert engine.run(np.ones((2, 3, 9, 7), np.float32)).shape == (2, 4, 9, 7)
    with (tmp_path / "model.bin").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UsageError, match="another file"):
        load_ir(tmp_path, 1)
