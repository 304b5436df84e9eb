"""`bitwright compress --sparsity`: pruned, quantised, trained under the mask, verified in the file, told straight."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from safetensors import safe_open

from bitwright.foundation.errors import UsageError
from bitwright.report import verdict
from bitwright.report.schema import Report
from bitwright.runs.curve_request import CurveRequest
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from bitwright.runs.pruning import sparse
from bitwright.runs.recovery import RECOVERED, recovered
from bitwright.runs.request import CompressRequest
from bitwright.runs.sparsity import PACKED
from bitwright.runs.stages import nearest, reconstructed
from compress.compressed import CompressedModel
from compress.graph import layer_nodes, tensor, weight_name
from compress.nm_pattern import Sparsity
from compress.plan import Plan
from compress.sparsity import LayerKind, WeightLayout
from compress.sparsity.legality import check
from compress.sparsity.pack_model import unpack_model
from deploy.onnx_sparsity import verify_nm
from tests.bitwright.job_helpers import DEVICE, command, compress, some_photos, tiny_checkpoint, tiny_request

CONV = WeightLayout(LayerKind.CONV)


@pytest.mark.engine
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_whole_job_keeps_the_pattern_in_every_file_and_claims_no_speed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: str
) -> None:
    net, photos, out = tiny_checkpoint(tmp_path, width=16), some_photos(data, tmp_path / "photos"), tmp_path / "run"
    more = ("--sparsity", "1:8", "--runtime", runtime, "--recover", "4", "--iterations", "4")
    ended = compress(capsys, net, photos, out, *more)
    assert ended.code == 0, ended.err
    assert "size only" in ended.out
    report = Report.from_json((out / "report.json").read_bytes())
    found = report.sparsity
    assert found is not None
    assert found.size_only
    assert found.layers == {"1:8": 1}
    assert set(found.dense.values()) == {
        "3 input channels are not divided by groups of 8",
        "last layer before the output",
    }
    assert found.packed_bytes < found.unpacked_bytes
    assert found.deflated_bytes < found.raw_bytes
    assert not found.lost
    assert any("size only" in c.text for c in verdict.checks(report))
    plan = Plan.load(out / "plan.json")
    assert {str(p) for p in plan.sparse_layers.values()} == {"1:8"}
    looked = verify_nm(out / "engine" / "model.onnx", plan.sparse_layers)
    assert looked[0].legality is not None
    assert looked[0].legality.zeros >= 7 / 8
    back = command(capsys, "unpack", out / PACKED, "--out", tmp_path / "back.safetensors")
    assert (back.code, back.out.strip()) == (0, str(tmp_path / "back.safetensors"))
    assert (tmp_path / "back.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert "size only" in (out / "report.html").read_text()


def test_reconstruction_and_recovery_move_kept_weights_only(data: Path, tmp_path: Path) -> None:
    given = tiny_request(data, tmp_path, sparsity="2:4", reconstruct=True, iterations=20, recover=30)
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        for stage in (sparse, nearest, reconstructed, recovered):
            stage(job)
        dropped = {name: run.values(name)["drop"] for name in ("sparse", "nearest", "reconstructed", "recovered")}
        assert dropped["recovered"] <= dropped["reconstructed"] <= dropped["nearest"]
        model = CompressedModel.load(run.path / RECOVERED, job.graph)
        pruned_layers = job.first_plan().sparse_layers
        assert pruned_layers
        for name, node in layer_nodes(job.graph):
            dense, masked = (tensor(g, weight_name(node)) for g in (job.teacher, job.balanced))
            assert bool((dense != 0).all())
            integers = model.weights[weight_name(node)].integers
            if name in pruned_layers:
                assert check(masked, pruned_layers[name], CONV).holds
                assert not integers[masked == 0].any()
                assert model.weights[weight_name(node)].params.zero_point.eq(0).all()


def test_auto_gives_each_layer_a_pattern_within_the_budget_of_two_of_four(data: Path, tmp_path: Path) -> None:
    net = tiny_checkpoint(tmp_path, "wide.safetensors", width=16, depth=5)
    given = CompressRequest.model_validate(
        {**tiny_request(data, tmp_path, sparsity="auto").model_dump(), "checkpoint": net, "equalize": False}
    )
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        prunable = [row for row in job.table.rows if job.prunable[row.name].pattern is not None]
        assert len(prunable) == 3
        sparse(job)
        chosen = job.first_plan().sparse_layers
        assert run.values("sparse")["patterns"] == {r.name: str(chosen[r.name]) if r.name in chosen else None
                                                    for r in job.table.rows}  # fmt: skip
        density = {r.name: chosen[r.name].density if r.name in chosen else 1.0 for r in prunable}
        kept = sum(r.weight_elements * density[r.name] for r in prunable)
        assert kept <= 0.5 * sum(r.weight_elements for r in prunable)
        assert kept > 0.4 * sum(r.weight_elements for r in prunable)
        again = Job.open(given, run)
        assert again.first_plan() == job.first_plan()
        nearest(job)
        for row in prunable:
            if row.name in chosen:
                assert check(tensor(job.balanced, row.weight), chosen[row.name], CONV).holds


@pytest.mark.parametrize("kind", ["sls", "domino"])
def test_a_search_that_trains_keeps_the_budget_and_goes_on_where_it_was_stopped(
    data: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "wide").mkdir()
    net = tiny_checkpoint(tmp_path / "wide", width=16, depth=5)
    more = {"sparsity": kind, "sparsity_search_steps": 40, "equalize": False}
    given = CompressRequest.model_validate({**tiny_request(data, tmp_path, **more).model_dump(), "checkpoint": net})
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        sparse(job)
        chosen = job.first_plan().sparse_layers
        prunable = [row for row in job.table.rows if job.prunable[row.name].pattern is not None]
        assert {pattern.m for pattern in chosen.values()} == {16}
        density = {r.name: chosen[r.name].density if r.name in chosen else 1.0 for r in prunable}
        assert sum(r.weight_elements * density[r.name] for r in prunable) <= 0.5 * sum(
            r.weight_elements for r in prunable
        )
        before = run.values("sparse")["patterns"]
        run.journal.drop("sparse")
        sparse(job)
        assert run.values("sparse")["patterns"] == before
        nearest(job)
        for row in prunable:
            if row.name in chosen:
                assert check(tensor(job.balanced, row.weight), chosen[row.name], CONV).holds


def test_a_search_for_any_pattern_is_refused_where_kernels_want_two_of_four(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    more = {"sparsity": "sls", "device": "rtx-4090"}
    given = tiny_request(data, tmp_path, width=260, **more)
    with RunFolder.open(given) as run, pytest.raises(UsageError, match="give --sparsity auto"):
        sparse(Job.open(given, run))


def test_without_sparsity_nothing_is_pruned(data: Path, tmp_path: Path) -> None:
    given = tiny_request(data, tmp_path)
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        sparse(job)
        assert run.values("sparse") == {"skipped": "not asked for"}
        assert job.first_plan().sparse_layers == {}
        nearest(job)
        assert all(bool((tensor(job.balanced, weight_name(n)) != 0).all()) for _, n in layer_nodes(job.graph))


def test_a_network_that_cannot_be_pruned_is_told_why(data: Path, tmp_path: Path) -> None:
    given = tiny_request(data, tmp_path, sparsity="1:11")
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        with pytest.raises(UsageError, match="no layer of this network can be pruned to 1:11"):
            sparse(job)


@pytest.mark.parametrize("text", ["4:4", "4:2", "half", "2:4:8"])
def test_what_is_no_pattern_is_refused_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    net, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos", 1)
    refusal = compress(capsys, net, photos, tmp_path / "run", "--sparsity", text).refusal()
    assert ("leave --sparsity out" if text == "4:4" else "2:4") in refusal


def test_the_preview_says_what_would_be_pruned(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, photos = tiny_checkpoint(tmp_path), some_photos(data, tmp_path / "photos")
    words = ("compress", net, "--device", DEVICE, "--data", photos, "--out", tmp_path / "run")
    shown = command(capsys, *words, "--sparsity", "2:4", "--dry-run")
    assert shown.code == 0, shown.err
    assert "  2:4" in shown.out
    assert "last layer before the output" in shown.out
    undecided = command(capsys, *words, "--sparsity", "auto", "--dry-run")
    assert "  auto" in undecided.out
    assert "  2:4" not in undecided.out


def test_layers_that_are_named_stay_dense(data: Path, tmp_path: Path) -> None:
    net = tiny_checkpoint(tmp_path, "wide.safetensors", width=16, depth=5)
    plain = {**tiny_request(data, tmp_path, sparsity="2:4").model_dump(), "checkpoint": net}
    runs = count()

    def decided(asked: str) -> dict[str, str]:
        given = CompressRequest.model_validate(plain | {"sparsity_except": asked, "out": tmp_path / f"run{next(runs)}"})
        with RunFolder.open(given) as run:
            found = Job.open(given, run).prunable
        return {name: decision.reason for name, decision in found.items() if decision.pattern is None}

    prunable = set(decided("")) ^ set(decided("*"))
    assert len(prunable) == 3
    one, *others = sorted(prunable)
    assert decided(one)[one] == "kept dense by request"
    assert not set(others) & set(decided(one))
    assert prunable <= set(decided(f"{others[0]}, {one[:-1]}?, {others[1]}"))
    with pytest.raises(UsageError, match=f"no layer '{one}x'; did you mean {one}"):
        decided(f"{one}x")


def test_a_curve_refuses_sparsity(data: Path, tmp_path: Path) -> None:
    given = tiny_request(data, tmp_path)
    with pytest.raises(UsageError, match="dense networks"):
        CurveRequest.model_validate({**given.model_dump(), "sparsity": "2:4"})


def test_plans_keep_patterns_and_old_files_load(tmp_path: Path) -> None:
    """A plan file of before, with a pattern in it and without."""
    old = tmp_path / "plan.json"
    old.write_text(
        '{"schema_version": 1, "architecture": "a", "device": "d", "runtime": "onnxruntime", "float_precision": "fp32",'
        ' "placement": "inputs", "layers": {"x": {"sparsity": {"n": 2, "m": 4}}, "y": {}}}'
    )
    plan = Plan.load(old)
    assert plan.sparse_layers == {"x": Sparsity(n=2, m=4)}
    plan.save(tmp_path / "again.json")
    assert Plan.load(tmp_path / "again.json") == plan
    assert plan.with_float({"x"}, "why").sparse_layers == plan.sparse_layers
    old.write_text(old.read_text().replace('"n": 2', '"n": 5'))
    with pytest.raises(UsageError, match="5:4 keeps more than there is"):
        Plan.load(old)


def test_a_saved_model_packs_and_comes_back_byte_for_byte(data: Path, tmp_path: Path) -> None:
    from compress.sparsity.one_shot import sparse_weights
    from compress.sparsity.pack_model import pack_model

    given = tiny_request(data, tmp_path, sparsity="2:4")
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        sparse(job)
        nearest(job)
        source = run.path / "work" / "nearest.safetensors"
        patterns = dict(job.first_plan().sparse_layers)
        pack_model(source, tmp_path / "packed", sparse_weights(job.graph, job.table, patterns))
        unpack_model(tmp_path / "packed", tmp_path / "back")
        with safe_open(source, framework="pt") as a, safe_open(tmp_path / "back", framework="pt") as b:
            assert a.metadata() == b.metadata()
            assert all(a.get_tensor(k).equal(b.get_tensor(k)) for k in a.keys())  # noqa: SIM118
            assert set(a.keys()) == set(b.keys())
