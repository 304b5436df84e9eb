"""Masks are the same in all processes once they are fixed, even where the weights were not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[3]
WORKER = """
import sys, torch
from torch import nn
from compress.nm_pattern import Sparsity
from compress.sparsity import METHODS, Phases, SparseTraining
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(rank)
layer = nn.Linear(16, 8)
training = SparseTraining(layer, {"": Sparsity(n=2, m=4)}, METHODS["sdgf_stepwise"], Phases(10, fine_tune=0.5))
training.begin(0)
moving = training.masks()[""].clone()
training.begin(5)
torch.save({"moving": moving, "fixed": training.masks()[""]}, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_fixed_masks_are_those_of_the_first_process(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], env=environment) for rank in (0, 1)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.equal(first["moving"], second["moving"])
    assert torch.equal(first["fixed"], second["fixed"])
