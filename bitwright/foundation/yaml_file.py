"""YAML files that hold one mapping, written by people: whatever is wrong with one is said in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from bitwright.foundation.errors import UsageError

_LARGEST_FILE_BYTES = 1 << 20


_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0b[01_]+|0[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$",
    "tag:yaml.org,2002:float": r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$",
}
"""As in YAML 1.1, but none to the base of 60, where the pattern 2:4 would be 124; and 1e-3 is one, as in YAML 1.2."""


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, where YAML's own loader silently keeps the last; see _NUMBERS."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in seen:
                problem = f"the key {key.value!r} is given twice, first in line {seen[name]}"
                raise ComposerError(None, None, problem, key.start_mark)
            seen[name] = line
        return node


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _NUMBERS]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _StrictLoader.add_implicit_resolver(_tag, re.compile(_pattern), list("-+0123456789."))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text without tags; yaml.YAMLError where it has none, or a key is given twice."""
    # The loader is a subclass of SafeLoader: it makes plain values only.
    return yaml.load(text, Loader=_StrictLoader)


def read_mapping(path: Path, what: str, of: str, error: type[UsageError]) -> dict[str, Any]:
    """The mapping in a YAML file of at most 1 MiB, its keys as text.

    `what` the file should be, with its article, and the `of` that it maps name it in `error`, which is raised with one
    line for a file that cannot be read, is too large, is not YAML (with the line), or holds no mapping.
    """
    name = what.partition(" ")[2]
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise error(f"{path}: larger than {_LARGEST_FILE_BYTES >> 20} MiB; this is not {what}")
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"cannot read the {name} {path}: {reason.strerror or reason}") from reason
    except yaml.MarkedYAMLError as reason:
        line = f" line {reason.problem_mark.line + 1}:" if reason.problem_mark else ""
        raise error(f"{path}:{line} not valid YAML: {reason.problem or reason.context}") from reason
    except (yaml.YAMLError, ValueError, RecursionError) as reason:
        raise error(f"{path}: not valid YAML: {' '.join(str(reason).split())}") from reason
    if not isinstance(data, dict):
        raise error(f"{path}: {what} is a mapping of {of}, this file holds a {type(data).__name__}")
    return {str(key): value for key, value in data.items()}
