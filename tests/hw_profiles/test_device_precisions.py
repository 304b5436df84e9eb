"""Which rule a width resolves to, on real profiles."""

from __future__ import annotations

import pytest

from hw_profiles import load_profile
from hw_profiles.terms import DType, EmulationKind, Granularity, Op

X86 = ["x86-avx2", "x86-avx-vnni", "x86-avx512-vnni", "x86-avx512-vnni-bf16", "x86-amx"]


@pytest.mark.parametrize("name", X86)
def test_x86_activations_are_uint8_asymmetric(name: str) -> None:
    rule = load_profile(name).resolve("conv", 8, 8)
    assert rule is not None
    assert rule.act is not None
    assert (rule.act.dtype, rule.act.symmetric) == (DType.UINT8, False)
    assert rule.reduce_range is (name == "x86-avx2")


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_x86_narrow_weights_run_as_int8_without_gain(name: str, bits: int) -> None:
    profile = load_profile(name)
    rule = profile.resolve("conv", bits, 8)
    assert rule is not None
    assert rule.weight is not None
    assert rule.emulation is not None
    assert (rule.executes_as, rule.native, rule.weight.dtype) == (DType.INT8, False, DType.INT8)
    assert (rule.emulation.kind, rule.emulation.slowdown) == (EmulationKind.CONTAINER, 1.0)
    assert profile.resolve("conv", bits, 8, native_only=True) is None


def test_bf16_is_openvino_only_and_only_where_the_cpu_has_it() -> None:
    profile = load_profile("x86-avx512-vnni-bf16")
    rule = profile.resolve("conv", 16, 16, "openvino")
    assert rule is not None
    assert rule.executes_as is DType.BF16
    assert profile.resolve("conv", 16, 16, "onnxruntime") is None
    assert load_profile("x86-avx512-vnni").resolve("conv", 16, 16) is None
    assert [entry.engine for entry in profile.runtimes] == ["openvino", "onnxruntime", "litert", "torch"]
    assert profile.resolve("conv", 16, 16, "litert") is None


def test_runtime_that_leaves_an_op_in_float_has_no_integer_rule_for_it() -> None:
    profile = load_profile("x86-avx512-vnni-bf16")
    assert profile.resolve("prelu", 8, 8, "onnxruntime") is None
    assert profile.resolve("prelu", 8, 8, "openvino") is not None
    assert [rule.id for rule in profile.native_precisions("prelu", "onnxruntime")] == ["fp32"]
    assert [rule.id for rule in profile.native_precisions("conv", "openvino")] == ["w8a8", "bf16", "fp32"]
    assert profile.rules("tensorrt") == ()


def test_float_rule_covers_operators_that_have_no_name() -> None:
    profile = load_profile("x86-avx2")
    rule = profile.resolve("grid_sample", 32, 32)
    assert rule is not None
    assert rule.id == "fp32"
    assert profile.resolve("grid_sample", 8, 8) is None


def test_legal_bits_offer_native_widths_and_emulated_ones_on_request() -> None:
    profile = load_profile("x86-avx512-vnni-bf16")
    assert profile.legal_bits("conv", "onnxruntime") == ((8, 8), (32, 32))
    assert profile.legal_bits("conv", "openvino") == ((8, 8), (16, 16), (32, 32))
    emulated = profile.legal_bits("conv", "openvino", native_only=False)
    assert set(emulated) >= {(4, 8), (2, 8), (4, 4), (8, 4)}
    assert (4, 4) not in profile.legal_bits("conv", "onnxruntime", native_only=False)


def test_hexagon_takes_wide_activations_and_unsigned_asymmetric_ones() -> None:
    profile = load_profile("hexagon-htp-v73")
    w8a8, w4a16 = profile.resolve("conv", 8, 8), profile.resolve("conv", 4, 16)
    assert w8a8 is not None
    assert w4a16 is not None
    assert w8a8.act is not None
    assert (w8a8.act.dtype, w8a8.act.symmetric) == (DType.UINT8, False)
    assert (w4a16.executes_as, w4a16.native) == (DType.INT16, True)
    assert profile.resolve("conv", 4, 8) is None
    assert profile.resolve("conv", 32, 32) is None


def test_nvidia_four_bit_weights_are_for_linear_layers_only() -> None:
    profile = load_profile("rtx-4090")
    rule = profile.resolve("linear", 4, 16)
    assert rule is not None
    assert rule.weight is not None
    assert (rule.weight.granularity, rule.weight.block) == (Granularity.BLOCK, 128)
    assert profile.resolve("conv", 4, 16) is None
    assert profile.resolve("conv", 4, 4) is None


