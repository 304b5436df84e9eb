"""A float network captured as a graph of ATen operators, on which layers are found, counted and quantised."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from bitwright.foundation.errors import GraphError
from bitwright.foundation.files import atomic_path

aten = torch.ops.aten

CONV_OPS = (aten.conv2d.default, aten.conv_transpose2d.input, aten.conv2d.padding)
LAYER_OPS = (*CONV_OPS, aten.linear.default)

_UNTRACEABLE = (RuntimeError, ValueError, TypeError, torch._dynamo.exc.TorchDynamoException)


def capture(module: nn.Module, example: Tensor, *, one_size: bool = False) -> fx.GraphModule:
    """Trace `module` at `example` ([1, C, H, W]) into a graph whose batch, height and width stay dynamic.

    With `one_size` a network that cannot be traced so, such as a transformer with learned places for its patches, is
    traced for the height and width of `example` only. The module itself is not touched; the graph owns a copy of its
    tensors under their original names. Raises GraphError with the line of user code that cannot be traced.
    """
    frozen = copy.deepcopy(module).eval()
    try:
        graph_module = _as_graph(_traced(frozen, example, (2, 3)), type(module).__name__)
        fixed = one_size and not _takes_another_size(graph_module, example)
    except _UNTRACEABLE as error:
        if not one_size:
            raise GraphError(
                f"{type(module).__name__} cannot be traced with dynamic height and width: {_first_line(error)}"
            ) from error
        fixed = True
    if not fixed:
        return graph_module
    try:
        return _as_graph(_traced(frozen, example, ()), type(module).__name__)
    except _UNTRACEABLE as error:
        raise GraphError(f"{type(module).__name__} cannot be traced: {_first_line(error)}") from error


def _takes_another_size(graph_module: fx.GraphModule, example: Tensor) -> bool:
    """Whether a network runs at twice the height of `example`: the checks that would tell are not in its graph."""
    try:
        with torch.no_grad():
            graph_module(torch.cat([example, example], 2))
    except (RuntimeError, ValueError):
        return False
    return True


def _as_graph(program: torch.export.ExportedProgram, name: str) -> fx.GraphModule:
    """The graph of an exported network, without checks of sizes and without gradients."""
    graph_module = program.module()
    assert isinstance(graph_module, fx.GraphModule)
    _drop_guards(graph_module)
    outputs = output_node(graph_module).args[0]
    if isinstance(outputs, (tuple, list)) and len(outputs) == 1:
        output_node(graph_module).args = (outputs[0],)
    elif not isinstance(outputs, fx.Node):
        raise GraphError(f"{name} returns {type(outputs).__name__}; a network has one tensor output")
    graph_module.graph.set_codegen(fx.graph.CodeGen())
    for parameter in graph_module.parameters():
        parameter.requires_grad_(False)
    rebuild(graph_module)
    return graph_module


def _traced(module: nn.Module, example: Tensor, dynamic: Sequence[int]) -> torch.export.ExportedProgram:
    """The exported module, with a dynamic batch and the other `dynamic` dimensions; torch logs nothing."""
    sizes = dict.fromkeys((0, *dynamic), torch.export.Dim.DYNAMIC)
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with torch.no_grad(), _without_own_warnings():
            return torch.export.export(module, (torch.cat([example, example.flip(-1)]),), dynamic_shapes=(sizes,))
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    if text.startswith("Constraints violated") and "size()[0]" in text.splitlines()[0]:
        return "its code makes a constant of the batch size, as len(x) does; take x.shape[0]"
    return text.splitlines()[0] if text else type(error).__name__


def dynamic_dimensions(graph_module: fx.GraphModule) -> tuple[int, ...]:
    """Which of the input's dimensions [N, C, H, W] a captured graph leaves open: (0, 2, 3), or (0,) for one size."""
    return tuple(i for i, size in enumerate(input_node(graph_module).meta["val"].shape) if not isinstance(size, int))


def _drop_guards(graph_module: fx.GraphModule) -> None:
    """Remove the shape checks that export adds; engines accept any size that the operators accept."""
    for node in reversed(list(graph_module.graph.nodes)):
        is_guard = node.op == "call_module" and "guard" in str(node.target)
        if not node.users and node.op != "output" and (is_guard or node.op in {"call_function", "get_attr"}):
            graph_module.graph.erase_node(node)


