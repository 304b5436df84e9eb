"""`bitwright compress --sparsity N:M --recover STEPS --sparsity-method NAME`: masks are trained by that method."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import get_args

import pytest
import torch
from rich.console import Console

from bitwright.cli.bars import LineReporter
from bitwright.foundation.errors import UsageError
from bitwright.foundation.progress import reporting_to
from bitwright.report.mask_chart import TITLES, training_charts
from bitwright.report.pruned import MaskTrainingResult
from bitwright.report.schema import Report
from bitwright.runs.folder import RunFolder
from bitwright.runs.job import Job
from bitwright.runs.mask_rules import RESTRICTED, SEARCHES
from bitwright.runs.mask_training import mask_result, mask_settings
from bitwright.runs.patterns import LONGEST
from bitwright.runs.pruning import sparse
from bitwright.runs.recovery import RECOVERED, recovered, settings_of
from bitwright.runs.request import CompressRequest, SparsityMethod
from bitwright.runs.stages import nearest, reconstructed
from compress.compressed import CompressedModel
from compress.graph import tensor
from compress.nm_pattern import Sparsity
from compress.sparsity import METHODS, Phases
from compress.sparsity.diagnostics_plot import PANELS
from compress.sparsity.legality import check
from compress.sparsity.one_shot import sparse_weights
from compress.sparsity.step_adam import BETAS, averaging_steps
from tests.bitwright.job_helpers import compress, some_photos, tiny_checkpoint, tiny_request

METHOD = ("--sparsity", "1:8", "--recover", "24", "--sparsity-method", "mdgf_exponential")


def pruned_by(data: Path, folder: Path, **more: object) -> tuple[dict[str, torch.Tensor], MaskTrainingResult | None]:
    """(weights behind the stage of pruning, what is told of the training)."""
    folder.mkdir()
    given = tiny_request(data, folder, sparsity="1:4", **more)
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        sparse(job)
        nearest(job)
        wanted = sparse_weights(job.graph, job.table, job.first_plan().sparse_layers)
        assert wanted
        weights = {name: tensor(job.balanced, name).detach().clone() for name in wanted}
        assert all(check(weights[name], pattern, layout).holds for name, (pattern, layout) in wanted.items())
        return weights, mask_result(job)


def test_the_method_that_is_asked_for_is_the_one_that_trains(data: Path, tmp_path: Path) -> None:
    at_once, nothing = pruned_by(data, tmp_path / "one_shot", recover=24)
    assert nothing is None
    found = {}
    for method in ("ste", "mdgf_exponential"):
        folder = tmp_path / method
        found[method], told = pruned_by(data, folder, recover=24, sparsity_method=method, sparsity_rate=1e-3)
        assert told is not None
        assert (told.method, told.steps) == (method, 12)
        assert set(told.curves) == set(PANELS)
        assert told.after >= told.before
        assert told.best_step > 0
        moved = [name for name, value in found[method].items() if not torch.equal(value, at_once[name])]
        assert moved
    assert any(not torch.equal(v, found["ste"][n]) for n, v in found["mdgf_exponential"].items())


def test_a_training_that_harms_does_not_replace_the_better_network(data: Path, tmp_path: Path) -> None:
    """A rate that destroys all weights leaves the trained network at masks by magnitude, which lose more."""
    at_once, _ = pruned_by(data, tmp_path / "one_shot", recover=24)
    kept, told = pruned_by(data, tmp_path / "ste", recover=24, sparsity_method="ste", sparsity_rate=1.0)
    assert told is not None
    assert told.untrained_drop is not None
    assert told.trained_drop is not None
    assert told.trained_drop > told.untrained_drop
    assert told.left_out
    for name, value in at_once.items():
        assert torch.equal(value, kept[name]), name


def test_masks_that_are_taken_at_once_are_trained_under_where_a_share_is_given(data: Path, tmp_path: Path) -> None:
    at_once, _ = pruned_by(data, tmp_path / "at_once", recover=24)
    trained, told = pruned_by(data, tmp_path / "trained", recover=24, sparsity_share=0.5, sparsity_rate=1e-3)
    assert told is not None
    assert (told.method, told.steps) == ("one_shot", 12)
    assert told.after > told.before
    for name, value in at_once.items():
        assert torch.equal(value == 0, trained[name] == 0), name
    assert any(not torch.equal(value, trained[name]) for name, value in at_once.items())


def test_recovery_trains_in_8_bits_under_the_trained_mask(data: Path, tmp_path: Path) -> None:
    given = tiny_request(data, tmp_path, sparsity="2:4", recover=20, sparsity_method="sr_ste", sparsity_share=0.3,
                    sparsity_freeze_v="auto", sparsity_restrict="grad", sparsity_rate=1e-3)  # fmt: skip
    with RunFolder.open(given) as run:
        job = Job.open(given, run)
        asked, left = mask_settings(job), settings_of(job)
        assert asked is not None
        assert left is not None
        assert (asked[0].steps, left.steps) == (6, 14)
        assert (asked[1].freeze_v_at, asked[1].method) == ("auto", "sr_ste")
        log = StringIO()
        with reporting_to(LineReporter(Console(file=log, width=200))):
            sparse(job)
        assert "sparsity_freeze_v=auto changed nothing: it freezes after 2000 steps" in log.getvalue()
        for stage in (nearest, reconstructed, recovered):
            stage(job)
        assert run.values("recovered")["steps"] == 14
        model = CompressedModel.load(run.path / RECOVERED, job.graph)
        for name in sparse_weights(job.graph, job.table, job.first_plan().sparse_layers):
            masked = tensor(job.balanced, name) == 0
            assert 0.5 <= float(masked.double().mean()) < 0.6
            assert not model.weights[name].integers[masked].any()


@pytest.mark.engine
def test_a_whole_job_reports_its_mask_training(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, photos, out = tiny_checkpoint(tmp_path, width=16), some_photos(data, tmp_path / "photos"), tmp_path / "run"
    ended = compress(capsys, net, photos, out, *METHOD, "--set", "sparsity_rate=0.001", "--no-reconstruct")
    assert ended.code == 0, ended.err
    report = Report.from_json((out / "report.json").read_bytes())
    assert report.sparsity is not None
    training = report.sparsity.training
    assert training is not None
    assert (training.method, training.steps) == ("mdgf_exponential", 12)
    page = (out / "report.html").read_text()
    assert "Training of masks" in page
    assert all(title in page for title in TITLES.values() if len(training.at_steps) > 1)
    assert page.count('class="curve"') == len(training_charts(training))
    assert "--sparsity-method mdgf_exponential" in " ".join(report.command)


def test_every_method_that_ends_in_a_mask_can_be_asked_for() -> None:
    assert set(get_args(SparsityMethod)) == set(METHODS) - {"dense"}
    assert set(TITLES) == set(PANELS)
    at_once = {n for n, m in METHODS.items() if m.at(100, Phases(1000), Sparsity(n=1, m=8), 8).restricted}
    assert set(RESTRICTED) == at_once - {"one_shot"}
    assert set(LONGEST) == set(SEARCHES)
    earliest = f"after {2 * averaging_steps(BETAS[1])} steps or more"
    assert earliest in str(CompressRequest.model_fields["sparsity_freeze_v"].description)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sparsity_method": "ste"}, "give --sparsity too"),
        ({"sparsity": "2:4", "sparsity_method": "ste"}, "give it --recover STEPS"),
        ({"sparsity": "2:4", "recover": 1, "sparsity_method": "ste"}, "at least 2"),
        ({"sparsity": "2:4", "recover": 9, "sparsity_dense": 0.9}, "leave no step to prune in"),
        (
            {"sparsity": "2:4", "recover": 9, "sparsity_dense": 0.1},
            "one_shot starts from its own",
        ),
        (
            {"sparsity": "2:4", "recover": 9, "sparsity_method": "sr_ste", "sparsity_restrict": "update"},
            "sr_ste restricts nothing",
        ),
        ({"sparsity": "2:4", "sparsity_search_steps": 9}, "2:4 is not searched for"),
        ({"sparsity_search_steps": 9}, "give --sparsity too"),
        ({"sparsity_except": "body"}, "give --sparsity too"),
        ({"sparsity": "2:4", "recover": 9, "sparsity_method": "magic"}, "--sparsity-method"),
        ({"sparsity": "2:4", "recover": 9, "sparsity_method": "dense"}, "--sparsity-method"),
        ({"sparsity": "2:4", "recover": 9, "sparsity_period": 11}, "--sparsity-period"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(
    data: Path, tmp_path: Path, more: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        tiny_request(data, tmp_path, **more)


def test_settings_survive_a_recipe(data: Path, tmp_path: Path) -> None:
    from bitwright.recipes import load_recipe, save_recipe

    more = {"sparsity_method": "sdgf_geometric", "sparsity_share": 0.7, "sparsity_freeze_v": 30}
    given = tiny_request(data, tmp_path, sparsity="1:8", recover=100, **more)
    save_recipe(tmp_path / "recipe.yaml", given)
    again = CompressRequest.model_validate(load_recipe(tmp_path / "recipe.yaml").settings)
    assert again == given
    assert (again.mask_share, again.mask_steps) == (0.7, 70)
