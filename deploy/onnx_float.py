"""An ONNX file whose float part is fp16 or bf16, for builders that execute what the types of a file say.

Its input and output stay float32, integers and zero points stay as they are, and so do the scales: from opset 23 on
QuantizeLinear and DequantizeLinear take a scale in float32 beside a tensor in a shorter type (up to opset 22 both must
have one type), so that a scale is never rounded; those of weights in blocks are, and fp16 holds them.
TensorRT-RTX 1.7 builds the same int8 convolutions from it.
onnxruntime.transformers.float16 was not used: it clips what fp16 cannot hold without a word, rounds scales with the
rest, and has no bf16.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, defs, helper, numpy_helper, version_converter

from bitwright.foundation.errors import UsageError
from deploy.onnx_attributes import number
from deploy.onnx_float_fit import in_words, unfit
from deploy.runtimes import FloatPrecision

OPSET = 23
TYPES = {FloatPrecision.FP16: TensorProto.FLOAT16, FloatPrecision.BF16: TensorProto.BFLOAT16}
"""Element types of the precisions that a file can be converted to."""

_NAMES = {TensorProto.FLOAT16: "tensor(float16)", TensorProto.BFLOAT16: "tensor(bfloat16)"}
_TYPED = {"Cast": "to", "DequantizeLinear": "output_dtype"}
"""Operators whose output type is an attribute, by its name."""


def convert(file: onnx.ModelProto, precision: FloatPrecision) -> onnx.ModelProto:
    """A copy of `file` with the float part in `precision`; operators that have no such type stay in fp32.

    UsageError for a file with values that the type cannot hold (see `onnx_float_fit`), with control flow, or that ONNX
    cannot convert. Keeping a node in fp32 between casts would be no way out: TensorRT-RTX 1.7 takes the casts away, and
    runs the layer with its weights rounded to the type that they do not fit.
    """
    found = unfit(file, precision)
    if found:
        raise UsageError(f"{precision} cannot hold the float part of this network: {in_words(found)}")
    if any(a.type in {a.GRAPH, a.GRAPHS} for node in file.graph.node for a in node.attribute):
        raise UsageError(f"a network with control flow cannot be converted to {precision}; build it in fp32")
    try:
        newer = version_converter.convert_version(file, OPSET) if _opset(file) < OPSET else _copy(file)
        newer = onnx.shape_inference.infer_shapes(newer)
    except (RuntimeError, version_converter.ConvertError, onnx.shape_inference.InferenceError) as error:
        raise UsageError(f"the network cannot be converted to {precision}: {str(error).splitlines()[0]}") from error
    newer.ir_version = max(newer.ir_version, helper.find_min_ir_version_for(newer.opset_import, True))
    _Conversion(newer, TYPES[precision]).run()
    onnx.checker.check_model(newer, full_check=True)
    return newer


def _copy(file: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(file)
    return made


def _opset(file: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in file.opset_import if entry.domain in {"", "ai.onnx"})


@dataclass
class _Conversion:
    """The work on one file, in place. `short`: the new type."""

    file: onnx.ModelProto
    short: int
    floats: set[str] = field(default_factory=set)
    """Names of the tensors that were float32 in the file as it was given."""
    shortened: set[str] = field(default_factory=set)
    """Those of them that are now made or stored in the new type; each keeps its name."""
    stand_ins: dict[str, str] = field(default_factory=dict)
    """What stands for a tensor where the other type than its own is wanted."""

    def run(self) -> None:
        graph = self.file.graph
        values = (*graph.value_info, *graph.input, *graph.output)
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.floats |= {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
        short = {node.output[0] for node in graph.node if self._shortens(node)}
        self.shortened = {name for node in graph.node if node.output[0] in short for name in self._made(node)}
        wanted = [self._wanted(node, node.output[0] in short) for node in graph.node]
        self._store({name for names in wanted for name, kind in names.items() if kind == self.short})
        nodes: list[onnx.NodeProto] = []
        for node, names in zip(list(graph.node), wanted, strict=True):
            for name in [n for n, kind in names.items() if (kind == self.short) != (n in self.shortened)]:
                if name not in self.stand_ins:
                    self.stand_ins[name] = f"{name}.{'fp32' if name in self.shortened else 'short'}"
                    cast = f"{self.stand_ins[name]}.cast"
                    nodes.append(helper.make_node("Cast", [name], [self.stand_ins[name]], cast, to=names[name]))
                _replace(node.input, name, self.stand_ins[name])
            if node.output[0] in short and node.op_type in _TYPED:
                _set(node, _TYPED[node.op_type], self.short)
            nodes.append(node)
        outputs = {value.name for value in graph.output}
        nodes += [made for name in outputs & self.shortened for made in self._output(name, nodes)]
        alive = _alive(nodes, outputs)
        del graph.node[:]
        graph.node.extend(alive)
        used = {name for node in alive for name in node.input}
        for tensor in [t for t in graph.initializer if t.name not in used]:
            graph.initializer.remove(tensor)
        del graph.value_info[:]
        self.file.CopyFrom(onnx.shape_inference.infer_shapes(self.file))

    def _shortens(self, node: onnx.NodeProto) -> bool:
        """Whether a node is to compute in the new type: it has floats, and its operator knows the type."""
        outputs = self._made(node)
        if node.op_type in _TYPED:
            return bool(outputs)
        formal = _formal(node, self.file)
        if formal is None:
            return False
        inputs, results, allowed = formal
        taken = {kind for name, kind in zip(node.input, inputs, strict=True) if name in self.floats}
        made = {kind for name, kind in zip(node.output, results, strict=True) if name in outputs}
        variables = {kind for kind in taken | made if kind in allowed}
        # A result whose type no input decides would stay float32, as that of ConstantOfShape does.
        return made <= taken and bool(variables) and all(_NAMES[self.short] in allowed[kind] for kind in variables)

    def _made(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.output if name in self.floats]

    def _wanted(self, node: onnx.NodeProto, is_short: bool) -> dict[str, int]:
        """The type that a node wants each of its float inputs in."""
        names = [(index, name) for index, name in enumerate(node.input) if name in self.floats]
        if node.op_type == "Cast":
            return {}
        if not is_short:
            return {name: TensorProto.FLOAT for _, name in names}
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            # TensorRT-RTX 1.7 does not build blocks whose scales have another type than what they are dequantised to.
            exact = not number(node, "block_size", 0)
            return {name: TensorProto.FLOAT if index == 1 and exact else self.short for index, name in names}
        formal = _formal(node, self.file)
        assert formal is not None
        # Some inputs are float32 whatever the others are, such as the factors of Resize.
        return {name: self.short if formal[0][index] in formal[2] else TensorProto.FLOAT for index, name in names}

    def _store(self, names: set[str]) -> None:
        """Round the constants among `names`; one that is wanted in float32 too is kept beside."""
        graph = self.file.graph
        for tensor in [t for t in graph.initializer if t.name in names and t.name in self.floats]:
            exact = graph.initializer.add()
            exact.CopyFrom(tensor)
            exact.name = self.stand_ins[tensor.name] = f"{tensor.name}.fp32"
            kind = helper.tensor_dtype_to_np_dtype(self.short)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))
            self.shortened.add(tensor.name)

    def _output(self, name: str, nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
        """Give an output of the network its name and type back: what is made in the new type goes by another name."""
        short = f"{name}.short"
        for node in nodes:
            _replace(node.input, name, short)
            _replace(node.output, name, short)
        yield helper.make_node("Cast", [short], [name], f"{name}.cast", to=TensorProto.FLOAT)


def _replace(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new


def _formal(
    node: onnx.NodeProto, file: onnx.ModelProto
) -> tuple[list[str], list[str], dict[str, Sequence[str]]] | None:
    """The formal type of each input and output of a node, and the types that each type variable may be."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = next((int(entry.version) for entry in file.opset_import if entry.domain == node.domain), OPSET)
    if not defs.has(node.op_type, version, domain):
        return None
    schema = defs.get_schema(node.op_type, version, domain)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    inputs = [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in range(len(node.input))]
    outputs = [schema.outputs[min(i, len(schema.outputs) - 1)].type_str for i in range(len(node.output))]
    return inputs, outputs, allowed


def _set(node: onnx.NodeProto, name: str, value: int) -> None:
    for attribute in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))


def _alive(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that something reads."""
    used, alive = set(outputs), []
    for node in reversed(nodes):
        if any(name in used for name in node.output):
            used.update(node.input)
            alive.append(node)
    return alive[::-1]
