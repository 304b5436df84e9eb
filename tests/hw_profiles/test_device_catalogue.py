"""The contract that every file of the catalogue keeps."""

from __future__ import annotations

import re

import pytest
import yaml

from hw_profiles import DeviceProfile, load_profile, profile_ids
from hw_profiles.loading import CATALOGUE
from hw_profiles.provenance import numbers_that_need_a_source
from hw_profiles.terms import DeviceKind, Op, Status

REQUIRED = {
    "x86-avx2",
    "x86-avx512-vnni",
    "x86-avx512-vnni-bf16",
    "x86-amx",
    "arm-dotprod",
    "arm-i8mm",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "jetson-orin-nano-8gb",
    "jetson-agx-orin-64gb",
    "rtx-2080-ti",
    "rtx-3060",
    "rtx-4090",
    "rtx-5090",
    "a100-sxm-80gb",
    "h100-sxm",
    "hexagon-htp-v73",
    "ethos-u55-256",
    "coral-edge-tpu",
    "fpga-dataflow",
}


@pytest.fixture(params=profile_ids())
def profile(request: pytest.FixtureRequest) -> DeviceProfile:
    return load_profile(str(request.param))


def test_catalogue_holds_the_required_devices() -> None:
    assert set(profile_ids()) >= REQUIRED


def test_id_is_the_file_name_and_text_is_one_line(profile: DeviceProfile) -> None:
    assert (CATALOGUE / f"{profile.id}.yaml").is_file()
    assert profile.name
    assert "\n" not in profile.name + profile.notes.rstrip("\n")


def test_every_number_and_every_rule_has_a_source_that_says_something(profile: DeviceProfile) -> None:
    data = profile.model_dump(mode="json", by_alias=True)
    for path in numbers_that_need_a_source(data):
        entry = profile.source_of(path)
        assert entry is not None, path
        assert len(entry.source) > 8, path
        if entry.status is Status.DERIVED:
            assert re.search(r"\d", entry.source), f"{path}: derived, but the source shows no arithmetic"
    assert all(profile.source_of(f"precisions.{rule.id}") for rule in profile.precisions if rule.id == "w8a8")


def test_null_is_written_null_and_nothing_is_zero(profile: DeviceProfile) -> None:
    data = profile.model_dump(mode="json", by_alias=True)
    assert all(_at(data, path) > 0 for path in numbers_that_need_a_source(data) if not path.startswith("cost"))


def test_convolutions_have_native_int8_with_symmetric_channel_weights(profile: DeviceProfile) -> None:
    rule = profile.resolve(Op.CONV, 8, 8)
    assert rule is not None
    assert (rule.id, rule.executes_as, rule.native) == ("w8a8", "int8", True)
    assert rule.weight is not None
    assert rule.act is not None
    assert (rule.weight.dtype, rule.weight.granularity, rule.weight.symmetric) == ("int8", "channel", True)
    assert (rule.act.granularity, rule.act.dtype.bits) == ("tensor", 8)
    assert rule.act.symmetric is (profile.kind in {DeviceKind.GPU, DeviceKind.FPGA})


def test_every_emulated_rule_executes_wider_than_it_says_or_in_float(profile: DeviceProfile) -> None:
    for rule in profile.precisions:
        if not rule.native:
            assert rule.executes_as.bits >= max(rule.weight_bits, rule.act_bits)
            assert rule.weight_bits * rule.act_bits < rule.executes_as.bits**2


def test_profile_survives_yaml_round_trip_with_the_same_hash(profile: DeviceProfile) -> None:
    text = yaml.safe_dump(profile.model_dump(mode="json", by_alias=True))
    assert DeviceProfile.model_validate(yaml.safe_load(text)).hash() == profile.hash()


def test_hashes_differ_between_devices() -> None:
    assert len({load_profile(name).hash() for name in profile_ids()}) == len(profile_ids())


def _at(data: dict[str, object], path: str) -> float:
    from hw_profiles.provenance import children

    value: object = data
    for name in path.split("."):
        value = dict(children(value))[name]
    assert isinstance(value, int | float)
    return value
