"""What the commands of all benchmarks share: their options, their networks, and how they end."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from benchmarks.arms import Network
from benchmarks.session import Timing
from bitwright.cli.failures import explain
from bitwright.cli.output import showing_progress
from bitwright.foundation.errors import UsageError
from workloads.loading import load_checkpoint

WORK = "work"


def parser(description: str, out: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--data-root", type=Path, required=True, help="folder of checkpoints/, sr/train and sr/test")
    made.add_argument("--out", type=Path, default=Path(out), help="where results and unfinished work go")
    made.add_argument("--device", default="x86-avx512-vnni-bf16", help="device profile")
    made.add_argument("--seconds", type=float, default=10.0, help="timed seconds of each engine, at least")
    made.add_argument("--threads", type=int, default=1, help="threads that latency is measured on")
    made.add_argument("--side", type=int, default=128, help="height and width of the timed network input")
    made.add_argument("--crops", type=int, default=256, help="calibration crops, the same ones for every arm")
    made.add_argument("--crop-side", type=int, default=64, help="side of a calibration crop, LR pixels")
    made.add_argument("--images", type=int, default=None, help="pictures of each test set at most (for a trial run)")
    made.add_argument("--seed", type=int, default=0, help="seed of crops, compression and interleaving")
    made.add_argument("--measure-again", action="store_true", help="time the engines again even if nothing changed")
    return made


def study_parser(description: str, out: str, data: str) -> argparse.ArgumentParser:
    """A parser with the options of a study that trains; `data`: what --data-root holds."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--data-root", type=Path, required=True, help=data)
    made.add_argument("--out", type=Path, default=Path(out), help="where results and unfinished work go")
    made.add_argument("--steps", type=int, default=400, help="optimiser steps of every training")
    made.add_argument("--seeds", type=int, default=3, help="trainings of every arm")
    made.add_argument("--threads", type=int, default=1, help="threads of torch")
    return made


def timing_of(given: argparse.Namespace) -> Timing:
    """The timing that the options ask for."""
    return Timing(given.seconds, given.threads, given.side, given.seed, given.measure_again)


def network_of(given: argparse.Namespace, name: str) -> Network:
    """A network of the data folder by the stem of its checkpoint; UsageError names what is missing."""
    checkpoint = given.data_root / "checkpoints" / f"{name}.pth"
    train, test = given.data_root / "sr" / "train", given.data_root / "sr" / "test"
    for path in (checkpoint, train, test):
        if not path.exists():
            raise UsageError(f"{path} does not exist; --data-root must hold checkpoints/, sr/train and sr/test")
    return Network(name, checkpoint, load_checkpoint(checkpoint), train, test, given.out / WORK / name, given.images)


def hidden(given: argparse.Namespace) -> dict[Path, str]:
    """The paths of this machine that results must not name, and what stands for them."""
    return {given.data_root: "DATA", given.out: "OUT", Path(__file__).resolve().parents[1]: "REPOSITORY"}


def run(main: Callable[[], None]) -> int:
    """Run a benchmark with progress on stderr; an error is one line and its exit code."""
    # torch copies its graphs through an interface that it calls outdated itself, once for each copy.
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
    try:
        with showing_progress():
            main()
    except BaseException as error:
        failure = explain(error)
        if failure is None:
            raise
        sys.stderr.write(f"{failure.line}\n")
        return failure.code
    return 0
