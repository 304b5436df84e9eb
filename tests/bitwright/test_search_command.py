"""`bitwright search quantnas` from flags to a network that compression takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from bitwright.cli.app import run
from bitwright.foundation.errors import UsageError
from bitwright.runs import compress, quantnas
from bitwright.runs.quantnas_bench import Bench
from bitwright.runs.quantnas_request import QuantnasRequest, assigned, quantity
from bitwright.runs.quantnas_result import QuantnasPoint
from compress.graph import capture, layer_nodes
from compress.training.processes import Processes
from search.quantnas import Mode
from workloads.loading import load_checkpoint
from workloads.super_resolution.models.searched import Genotype

X86 = "x86-avx512-vnni-bf16"


def _request(data: Path, tmp_path: Path, **changes: object) -> QuantnasRequest:
    given: dict[str, object] = {"data": data / "sr" / "test" / "Set5", "out": tmp_path / "run", "preset": "smoke"}
    return QuantnasRequest.model_validate(given | changes)


def test_smoke_run_meets_its_budgets_resumes_and_is_loaded_as_any_checkpoint(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", "quantnas", "--preset", "smoke", "--data", str(data / "sr" / "test" / "Set5"), "--width", "6",
             "--out", str(tmp_path / "run"), "--budget", "120M", "--budget", "200M", "--json", "--set", "batch=2",
             "--set", "retrain.epochs=1"]  # fmt: skip
    assert run(words) == 0
    result = json.loads(capsys.readouterr().out)
    for point, budget in zip(result["points"], (120e6, 200e6), strict=True):
        assert point["budget"] == budget
        assert point["cost"] == point["bitops"]["32x32"] <= budget
        folder = tmp_path / "run" / point["name"]
        genotype = Genotype.load(folder / "genotype.json")
        assert {genotype.layers[name].bits for name in genotype.search_space().wiring.ends} == {8}
        loaded = load_checkpoint(folder / "network.safetensors")
        assert loaded.architecture == "searched-basic"
        assert loaded.parameters == point["parameters"]
        graph = capture(loaded.module, loaded.workload.example_input(16, 16))
        convs = sum(len(genotype.operation_at(s).convs) for s in genotype.search_space().wiring.sites)
        assert len(list(layer_nodes(graph))) == convs
        assert len((folder / "history.jsonl").read_text().splitlines()) == 8
        for picture in ("alphas.png", "architecture.png", "architecture.svg"):
            assert (folder / picture).stat().st_size > 5000
    assert (tmp_path / "run" / "front.png").is_file()
    assert run(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert run([*words, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert run([*words, "--resume", "--set", "epochs=3"]) == 2
    assert "another search_settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--budget", "1k"], "cheapest costs"),
        (["--budget", "five"], "is no cost"),
        (["--budget", "1G", "--penalty", "0.1"], "give one of them"),
        (["--space", "rfdm"], "did you mean rfdn"),
        (["--cost", "latency"], "needs a --device"),
        (
            ["--device", X86],
            "no multiple of 16, and x86-avx512-vnni-bf16 would be slow for that alone: give --width 48",
        ),
        (["--device", X86, "--width", "48", "--bits", "3"], "3-bit"),
        (["--set", "epoch=3"], "did you mean epochs"),
        (["--set", "quant.mode=loud"], "'noise', 'direct'"),
        (["--set", "epochs=0"], "at least 1"),
        (["--set", "alpha_rate=-1"], "alpha_rate must be positive, not -1"),
        (["--set", "weight_rate=0"], "weight_rate must be positive"),
        (["--set", "clip=0"], "search: clip must be positive"),
        (["--set", "weight_decay=-1"], "weight_decay must not be negative"),
        (["--set", "alpha_betas=[0.5, 1.0]"], "alpha_betas are at least 0 and below 1"),
        (["--set", "retrain.clip=0"], "retraining: clip must be positive"),
        (["--set", "retrain.rate=-1"], "retraining: rate must be positive"),
        (["--budget", "1G", "--budget", "1000M"], "--budget has one value twice"),
        (["--preset", "paper-b", "--input-size", "14x14"], "at least 15 pixels"),
        (["--bits", "four"], "such as 4,8"),
        (["--preset", "smoke-2"], "did you mean smoke"),
        (["--compress"], "--compress needs"),
        (["--bitops-weight", "1"], "adds BitOps to a latency"),
        (["--bitops-exponent", "3"], "--bitops-exponent is 2"),
        (["--fixed-bits", "9"], "9 is not a bit width"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    words = ["search", "quantnas", "--data", str(data / "sr" / "test" / "Set5"), "--out", str(tmp_path / "run")]
    if "--preset" not in flags:
        words += ["--preset", "smoke"]
    assert run([*words, *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert says in error


def test_latency_searches_only_widths_that_the_device_gains_from(data: Path, tmp_path: Path) -> None:
    bench = Bench.open(_request(data, tmp_path, device=X86, width=48))
    assert bench.space.bits == (8,)
    assert bench.table.unit == "ms"
    assert any("of (4, 8)" in remark for remark in bench.notes)
    asked = Bench.open(_request(data, tmp_path, device=X86, width=48, bits=(4, 8)))
    assert asked.space.bits == (4, 8)
    assert any("run as int8: smaller, not faster" in remark for remark in asked.notes)
    both = Bench.open(_request(data, tmp_path, device=X86, width=48, bitops_weight=0.5))
    assert both.table.unit == "ms and BitOps"
    assert both.table.uniform() == pytest.approx(1.5 * bench.table.uniform())
    halved = Bench.open(_request(data, tmp_path, bitops_exponent=1))
    four, eight = halved.table.costs["tail.0"][0].tolist()
    assert eight == 2 * four
    plain = Bench.open(_request(data, tmp_path, preset="paper-b", bits=(32,), fixed_bits=32, width=12, cells=1))
    assert plain.space.fixed_bits == 32
    counted = Bench.open(_request(data, tmp_path, device=X86, cost="bitops"))
    assert counted.table.unit == "BitOps"
    assert counted.runs_as == {4: "int8", 8: "int8"}


def test_compression_begins_when_the_processes_have_parted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the group the others would wait for the first one as long as a barrier lets them."""
    seen = []

    @contextmanager
    def group() -> Iterator[Processes]:
        yield Processes(0, 1, torch.device("cpu"))
        seen.append("parted")

    def found(*_: object) -> QuantnasPoint:
        return QuantnasPoint(
            name="p", budget=None, penalty=0.1, cost=1.0, corrected=0, bitops={}, parameters=1, held_out=30.0,
            evaluated=None, search_seconds=1.0, genotype="g", network="n",
        )  # fmt: skip

    monkeypatch.setattr(quantnas, "processes", group)
    monkeypatch.setattr(quantnas, "carry_out", found)
    monkeypatch.setattr(compress, "compress", lambda *_, **__: seen.append("compressed"))
    request = _request(data, tmp_path, device=X86, cost="bitops", compress=True)
    quantnas.search(request)
    assert seen == ["parted", "compressed"]
    assert (request.out / quantnas.RESULT).is_file()


