"""Networks in float and in 8 bits for ncnn: `python edge_ncnn.py SOURCES OUT`, in the environment of ncnn and pnnx.

Needs nothing of bitwright. ncnn's packages for Python have no tools for 8 bits, so that the integers are made here:
weights by the largest magnitude of each output channel and integers between convolutions that only convolutions read,
as ncnn's tools do; inputs by the largest magnitude over the calibration crops, which the tools clip unless told
otherwise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

CONVOLUTION = "Convolution"
WITH_WEIGHTS = frozenset({CONVOLUTION, "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise"})
INT8_TAG = 0x000D4B38
"""What stands before 8-bit weights in a .bin file; 0 stands before float ones."""
TO_FLOAT, TO_INT8 = 2, 102
"""Values of parameter 8: integer convolutions by their output."""
OUTPUTS, BIAS, WEIGHTS, SCALES = "0", "5", "6", "8"
LARGEST = 127.0
Floats = np.ndarray


@dataclass(frozen=True)
class Layer:
    """A line of a .param file, with its weights and biases where it has them."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: dict[str, str]
    weights: Floats | None = None
    rest: bytes = b""

    def line(self) -> str:
        """As it is written."""
        words = [self.kind, self.name, str(len(self.inputs)), str(len(self.outputs)), *self.inputs, *self.outputs]
        return " ".join([*words, *(f"{key}={value}" for key, value in self.params.items())])


def read(path: Path) -> list[Layer]:
    """The layers of a float network; ValueError where its weights are not understood."""
    content = path.with_suffix(".bin").read_bytes()
    layers, place = [], 0
    for line in path.read_text().splitlines()[2:]:
        kind, name, given, made, *words = line.split()
        end = int(given) + int(made)
        params = dict(word.split("=", 1) for word in words[end:])
        layer = Layer(kind, name, tuple(words[: int(given)]), tuple(words[int(given) : end]), params)
        if kind in WITH_WEIGHTS:
            outputs, count = int(params[OUTPUTS]), int(params[WEIGHTS])
            weights = np.frombuffer(content, np.float32, count, place + 4).reshape(outputs, -1)
            place += 4 + 4 * count
            size = 4 * outputs * int(params.get(BIAS, "0"))
            layer = replace(layer, weights=weights, rest=content[place : place + size])
        else:
            size = 4 * int(params[OUTPUTS]) if kind == "PReLU" else 0
            layer = replace(layer, rest=content[place : place + size])
        place += size
        layers.append(layer)
    if place != len(content):
        raise ValueError(f"{path}: {len(content) - place} bytes of weights belong to layers that are not known here")
    return layers


def ranges(path: Path, layers: list[Layer], crops: Floats) -> dict[str, float]:
    """The largest magnitude of what each convolution reads, by blob, over the crops [N, C, H, W] of the file's size."""
    from ncnn import Mat, Net

    net = Net()
    net.opt.num_threads = 1
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise RuntimeError(f"ncnn cannot load {path}")
    found = {layer.inputs[0]: 0.0 for layer in layers if layer.kind == CONVOLUTION}
    for crop in crops:
        extractor = net.create_extractor()
        extractor.set_light_mode(False)
        extractor.input("in0", Mat(np.ascontiguousarray(crop)))
        for blob in found:
            found[blob] = max(found[blob], float(np.abs(np.array(extractor.extract(blob)[1])).max()))
    return found


def readers(layers: list[Layer], blob: str) -> list[Layer]:
    """The layers that read a blob, through the layers that only copy it."""
    found = []
    for layer in layers:
        if blob in layer.inputs:
            copies = layer.kind == "Split"
            found += [one for copy in layer.outputs for one in readers(layers, copy)] if copies else [layer]
    return found


