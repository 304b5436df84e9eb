"""What LiteRT executes: the operators of a loaded network, their precision, and which of them XNNPACK took over.

Both are read from the interpreter after its delegate was applied. The delegate replaces operators by nodes of its own,
of which the runtime tells the tensors that go in and out; what lies between them is what it computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.engine import ExecutedNode
from deploy.tflite import JOIN

DELEGATE = "DELEGATE"
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bool_": "bool"}


@dataclass(frozen=True)
class _Operator:
    index: int
    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def executed_nodes(interpreter: Any, exported: Mapping[str, object]) -> tuple[ExecutedNode, ...]:
    """The operators in order; `exported`: the names of the exported nodes.

    An operator with integers as activations and weights executes in int8, and one that reads or makes reals does not.
    """
    operators = tuple(_operators(interpreter))
    own = [operator for operator in operators if operator.code != DELEGATE]
    delegated = _delegated(operators)
    return tuple(_node(interpreter, operator, operator.index in delegated, exported) for operator in own)


def _operators(interpreter: Any) -> Iterator[_Operator]:
    for found in interpreter._get_ops_details():
        ends = [tuple(int(tensor) for tensor in found[side] if tensor >= 0) for side in ("inputs", "outputs")]
        yield _Operator(int(found["index"]), str(found["op_name"]), *ends)


def _delegated(operators: Sequence[_Operator]) -> frozenset[int]:
    """Indices of the operators between the inputs and the outputs of the nodes that a delegate made."""
    producers = {made: op for op in operators if op.code != DELEGATE for made in op.outputs}
    found: set[int] = set()
    for node in operators:
        if node.code != DELEGATE:
            continue
        given, pending = frozenset(node.inputs), list(node.outputs)
        while pending:
            tensor = pending.pop()
            operator = producers.get(tensor)
            if operator is not None and tensor not in given and operator.index not in found:
                found.add(operator.index)
                pending.extend(operator.inputs)
    return frozenset(found)


def _node(interpreter: Any, operator: _Operator, delegated: bool, exported: Mapping[str, object]) -> ExecutedNode:
    made = interpreter._get_tensor_details(operator.outputs[0], 0)
    names = str(made["name"]).split(JOIN)
    return ExecutedNode(
        name=str(made["name"]),
        op=operator.code,
        precision=_precision(interpreter, operator),
        kernel=f"{'XNNPACK' if delegated else 'builtin'} {operator.code}",
        origins=tuple(name for name in names if name in exported),
    )


def _precision(interpreter: Any, operator: _Operator) -> str:
    """The type of what is made, and int8 only where nothing that is read is real."""
    kinds = [
        np.dtype(interpreter._get_tensor_details(tensor, 0)["dtype"]).name
        for tensor in (*operator.outputs, *operator.inputs)
    ]
    made = kinds[0]
    mixed = made == "int8" and "float32" in kinds and operator.code != "QUANTIZE"
    return "int8+fp32" if mixed else _PRECISIONS.get(made, made)
