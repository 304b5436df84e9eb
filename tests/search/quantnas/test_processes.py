"""Two processes of `torchrun` search and train as one does: each computes half of every batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

NAMES = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from compress.training.processes import processes
from search.quantnas import Mode, QuantSettings, RetrainSettings, Search, SearchSettings, bitops_costs, retrain
from search.quantnas.data_split import split_by_picture
from workloads.super_resolution.format import Color, SRFormat
from workloads.super_resolution.models.searched import Genotype, load_space
from workloads.super_resolution.training_data import PatchDataset

"""

JOB = (
    NAMES
    + """
space = load_space("basic").resized(width=6, cells=1)
data = PatchDataset([Path(sys.argv[1])], SRFormat(4, Color.RGB, 1.0), 12, 2**62, 0)
settings = SearchSettings(
    epochs=2, warm_up=0, steps_per_epoch=3, batch=2, patch=12, alpha_rate=0.05, penalty=0.1, adq=False,
    quant=QuantSettings(mode=Mode.DIRECT), budget=3e8, dual_rate=0.1,
)
training = RetrainSettings(epochs=1, steps_per_epoch=4, batch=2, patch=12, rate=1e-3)
with processes() as group:
    job = Search(space, bitops_costs(space), split_by_picture(data, 0.7, 777), settings, group)
    found = job.run()
    genotype = Genotype.uniform(space, "simple_3x3", 4)
    made = retrain(genotype, data, training, score=lambda network: 0.0, processes=group)
    if group.first:
        tensors = {f"logits.{n}": p.detach() for n, p in job.net.logits.items()}
        tensors |= {f"net.{n}": p for n, p in made.network.state_dict().items()}
        save_file({n: t.contiguous() for n, t in tensors.items()}, sys.argv[2], {"genotype": found.genotype.to_json()})
"""
)


SAMPLED = (
    NAMES
    + """
from search.quantnas.projection import Projection

space = load_space("basic").resized(width=6, cells=1)
data = PatchDataset([Path(sys.argv[1])], SRFormat(4, Color.RGB, 1.0), 12, 2**62, 0)
logits = {}
with processes() as group:
    for kind in (Projection.MASKED, Projection.GUMBEL_HARD):
        settings = SearchSettings(
            epochs=2, warm_up=0, steps_per_epoch=3, batch=2, patch=12, alpha_rate=0.05, projection=kind, adq=False,
        )
        job = Search(space, bitops_costs(space), split_by_picture(data, 0.7, 777), settings, group)
        job.run()
        logits |= {f"{kind.value}.{n}": p.detach().contiguous() for n, p in job.net.named_parameters()}
    save_file(logits, f"{sys.argv[2]}.{group.rank}")
"""
)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run_job(code: str, folder: Path, data: Path, end: Path, *launcher: str) -> None:
    """Run a job on the pictures of Set5 in one process, or in those of a launcher; it writes to `end`."""
    script = folder / "job.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(data / "sr" / "test" / "Set5"), str(end)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_sampled_choices_are_the_same_in_all_processes_though_their_noise_is_not(data: Path, tmp_path: Path) -> None:
    """What is not chosen has no gradient, and processes that average different gradients stop or diverge."""
    run_job(SAMPLED, tmp_path, data, tmp_path / "end", *TORCHRUN)
    first, second = (load_file(f"{tmp_path / 'end'}.{rank}") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(float(value.abs().max()) > 0.01 for name, value in first.items() if ".logits." in name)


def test_two_processes_find_and_train_what_one_does(data: Path, tmp_path: Path) -> None:
    ends = []
    for name, launcher in (("one", ()), ("two", TORCHRUN)):
        run_job(JOB, tmp_path, data, tmp_path / f"{name}.safetensors", *launcher)
        ends.append(load_file(tmp_path / f"{name}.safetensors"))
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], rtol=1e-3, atol=1e-4), name
    assert max(float(value.abs().max()) for name, value in ends[0].items() if name.startswith("logits")) > 0.1