def quantized(layers: list[Layer], largest: dict[str, float]) -> list[tuple[Layer, bytes]]:
    """The layers with their part of the .bin file, convolutions in 8 bits."""
    done = []
    for layer in layers:
        if layer.weights is None:
            done.append((layer, layer.rest))
        elif layer.kind != CONVOLUTION:
            done.append((layer, b"\0" * 4 + layer.weights.tobytes() + layer.rest))
        else:
            followers = readers(layers, layer.outputs[0])
            stays = bool(followers) and all(one.kind == CONVOLUTION for one in followers)
            scales = [weight_scales(layer.weights), scale(largest[layer.inputs[0]])]
            if stays:
                scales.append(scale(largest[followers[0].inputs[0]]))
            integers = np.rint(layer.weights * scales[0][:, None]).clip(-LARGEST, LARGEST).astype(np.int8).tobytes()
            content = INT8_TAG.to_bytes(4, "little") + integers + b"\0" * (-len(integers) % 4) + layer.rest
            params = layer.params | {SCALES: str(TO_INT8 if stays else TO_FLOAT)}
            done.append((replace(layer, params=params), content + b"".join(part.tobytes() for part in scales)))
    return done


def weight_scales(weights: Floats) -> Floats:
    """Integers per unit, for each output channel; a channel of zeros has 1."""
    largest = np.abs(weights).max(axis=1)
    scales: Floats = np.where(largest > 0, LARGEST / np.where(largest > 0, largest, 1.0), 1.0).astype(np.float32)
    return scales


def scale(largest: float) -> Floats:
    """Integers per unit of what a layer reads."""
    return np.array([LARGEST / largest if largest > 0 else 1.0], np.float32)


def write(path: Path, float_path: Path, layers: list[tuple[Layer, bytes]]) -> None:
    """The .param and .bin files of a network; the head is that of the float file."""
    head = float_path.read_text().splitlines()[:2]
    path.write_text("\n".join([*head, *(layer.line() for layer, _ in layers)]) + "\n")
    path.with_suffix(".bin").write_bytes(b"".join(content for _, content in layers))


def convert(traced: Path, target: Path) -> None:
    """One traced network through pnnx, its weights in full precision."""
    import pnnx

    height, width = traced.stem.split("x")
    channels = np.load(traced.parent / "crops.npy", mmap_mode="r").shape[1]
    folder = target.parent / "pnnx"
    folder.mkdir(exist_ok=True)
    rest = {"pnnxparam": "a.param", "pnnxbin": "a.bin", "pnnxpy": "a.py", "pnnxonnx": "a.onnx", "ncnnpy": "b.py"}
    words = [f"{key}={folder / name}" for key, name in rest.items()]
    words += [f"ncnnparam={target}", f"ncnnbin={target.with_suffix('.bin')}", "fp16=0"]
    words.append(f"inputshape=[1,{channels},{height},{width}]f32")
    subprocess.run([pnnx.EXEC_PATH, str(traced), *words], check=True)


def main(sources: Path, out: Path) -> None:
    """Convert the network of each size, in float and in 8 bits, all with the same ranges."""
    crops = np.load(sources / "crops.npy")
    crop_size = f"{crops.shape[2]}x{crops.shape[3]}"
    (out / "fp32").mkdir(exist_ok=True)
    (out / "int8").mkdir(exist_ok=True)
    traced = sorted(sources.glob("*x*.pt"), key=lambda path: path.stem != crop_size)
    largest: dict[str, float] = {}
    counts: dict[str, int] = {}
    for path in traced:
        target = out / "fp32" / f"{path.stem}.param"
        convert(path, target)
        layers = read(target)
        largest = largest or ranges(target, layers, crops)
        done = quantized(layers, largest)
        write(out / "int8" / target.name, target, done)
        counts = {
            "int8_layers": sum(SCALES in layer.params for layer, _ in done if layer.kind == CONVOLUTION),
            "giving_int8": sum(layer.params.get(SCALES) == str(TO_INT8) for layer, _ in done),
            "layers": sum(layer.weights is not None for layer, _ in done),
        }
    (out / "int8" / "made.json").write_text(json.dumps(counts, indent=1))
    (out / "fp32" / "made.json").write_text(json.dumps({"int8_layers": 0, "layers": counts["layers"]}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
