"""A user's own profile file: what is wrong with it is said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitwright.foundation.errors import ProfileError
from hw_profiles import load_profile
from hw_profiles.loading import CATALOGUE
from hw_profiles.terms import DType, Status

GOOD = (CATALOGUE / "rtx-3060.yaml").read_text(encoding="utf-8")


def fault(tmp_path: Path, old: str, new: str) -> str:
    assert old in GOOD
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "dram_gb_s: 360",
            'dram_gb_s: "360 GB/s"',
            "memory.dram_gb_s: '360 GB/s' is not valid; expected a number in GB/s",
        ),
        ("dram_gb_s: 360", "dram_gb_s: 360000000", "memory.dram_gb_s: 360000000 is not valid; expected less than"),
        ("dram_gb_s: 360", "dram_gb_s: 0", "memory.dram_gb_s: 0 is not valid; expected greater than"),
        ("dram_gb_s: 360", "dram_gb_s: .nan", "memory.dram_gb_s: nan is not valid"),
        ("dram_gb_s: 360", "dram_mb_s: 360", "memory.dram_mb_s: unknown field; did you mean dram_gb_s?"),
        ("dram_gb: 12", "dram_gb: true", "memory.dram_gb: True is not valid; expected a number in GB"),
        ("  units:", "  clock_ghz: 1.7\n  units:", "compute.clock_ghz: unknown field; did you mean clock_mhz?"),
        ("  units:", "  clock_mhz: {max: 1.7}\n  units:", "compute.clock_mhz.max: 1.7 is not valid"),
        ("{sm: 28,", "{sm: 28.5,", "compute.units.sm: 28.5 is not valid; expected a whole number"),
        ("kind: gpu", "kind: gpuu", "kind: 'gpuu' is not valid; expected 'cpu', 'gpu', 'npu', 'mcu' or 'fpga'"),
        ("schema: 1", "schema: 2", "schema: 2 is not valid; expected 1"),
        ("fp16: {dense", "fp15: {dense", "compute.peak_tops.fp15: 'fp15' is not valid; expected 'int2'"),
        ("native: true", "native: false", "precisions.0: rule w8a8: native is False, so emulation must be given"),
        ("id: w8a8", "id: w7a8", "precisions.0: rule w7a8 has 8-bit weights"),
        ("[w8a8, w4a16", "[w8a8, w5a16", "runtimes: tensorrt-rtx names w5a16"),
        ("power.default_w", "power.deflt_w", "provenance: power.deflt_w is not a field of this profile"),
        ("power.default_w", "memory.transfer_gb_s", "provenance: power.default_w has no entry"),
        ('">=1.7"', '"newest"', "runtimes.0.version: 'newest' is not valid; expected a version range"),
        ('pattern: "2:4"', "pattern: 24", "sparsity.0.pattern: 24 is not valid; expected text (put it in quotes)"),
        (" with:", " wiht:", "sparsity.0.wiht: unknown field; did you mean with?"),
        ("name: NVIDIA", "nme: NVIDIA", "nme: unknown field; did you mean name?"),
        ("kind: gpu", "", "kind: this field is missing"),
        ("kind: gpu", "kind: gpu: x", "line 4: not valid YAML"),
        ("kind: gpu", "kind: cpu\nkind: gpu", "line 5: not valid YAML: the key 'kind' is given twice, first in line 4"),
        ("dram_gb: 12,", "dram_gb: 12, dram_gb: 24,", "line 19: not valid YAML: the key 'dram_gb' is given twice"),
        ("kind: gpu", "kind: !!python/object/apply:os.getcwd []", "line 4: not valid YAML"),
        (
            "kind: gpu",
            "kind: gpu\nextends: rtx-3O60",
            "extends: no device profile is named 'rtx-3O60'; did you mean rtx-3060",
        ),
    ],
)
def test_fault_is_one_line_with_field_value_and_expectation(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert fault(tmp_path, old, new).startswith(expected)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("x86-avx512vnni", "x86-avx512-vnni"),
        ("rasberry-pi5", "raspberry-pi-5"),
        ("H100", "h100-sxm"),
        ("amx", "x86-amx"),
    ],
)
def test_unknown_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ProfileError, match=f"no device profile is named '{name}'; did you mean .*{near}") as caught:
        load_profile(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"- a\n", "holds a list"),
        (b"", "holds a NoneType"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"[" * 5000, "not valid YAML"),
    ],
)
def test_files_that_are_no_profile(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=expected) as caught:
        load_profile(path)
    assert "\n" not in str(caught.value)


def _positions(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _positions(item, (*path, key))


@pytest.mark.parametrize("name", ["x86-amx", "jetson-orin-nano-8gb"])
@pytest.mark.parametrize(
    "junk", ["null", "[]", "[1, [x]]", "{}", "{1: {2: 3}}", "x", "-1", "true", ".inf", "2026-11-23"]
)
def test_junk_anywhere_is_a_profile_error_or_legal(tmp_path: Path, name: str, junk: str) -> None:
    text = (CATALOGUE / f"{name}.yaml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    refused: list[str] = []
    positions = [position for position in _positions(yaml.safe_load(text)) if position]
    for position in positions[::11]:
        data = yaml.safe_load(text)
        holder = data
        for key in position[:-1]:
            holder = holder[key]
        holder[position[-1]] = yaml.safe_load(junk)
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        try:
            load_profile(path)
        except ProfileError as error:
            refused.append(str(error))
    assert refused
    assert not [message for message in refused if "\n" in message]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"cannot read the device profile .*nope.yaml: No such file"):
        load_profile(tmp_path / "nope.yaml")
    with pytest.raises(ProfileError, match="Is a directory"):
        load_profile(tmp_path)


CHILD = """
extends: raspberry-pi-5
id: my-pi
name: My Pi 5 at 3 GHz
compute:
  clock_mhz: {max: 3000}
  peak_gops_per_core: {int8: 192}
