"""The process that times one engine of `edge_runtimes`, in whichever environment has its runtime.

Needs nothing but Python, numpy, the runtime, and the modules of a bundle's runner on the search path.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deploy.latency.child_process import serve
from deploy.latency.timing import TimedNetwork, process_memory

Message = dict[str, Any]
Run = Callable[[np.ndarray], np.ndarray]


def bitwright(folder: Path, threads: int) -> Run:
    """An engine of bitwright's; the loaders take what to load and the number of threads."""
    from deploy.engines import load_engine

    return load_engine(folder, threads).run


def executorch(file: Path, threads: int) -> Run:
    """An ExecuTorch program, `.pte`."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(threads)
    program = Runtime.get().load_program(file)
    method = program.load_method("forward")

    def run(x: np.ndarray) -> np.ndarray:
        output: np.ndarray = method.execute([torch.from_numpy(x)])[0].numpy()
        return output

    return run


def ncnn(file: Path, threads: int) -> Run:
    """A network of ncnn: `.param`, with its `.bin` beside it."""
    from ncnn import Mat, Net

    net = Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    if net.load_param(str(file)) or net.load_model(str(file.with_suffix(".bin"))):
        raise RuntimeError(f"ncnn cannot load {file}")

    def run(x: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", Mat(x[0]))
        failed, output = extractor.extract("out0")
        if failed:
            raise RuntimeError(f"ncnn cannot run {file}: error {failed}")
        return np.array(output)[None]

    return run


LOADERS = {loader.__name__: loader for loader in (bitwright, executorch, ncnn)}


class _Worker:
    """One engine with its input, [1, C, H, W] float32, both given by the last `load`."""

    def __init__(self) -> None:
        self._timed: TimedNetwork
        self._run: Run
        self._x: np.ndarray

    def load(self, command: Message) -> Message:
        """Load an engine and its input, and run it once."""
        start = time.perf_counter_ns()
        self._run = LOADERS[command["runtime"]](Path(command["file"]), command["threads"])
        load_ms = (time.perf_counter_ns() - start) / 1e6
        self._x = np.ascontiguousarray(np.load(command["input"], allow_pickle=False))
        self._timed = TimedNetwork(self._run, self._x)
        return {"load_ms": load_ms, "first_ms": self._timed.time(1).wall_ns[0] / 1e6}

    def warm_up(self, command: Message) -> Message:
        """Run until steady."""
        wall_ns, steady = self._timed.warm_up(**command["policy"])
        return {"warm_ns": wall_ns, "steady": steady}

    def run(self, command: Message) -> Message:
        """Time one block."""
        runs = self._timed.time(command["count"], command["settle"])
        return {"wall_ns": runs.wall_ns, "cpu_ns": runs.cpu_ns}

    def output(self, command: Message) -> Message:
        """Write the output for the input to a file."""
        np.save(command["file"], self._run(self._x))
        return {}

    def info(self, command: Message) -> Message:
        """Facts about this process."""
        del command
        return {"peak_rss_bytes": process_memory("VmHWM")}

    def exit(self, command: Message) -> Message:
        """The last answer."""
        del command
        return {}


def main() -> None:
    """Serve commands until 'exit' or the end of stdin."""
    parser = argparse.ArgumentParser(description="Time one engine; started by the benchmark.")
    parser.add_argument("--reply-fd", type=int, required=True)
    worker = _Worker()

    def answer(line: str) -> tuple[str, bool]:
        command = json.loads(line)
        name = command["command"]
        return json.dumps(getattr(worker, name)(command), allow_nan=False), name == "exit"

    serve(parser.parse_args().reply_fd, answer)


if __name__ == "__main__":
    main()