def test_fp8_comes_with_ada_and_hopper() -> None:
    assert load_profile("h100-sxm").rule("fp8") is not None
    assert load_profile("rtx-4090").rule("fp8") is not None
    assert load_profile("a100-sxm-80gb").rule("fp8") is None


def test_eight_bits_are_integers_and_fp8_is_asked_for_by_name() -> None:
    known = load_profile("rtx-4090")
    fp8 = [rule for rule in known.precisions if rule.id == "fp8"]
    # Whatever comes first in the profile.
    profile = known.model_copy(update={"precisions": (*fp8, *(r for r in known.precisions if r.id != "fp8"))})
    for op in ("conv", "linear", "matmul"):
        integers, floats = profile.resolve(op, 8, 8, native_only=True), profile.fp8_rule(op, "tensorrt-rtx")
        assert integers is not None
        assert floats is not None
        assert (integers.id, floats.id) == ("w8a8", "fp8")
    assert profile.fp8_rule("convtranspose", "tensorrt-rtx") is None
    only = profile.model_copy(update={"precisions": tuple(fp8)})
    assert only.resolve("conv", 8, 8) is None
    assert only.legal_bits("conv") == ()
    assert load_profile("rtx-3060").fp8_rule("conv") is None
    assert not load_profile("rtx-3060").has_fp8


def test_orin_stays_on_tensorrt_10_with_float_bias() -> None:
    entry = load_profile("jetson-orin-nano-8gb").runtime("tensorrt")
    assert entry is not None
    assert entry.accepts("10.3.0")
    assert not entry.accepts("11.4.0")
    assert not entry.accepts("not a version")
    assert entry.bias is DType.FP32


def test_integer_devices_have_no_float() -> None:
    for name in ("coral-edge-tpu", "ethos-u55-256"):
        assert load_profile(name).resolve("conv", 32, 32) is None
        assert load_profile(name).resolve("conv", 16, 16) is None
    assert load_profile("coral-edge-tpu").legal_ops("w8a8")[0] == "conv"
    assert load_profile("coral-edge-tpu").legal_ops("w4a8") == ()


def test_channel_multiples_follow_what_executes() -> None:
    x86, gpu = load_profile("x86-avx512-vnni"), load_profile("rtx-3060")
    assert (x86.channel_multiple("w8a8"), x86.channel_step("w8a8")) == (4, 16)
    assert x86.channel_multiple("w4a8") == 4
    assert x86.channel_multiple("fp32") is None
    assert (gpu.channel_multiple("w8a8"), gpu.channel_multiple("w4a16"), gpu.channel_multiple("fp16")) == (32, 8, 8)
    with pytest.raises(KeyError, match="w3a3 is not a precision of rtx-3060"):
        gpu.channel_multiple("w3a3")


def test_zeros_gain_time_on_nvidia_and_size_only_on_cpus() -> None:
    assert load_profile("a100-sxm-80gb").sparsity[0].native
    assert not load_profile("x86-amx").sparsity[0].native
    assert load_profile("a100-sxm-80gb").sparsity[0].dtypes == (DType.FP16, DType.INT8)


@pytest.mark.parametrize("name", ["a100-sxm-80gb", "h100-sxm", "rtx-3060", "rtx-4090", "rtx-5090"])
def test_torch_on_a_gpu_has_8_bits_for_linear_layers_alone(name: str) -> None:
    profile = load_profile(name)
    has_fp8 = profile.rule("fp8") is not None
    rules = [rule.id for rule in profile.native_precisions("linear", "torch")]
    assert rules == ["w8a8", *(["fp8"] if has_fp8 else []), "fp16", "bf16", "fp32"]
    assert (profile.fp8_rule("linear", "torch") is not None) is has_fp8
    for op in ("conv", "convtranspose", "matmul", "add", "concat"):
        assert [rule.id for rule in profile.native_precisions(op, "torch")] == ["fp16", "bf16", "fp32"]
        assert profile.resolve(op, 8, 8, "torch") is None
        assert profile.fp8_rule(op, "torch") is None
    assert profile.resolve("conv", 8, 8, "tensorrt") is not None


def test_what_a_runtime_leaves_in_float_has_no_fp8_rule_either() -> None:
    ada = load_profile("rtx-4090")
    assert ada.fp8_rule("conv", "tensorrt-rtx") is not None
    runtimes = [
        r.model_copy(update={"float_ops": (Op.CONV,)}) if r.engine == "tensorrt-rtx" else r for r in ada.runtimes
    ]
    changed = ada.model_copy(update={"runtimes": tuple(runtimes)})
    assert changed.fp8_rule("conv", "tensorrt-rtx") is None
    assert changed.fp8_rule("linear", "tensorrt-rtx") is not None
