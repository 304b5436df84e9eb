"""The plan that travels in an exported file's metadata."""

from __future__ import annotations

import onnx
from pydantic import ValidationError

from bitwright.foundation.errors import UsageError
from compress.plan import Plan

PLAN_KEY = "bitwright.plan"


def plan_of(file: onnx.ModelProto) -> Plan | None:
    """The plan in a file; None in a file that has none, UsageError for one that does not follow the schema."""
    text = next((entry.value for entry in file.metadata_props if entry.key == PLAN_KEY), None)
    if text is None:
        return None
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(
            f"the plan in the ONNX file is damaged: {error.errors()[0]['msg']}; export it again"
        ) from error