provenance:
  compute.clock_mhz: {source: config.txt, status: measured}
  compute.peak_gops_per_core: {source: "64 x 3.0 GHz = 192", status: derived}
"""


def test_child_replaces_numbers_with_their_sources_and_inherits_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "my-pi.yaml"
    path.write_text(CHILD, encoding="utf-8")
    child, parent = load_profile(str(path)), load_profile("raspberry-pi-5")
    assert child.compute.peak_gops_per_core[DType.INT8] == 192
    assert child.memory == parent.memory
    assert child.precisions == parent.precisions
    # The parent's own entry is more specific than the child's, and must not outlive the number it spoke of.
    source = child.source_of("compute.peak_gops_per_core.int8")
    assert source is not None
    assert source.status is Status.DERIVED
    assert child.hash() != parent.hash()


def test_source_of_a_number_that_a_child_clears_is_not_inherited() -> None:
    child, parent = load_profile("x86-amx"), load_profile("x86-avx512-vnni-bf16")
    path = "compute.peak_gops_per_core.int8"
    assert child.compute.peak_gops_per_core[DType.INT8] is None
    assert child.source_of(path) is None
    assert parent.source_of(path) is not None
    assert child.source_of("precisions.w8a8") != parent.source_of("precisions.w8a8")


def test_child_may_not_borrow_the_source_of_a_number_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "my-pi.yaml"
    path.write_text(CHILD.partition("provenance:")[0], encoding="utf-8")
    with pytest.raises(ProfileError, match=r"compute.clock_mhz.max has no entry in this file"):
        load_profile(path)


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(f"extends: {other}.yaml\n", encoding="utf-8")
    with pytest.raises(ProfileError, match="goes round in a circle"):
        load_profile(tmp_path / "a.yaml")


def test_hash_is_stable_under_order_and_changes_with_a_number(tmp_path: Path) -> None:
    swapped = tmp_path / "swapped.yaml"
    swapped.write_text(GOOD.replace("dram_gb: 12, dram_gb_s: 360", "dram_gb_s: 360.0, dram_gb: 12"), encoding="utf-8")
    changed = tmp_path / "changed.yaml"
    changed.write_text(GOOD.replace("dram_gb_s: 360", "dram_gb_s: 361"), encoding="utf-8")
    reference = load_profile("rtx-3060").hash()
    assert load_profile(swapped).hash() == reference
    assert load_profile(changed).hash() != reference
    assert len(reference) == 64
