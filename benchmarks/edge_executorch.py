"""Networks in 8 bits for ExecuTorch's XNNPACK: `python edge_executorch.py SOURCES OUT`, in ExecuTorch's environment.

Needs nothing of bitwright. SOURCES holds what `edge_arms.write_sources` does; OUT gets a program for each size, and
`made.json`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

CONVOLUTIONS = ("conv2d.default", "conv2d.padding", "conv_transpose2d.input", "linear.default")
DEQUANTIZE = ("dequantize_per_tensor.default", "dequantize_per_channel.default")


def prepared(path: Path) -> tuple[Any, torch.Tensor]:
    """An exported network with observers, and the input that it was exported at."""
    program = torch.export.load(path)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    return prepare_pt2e(program.module(), quantizer), program.example_inputs[0][0]


def calibrated(sources: Path, kept: Path) -> dict[str, torch.Tensor]:
    """The state of a network and its observers after the calibration crops; read from `kept` if it is there."""
    if not kept.is_file():
        network, example = prepared(sources / "calibration.pt2")
        crops = torch.from_numpy(np.load(sources / "crops.npy"))
        with torch.no_grad():
            for start in range(0, len(crops) - len(example) + 1, len(example)):
                network(crops[start : start + len(example)])
        part = kept.with_suffix(".part")
        torch.save(network.state_dict(), part)
        part.rename(kept)
    state: dict[str, torch.Tensor] = torch.load(kept)
    return state


def quantized_layers(graph: torch.fx.Graph) -> tuple[int, int]:
    """(convolutions and matrix products whose input and weight come dequantised, all of them)."""
    layers = [node for node in graph.nodes if getattr(node.target, "__name__", "") in CONVOLUTIONS]
    done = [n for n in layers if all(getattr(a.target, "__name__", "") in DEQUANTIZE for a in n.args[:2])]
    return len(done), len(layers)


def convert(path: Path, state: dict[str, torch.Tensor], program: Path) -> None:
    """Write the program of one exported network, and beside it what it holds; both whole or not at all."""
    network, example = prepared(path)
    network.load_state_dict(state)
    converted = convert_pt2e(network)
    done, layers = quantized_layers(converted.graph)
    lowered = to_edge_transform_and_lower(
        torch.export.export(converted, (example,)), partitioner=[XnnpackPartitioner()]
    )
    called = [node for node in lowered.exported_program().graph.nodes if node.op == "call_function"]
    operators = Counter(getattr(node.target, "__name__", str(node.target)) for node in called)
    counts = {"int8_layers": done, "layers": layers, "operators": dict(operators)}
    program.with_suffix(".json").write_text(json.dumps(counts, indent=1))
    part = program.with_suffix(".part")
    part.write_bytes(lowered.to_executorch().buffer)
    part.rename(program)


def main(sources: Path, out: Path) -> None:
    """Convert the network of each size, all with the same observations; those that are there are kept."""
    state = calibrated(sources, out / "calibrated.pt")
    programs = {out / f"{path.stem}.pte": path for path in sorted(sources.glob("*x*.pt2"))}
    for program, path in programs.items():
        if not program.is_file():
            convert(path, state, program)
    (out / "made.json").write_text(program.with_suffix(".json").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
