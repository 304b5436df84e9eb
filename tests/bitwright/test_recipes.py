"""Recipes: what is saved is what is replayed, and a typo is named with what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.foundation.errors import UsageError
from bitwright.foundation.yaml_file import parse_yaml
from bitwright.recipes import apply_settings, load_recipe, save_recipe
from bitwright.runs.request import CompressRequest


def test_a_saved_recipe_gives_the_same_request(tmp_path: Path) -> None:
    request = CompressRequest(
        checkpoint=tmp_path / "net.pth",
        device="x86-avx2",
        data=tmp_path / "photos",
        max_drop=0.15,
        input_size=(96, 64),
        reconstruct=False,
        range_method="mse",
    )
    save_recipe(tmp_path / "recipe.yaml", request)
    assert CompressRequest.model_validate(load_recipe(tmp_path / "recipe.yaml").settings) == request


def test_relative_paths_start_at_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("checkpoint: net.pth\ndata: ../photos\ndevice: x86-avx2\n")
    settings = load_recipe(tmp_path / "recipe.yaml").settings
    assert settings["checkpoint"] == tmp_path / "net.pth"
    assert settings["data"] == tmp_path / "../photos"
    assert settings["device"] == "x86-avx2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_dorp: 0.1\n", "unknown setting 'max_dorp'; did you mean max_drop?"),
        ("seed: [1\n", "line 2"),
        ("seed: 1\nthreads: 2\nseed: 3\n", "line 3: not valid YAML: the key 'seed' is given twice, first in line 1"),
        ("inputs: {data: a, data: b}\n", "the key 'data' is given twice"),
        ("- seed\n", "mapping of settings"),
        ("schema: 9\n", "schema 9"),
        ("inputs: {data: 3}\n", "inputs."),
        ("versions: torch\n", "versions"),
    ],
)
def test_a_bad_recipe_is_one_line_that_names_the_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the recipe"):
        load_recipe(tmp_path / "none.yaml")


def test_python_objects_in_yaml_are_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_recipe(tmp_path / "evil.yaml")
    assert not (tmp_path / "made").exists()


def test_set_puts_values_over_the_recipe() -> None:
    merged = apply_settings(
        {"seed": 1, "threads": 2}, ["seed=7", "max-drop = 0.05", "equalize=false", "input_size=[8, 9]"]
    )
    assert merged == {"seed": 7, "threads": 2, "max_drop": 0.05, "equalize": False, "input_size": (8, 9)}


@pytest.mark.parametrize(("assignment", "said"), [("seeed=1", "did you mean seed?"), ("seed", "name=value")])
def test_a_bad_set_says_what_was_meant(assignment: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply_settings({}, [assignment])
    assert said in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("2:4", "2:4"), ("1:16", "1:16"), ("12", 12), ("1e-3", 1e-3)])
def test_a_pattern_is_not_a_number_to_the_base_of_60(text: str, value: object) -> None:
    assert parse_yaml(text) == value


def test_a_pattern_needs_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("checkpoint: net.pth\ndata: photos\ndevice: x86-avx2\nsparsity: 2:4\n")
    settings = load_recipe(tmp_path / "recipe.yaml").settings
    assert CompressRequest.model_validate(settings).sparsity == "2:4"
    assert apply_settings(settings, ["sparsity=1:8"])["sparsity"] == "1:8"
