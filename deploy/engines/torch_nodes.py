"""What a compiled torch network executes: the calls in the source of its AOTInductor package.

The source is what the package's code was compiled from: one call for each kernel, of oneDNN or of ATen, or of a loop
that Inductor generated for elementwise operators. Layers are known by their biases and scales, which are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from deploy.engine import ExecutedNode

_CALL = re.compile(r"CHECK\(aoti_torch_(?:cpu|cuda)_(?P<kernel>\w+)\((?P<arguments>.*)\);")
_TRITON = re.compile(r"^ *call_(?P<kernel>triton_\w+)\(")
_LOOP = re.compile(r"^ {4}(?:kernels\.)?(?P<kernel>cpp_\w+)\((?P<arguments>.*)\);")
_SIGNATURE = re.compile(r'extern "C"\s+void\s+(?P<kernel>cpp_\w+)\((?P<parameters>[^)]*)\)')
_LAYER = re.compile(r"\blayer(\d+)_(?:bias|scale|weight)\b")
_CONSTANT = re.compile(
    r'constants_info_\[(\d+)\]\.name = "(\w+)";\s*constants_info_\[\1\]\.dtype = cached_torch_dtype_(\w+);'
)
_NAME = re.compile(r"\b[A-Za-z_]\w*\b")
_OUTPUT = re.compile(r"(?:const )?([\w:]+)\s*\*\s*(?:in_)?out_ptr\d+")
_PRECISIONS = {
    "float32": "fp32", "float": "fp32", "bfloat16": "bf16", "at::BFloat16": "bf16", "BFloat16": "bf16",
    "float16": "fp16", "half": "fp16", "uint8": "uint8", "uint8_t": "uint8", "int8_t": "int8",
    "float8_e4m3fn": "fp8", "at::Float8_e4m3fn": "fp8",
}  # fmt: skip
_EIGHT_BITS = ("int8", "float8_e4m3fn")
_LAYERS = ("Convolution", "MatMul")
_QUANTIZED = re.compile(r"_q(?:conv|linear)|_int_mm|_scaled_mm")
_LINEAR = re.compile("linear|addmm|mm_out|mkl")


def executed_nodes(source: str, layers: Sequence[str]) -> tuple[ExecutedNode, ...]:
    """The calls in order; `layers`: the names of the exported nodes that `layer{i}_` stands for.

    Freezing may give a constant another name. Layers that are not found so are the kernels that no layer was found for,
    in order, if these are as many and all of one precision: whichever is which, each executed in it. Otherwise they
    stay unknown.
    """
    nodes = list(_nodes(source, layers))
    lost = [index for index, node in enumerate(nodes) if node.op in _LAYERS and not node.origins]
    found = {name for node in nodes for name in node.origins}
    missing = [name for name in layers if name not in found]
    if len(lost) == len(missing) and len({nodes[index].precision for index in lost}) == 1:
        for index, name in zip(lost, missing, strict=True):
            nodes[index] = nodes[index].model_copy(update={"name": name, "origins": (name,)})
    return tuple(nodes)


def _nodes(source: str, layers: Sequence[str]) -> Iterator[ExecutedNode]:
    constants = {name: dtype for _, name, dtype in _CONSTANT.findall(source)}
    made = {found["kernel"]: _OUTPUT.findall(found["parameters"]) for found in _SIGNATURE.finditer(source)}
    for number, line in enumerate(source.splitlines()):
        call, loop, triton = _CALL.search(line), _LOOP.match(line), _TRITON.match(line)
        if call is not None:
            yield _kernel(call, number, constants, layers)
        elif triton is not None:
            # Its types stand in its own source, and the bias that it adds does not make it the layer.
            yield ExecutedNode(name=triton["kernel"], op="Loop", precision="unknown", kernel=triton["kernel"])
        elif loop is not None:
            kinds = dict.fromkeys(_PRECISIONS.get(kind, kind) for kind in made.get(loop["kernel"], ()))
            name = loop["kernel"]
            yield ExecutedNode(
                name=name, op="Loop", precision="+".join(kinds) or "unknown", kernel=name,
                origins=_origins(loop["arguments"], layers),
            )  # fmt: skip


def _kernel(call: re.Match[str], number: int, constants: dict[str, str], layers: Sequence[str]) -> ExecutedNode:
    kernel, names = call["kernel"], _NAME.findall(call["arguments"])
    kinds = [constants[name] for name in names if name in constants]
    if _QUANTIZED.match(kernel):
        # Its weight is the only constant of 8 bits among its arguments.
        precision = next((_PRECISIONS.get(kind, kind) for kind in kinds if kind in _EIGHT_BITS), "unknown")
    else:
        precision = "+".join(dict.fromkeys(_PRECISIONS.get(kind, kind) for kind in kinds)) or "unknown"
    origins = _origins(call["arguments"], layers)
    op = "Convolution" if "conv" in kernel else "MatMul" if _LINEAR.search(kernel) else kernel
    return ExecutedNode(
        name=origins[0] if origins else f"{kernel}:{number}", op=op, precision=precision, kernel=kernel, origins=origins
    )


def _origins(arguments: str, layers: Sequence[str]) -> tuple[str, ...]:
    found = dict.fromkeys(int(index) for index in _LAYER.findall(arguments))
    return tuple(layers[index] for index in found if index < len(layers))