def rebuild(graph_module: fx.GraphModule) -> None:
    """Check the graph, drop what nothing uses and make it callable again after an edit."""
    graph_module.graph.eliminate_dead_code()
    graph_module.graph.lint()
    graph_module.recompile()


def clone(graph_module: fx.GraphModule) -> fx.GraphModule:
    """An independent copy: its own graph and its own tensors."""
    with _without_own_warnings():
        return copy.deepcopy(graph_module)


@contextmanager
def _without_own_warnings() -> Iterator[None]:
    """Hide what torch says of its own use of pytrees, here and when an exported graph is copied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def input_node(graph_module: fx.GraphModule) -> fx.Node:
    """The one input of the network."""
    placeholders: list[fx.Node] = [n for n in graph_module.graph.nodes if n.op == "placeholder"]
    if len(placeholders) != 1:
        raise GraphError(f"the network has {len(placeholders)} inputs; a network has one tensor input")
    return placeholders[0]


def output_node(graph_module: fx.GraphModule) -> fx.Node:
    """The output node; its first argument is the tensor that the network returns."""
    found: fx.Node = next(n for n in reversed(graph_module.graph.nodes) if n.op == "output")
    return found


def is_layer(node: fx.Node) -> bool:
    """Whether the node is a convolution or linear operator with a constant weight."""
    return (
        node.op == "call_function"
        and node.target in LAYER_OPS
        and isinstance(node.args[1], fx.Node)
        and node.args[1].op == "get_attr"
    )


def channel_dimension(node: fx.Node) -> int:
    """Dimension of a layer's output that holds its channels: the last of a linear layer, the second of all others."""
    return -1 if node.target is aten.linear.default else 1


def weight_name(node: fx.Node) -> str:
    """Qualified name of a layer's weight."""
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    return str(weight.target)


def bias_name(node: fx.Node) -> str | None:
    """Qualified name of a layer's bias, or None."""
    bias = node.args[2] if len(node.args) > 2 else None
    return str(bias.target) if isinstance(bias, fx.Node) else None


def layer_nodes(graph_module: fx.GraphModule) -> Iterator[tuple[str, fx.Node]]:
    """Each layer call in execution order with its name: the weight's owner, `name#2` from the second call on."""
    calls: dict[str, int] = {}
    for node in graph_module.graph.nodes:
        if is_layer(node):
            owner = weight_name(node).removesuffix(".weight")
            calls[owner] = calls.get(owner, 0) + 1
            yield (owner if calls[owner] == 1 else f"{owner}#{calls[owner]}"), node


def owns_tensors(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether nothing else reads the layer's weight and bias, so that they may change."""
    names = {weight_name(node), bias_name(node)} - {None}
    return all(
        user is node
        for n in graph_module.graph.nodes
        if n.op == "get_attr" and str(n.target) in names
        for user in n.users
    )


def tensor(graph_module: fx.GraphModule, name: str) -> Tensor:
    """A parameter or buffer by qualified name."""
    owner, _, leaf = name.rpartition(".")
    value = getattr(graph_module.get_submodule(owner), leaf)
    assert isinstance(value, Tensor)
    return value


def set_tensor(graph_module: fx.GraphModule, name: str, value: Tensor) -> None:
    """Replace a parameter or buffer by qualified name; the shape may change."""
    owner, _, leaf = name.rpartition(".")
    module = graph_module.get_submodule(owner)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[leaf] = value


def add_buffer(graph_module: fx.GraphModule, name: str, value: Tensor) -> None:
    """Register a new buffer under a qualified name, creating the modules on the way."""
    owner, _, leaf = name.rpartition(".")
    module: nn.Module = graph_module
    for part in filter(None, owner.split(".")):
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_buffer(leaf, value)


def save_graph(graph_module: fx.GraphModule, path: Path) -> None:
    """Write the tensors of a float graph as safetensors."""
    with atomic_path(path) as temporary:
        save_file({k: v.detach().contiguous().clone() for k, v in graph_module.state_dict().items()}, temporary)


def load_graph(graph_module: fx.GraphModule, path: Path) -> fx.GraphModule:
    """A copy of a graph with the tensors that `save_graph` wrote of one with the same structure."""
    result = clone(graph_module)
    for name, value in load_file(path).items():
        set_tensor(result, name, value)
    return result
