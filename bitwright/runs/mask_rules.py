"""Which settings of pruning fit each other; what would be ignored is refused."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from bitwright.foundation.errors import UsageError
from bitwright.foundation.suggest import nearest
from bitwright.runs.options import option_name

if TYPE_CHECKING:
    from bitwright.runs.request import CompressRequest

SEARCHES = ("domino", "sls")
"""Kinds of sparsity that are found by a search that trains."""
RESTRICTED = (
    "mdgf_linear", "mdgf_exponential", "sdgf_stepwise_hard", "sdgf_geometric_hard", "sr_mdgf_exponential",
)  # fmt: skip
"""Methods that scale what a pruned weight learns; the others leave it whole."""


def check_masks(request: CompressRequest) -> None:
    """UsageError for a setting of pruning that has nothing to act on."""
    _have_something_to_prune(request)
    if request.sparsity_dense + request.sparsity_fine_tune >= 1:
        raise UsageError("--sparsity-dense and --sparsity-fine-tune leave no step to prune in; both are shares")
    if request.sparsity_dense and request.sparsity_method == "one_shot":
        raise UsageError("--sparsity-dense needs a --sparsity-method that trains masks: one_shot starts from its own")
    if request.sparsity_restrict == "update" and request.sparsity_method not in RESTRICTED:
        raise UsageError(
            f"--sparsity-restrict update: {request.sparsity_method} restricts nothing; methods that do are "
            f"{', '.join(RESTRICTED)}"
        )
    if request.mask_share and request.recover is not None and request.recover < 2:
        raise UsageError("--recover must be at least 2: masks and 8 bits are trained one after the other")


def _have_something_to_prune(request: CompressRequest) -> None:
    fields = type(request).model_fields
    changed = [n for n, f in fields.items() if n.startswith("sparsity_") and getattr(request, n) != f.default]
    if changed and request.sparsity is None:
        raise UsageError(
            f"{option_name(changed[0])} is about pruned weights; give --sparsity too, such as --sparsity 2:4"
        )
    if "sparsity_search_steps" in changed and request.sparsity not in SEARCHES:
        kinds = " and ".join(SEARCHES)
        raise UsageError(f"--sparsity-search-steps is for --sparsity {kinds}; {request.sparsity} is not searched for")
    trained = [n for n in changed if n not in {"sparsity_search_steps", "sparsity_except"}]
    if trained and request.recover is None and request.recover_minutes is None:
        raise UsageError(
            f"{option_name(trained[0])} is about training masks; give it --recover STEPS or --recover-minutes"
        )


def kept_dense(asked: str | None, layers: Sequence[str]) -> set[str]:
    """The `layers` that a list of names and globs, with commas between them, stands for; UsageError where none is."""
    found: set[str] = set()
    for word in (word.strip() for word in (asked or "").split(",")):
        named = {name for name in layers if name == word or fnmatchcase(name, word)}
        if word and not named:
            raise UsageError(f"sparsity_except: the network has no layer {word!r}; {nearest(word, layers)}")
        found |= named
    return found