def test_counted_widths_need_no_rule_of_the_device_and_the_report_says_what_they_run_as(
    data: Path, tmp_path: Path
) -> None:
    counted = Bench.open(_request(data, tmp_path, device=X86, cost="bitops", bits=(3, 8)))
    assert counted.space.bits == (3, 8)
    assert counted.runs_as == {3: "int8", 8: "int8"}
    told = [remark for remark in counted.notes if "-bit" in remark]
    assert told == [f"on {X86} with openvino, 3-bit layers run as int8: smaller, not faster than 8 bit"]
    several = Bench.open(_request(data, tmp_path, device=X86, cost="bitops", bits=(3, 4, 5, 8)))
    assert [remark for remark in several.notes if "-bit" in remark] == [told[0].replace("3-bit", "3, 4, 5-bit")]
    with pytest.raises(UsageError, match=r"3-bit .* count --cost bitops"):
        Bench.open(_request(data, tmp_path, device=X86, width=48, bits=(3, 8)))


@pytest.mark.parametrize("device", [None, X86])
def test_the_layers_at_the_picture_have_8_bits_unless_others_are_asked_for(
    data: Path, tmp_path: Path, device: str | None
) -> None:
    for asked, widths in ({}, (8,)), ({"end_bits": 0}, (4, 8)):
        space = Bench.open(_request(data, tmp_path, device=device, cost="bitops", preset="paper-b", **asked)).space
        assert {s.bits for s in space.wiring.sites if s.name in ("upsample.0", "tail.0")} == {widths}
        assert {s.bits for s in space.wiring.sites if s.name not in ("upsample.0", "tail.0")} == {(4, 8)}


def test_settings_by_name() -> None:
    made = assigned(["epochs=17", "quant.mode=direct", "retrain.rate=0.5"])
    assert made == {
        "search_settings": {"epochs": 17}, "quant_settings": {"mode": "direct"}, "retrain_settings": {"rate": 0.5},
    }  # fmt: skip
    request = QuantnasRequest.model_validate({"data": ".", "out": "x", "preset": "paper-b", **made})
    assert request.search().epochs == 17
    assert request.search().quant.mode is Mode.DIRECT
    assert request.search(budget=3.0).budget == 3.0
    assert request.retraining().rate == 0.5
    assert request.points() == (("penalty-1e-05", None, 1e-5),)
    near = request.model_copy(update={"budgets": (12345670.0, 12345671.0, 1e9)})
    assert [name for name, _, _ in near.points()] == ["budget-12345670.0", "budget-12345671.0", "budget-1e+09"]
    assert quantity("4.6G") == 4.6e9
    with pytest.raises(UsageError, match="none of quant, retrain"):
        assigned(["deploy.x=1"])
