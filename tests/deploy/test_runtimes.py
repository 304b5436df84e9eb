"""The runtimes of contract tests, by name: a list that is filtered by what a runtime says of itself may lose one."""

from __future__ import annotations

from deploy.engine import Runtime
from tests.deploy.runtimes import IN_BUNDLES, RUN_ON_CPU, TELL_EXECUTED, TELL_TIMES, TIMED_ON_CPU
from tests.marks import HAS_COMPILER

ONNX, OPENVINO, LITERT = Runtime.ONNXRUNTIME, Runtime.OPENVINO, Runtime.LITERT


def test_no_runtime_is_left_out_unseen() -> None:
    torch = [Runtime.TORCH] if HAS_COMPILER else []
    assert [ONNX, OPENVINO, LITERT, *torch, Runtime.QONNX] == RUN_ON_CPU
    assert [ONNX, OPENVINO, LITERT, *torch] == TIMED_ON_CPU
    assert IN_BUNDLES == [ONNX, OPENVINO, LITERT]
    assert TELL_EXECUTED == [ONNX, LITERT]
    assert TELL_TIMES == [ONNX, OPENVINO]
