"""What LiteRT executes: the operators of a loaded network, their precision, and which of them XNNPACK took over.

All is read from the record that a session makes after its delegate was applied, here or on another machine. The
delegate replaces operators by nodes of its own, of which the runtime tells the tensors that go in and out; what lies
between them is what it computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deploy.engine import ExecutedNode
from deploy.tflite import JOIN

DELEGATE = "DELEGATE"
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bool_": "bool"}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Operator(_Part):
    """One operator of the runtime, by the numbers of its tensors; those that are left out are not among them."""

    index: int
    op_name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...] = Field(min_length=1)


class Tensor(_Part):
    """A tensor: its name, and its type as numpy calls it."""

    name: str
    dtype: str

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.dtype not in np.sctypeDict:
            raise ValueError(f"{self.dtype!r} is no type of numpy")
        return self


class Executed(_Part):
    """What `LiteRtSession.executed` tells: the operators in order, and the tensors by their numbers."""

    operators: tuple[Operator, ...]
    tensors: dict[int, Tensor]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        named = {tensor for operator in self.operators for tensor in (*operator.inputs, *operator.outputs)}
        if not named <= self.tensors.keys():
            raise ValueError("an operator reads or makes a tensor that is not listed")
        return self


def executed_nodes(executed: Executed, exported: Mapping[str, object]) -> tuple[ExecutedNode, ...]:
    """The operators in order; `exported`: the names of the exported nodes.

    An operator with integers as activations and weights executes in int8, and one that reads or makes reals does not.
    """
    own = [operator for operator in executed.operators if operator.op_name != DELEGATE]
    delegated = _delegated(executed.operators)
    return tuple(_node(executed.tensors, operator, operator.index in delegated, exported) for operator in own)


def _delegated(operators: Sequence[Operator]) -> frozenset[int]:
    """Indices of the operators between the inputs and the outputs of the nodes that a delegate made."""
    producers = {made: op for op in operators if op.op_name != DELEGATE for made in op.outputs}
    found: set[int] = set()
    for node in operators:
        if node.op_name != DELEGATE:
            continue
        given, pending = frozenset(node.inputs), list(node.outputs)
        while pending:
            tensor = pending.pop()
            operator = producers.get(tensor)
            if operator is not None and tensor not in given and operator.index not in found:
                found.add(operator.index)
                pending.extend(operator.inputs)
    return frozenset(found)


def _node(
    tensors: Mapping[int, Tensor], operator: Operator, delegated: bool, exported: Mapping[str, object]
) -> ExecutedNode:
    made = tensors[operator.outputs[0]].name
    return ExecutedNode(
        name=made,
        op=operator.op_name,
        precision=_precision(tensors, operator),
        kernel=f"{'XNNPACK' if delegated else 'builtin'} {operator.op_name}",
        origins=tuple(name for name in made.split(JOIN) if name in exported),
    )


def _precision(tensors: Mapping[int, Tensor], operator: Operator) -> str:
    """The type of what is made, and int8 only where nothing that is read is real."""
    kinds = [np.dtype(tensors[tensor].dtype).name for tensor in (*operator.outputs, *operator.inputs)]
    made = kinds[0]
    mixed = made == "int8" and "float32" in kinds and operator.op_name != "QUANTIZE"
    return "int8+fp32" if mixed else _PRECISIONS.get(made, made)
