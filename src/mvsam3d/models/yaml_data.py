"""YAML of strangers -> plain values: dicts, lists, strings, numbers, booleans, None. Nothing else is ever made of it.

The text is parsed to nodes and the nodes are turned into values here, so that no tag builds an object, an alias costs what it unfolds to
(and that is bounded), and a key that stands twice is an error.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from mvsam3d.errors import CheckpointMismatch

LARGEST_FILE = 1 << 18  # bytes; the largest public one has 10 kB
MOST_VALUES = 20_000  # once aliases are unfolded; the public pipeline has 300
DEEPEST = 40  # levels; the public generator has 11

Plain = dict[str, Any] | list[Any] | str | int | float | bool | None

_STANDARD = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INT = re.compile(r"[-+]?\d[\d_]*")
_TRUE, _FALSE = {"true", "True", "TRUE", "yes", "Yes", "on"}, {"false", "False", "FALSE", "no", "No", "off"}
_NULL = {"", "~", "null", "Null", "NULL"}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises: CheckpointMismatch: not a file, too large, not YAML, a tag, an interpolation, a key twice, or more values than any config has.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise CheckpointMismatch(f"{path} has {size:,} bytes, more than any config of the model: it is not one")
        content = path.read_bytes()
    except OSError as problem:
        raise CheckpointMismatch(f"{path} cannot be read: {problem.strerror}") from problem
    try:
        value = parse_yaml(content.decode())
    except (ValueError, yaml.YAMLError, RecursionError) as problem:
        raise CheckpointMismatch(f"{path} cannot be used as a config: {_told(problem)}") from problem
    if not isinstance(value, dict):
        raise CheckpointMismatch(
            f"{path} holds a {type(value).__name__} instead of keys and values: copy the file again"
        )
    return value


def parse_yaml(text: str) -> Plain:
    """The value of a YAML text. Raises: ValueError, yaml.YAMLError, RecursionError."""
    nesting = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # before `compose`, which recurses
        nesting += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if nesting > DEEPEST:
            raise ValueError(f"values within values more than {DEEPEST} levels deep")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return None if node is None else _Values().of(node, 0)


class _Values:
    """Turns nodes into values and counts them."""

    def __init__(self) -> None:
        self._made = 0

    def of(self, node: yaml.Node, depth: int) -> Plain:
        self._made += 1
        line = _line(node)
        if self._made > MOST_VALUES:
            raise ValueError(f"{line}: more than {MOST_VALUES:,} values once its aliases are unfolded")
        if depth > DEEPEST:
            raise ValueError(f"{line}: values within values more than {DEEPEST} levels deep, or one that holds itself")
        if not node.tag.startswith(_STANDARD):
            raise ValueError(f"{line}: the tag {node.tag!r} asks for an object, and only plain values are taken")
        if isinstance(node, yaml.SequenceNode):
            if node.tag != _STANDARD + "seq":
                raise ValueError(f"{line}: the tag {node.tag!r} is not taken, only plain lists")
            return [self.of(child, depth + 1) for child in node.value]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth, line)
        assert isinstance(node, yaml.ScalarNode)
        return _scalar(node, line)

    def _mapping(self, node: yaml.MappingNode, depth: int, line: str) -> dict[str, Any]:
        if node.tag != _STANDARD + "map":
            raise ValueError(f"{line}: the tag {node.tag!r} is not taken, only plain mappings")
        values: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _STANDARD + "merge":
                raise ValueError(f"{line}: a key that is no plain text")
            if key.value in values:
                raise ValueError(f"{_line(key)}: the key {key.value!r} stands twice")
            values[key.value] = self.of(child, depth + 1)
        return values


def _line(node: yaml.Node) -> str:
    return "a value" if node.start_mark is None else f"line {node.start_mark.line + 1}"


def _scalar(node: yaml.ScalarNode, line: str) -> Plain:
    text: str = node.value
    if "${" in text:
        raise ValueError(f"{line}: {text[:60]!r} refers to another value; write the value itself")
    kind = node.tag.removeprefix(_STANDARD)
    if kind not in ("null", "bool", "int", "float", "str", "timestamp", "value"):
        raise ValueError(f"{line}: the tag {node.tag!r} is not taken, only plain values")
    if node.style is not None or kind in ("timestamp", "value"):
        return text
    match kind:
        case "null" if text in _NULL:
            return None
        case "bool" if text in _TRUE | _FALSE:
            return text in _TRUE
        case "int" if _INT.fullmatch(text) and len(text) < 20:
            return int(text)
        case "str" | "float" if (
            _FLOAT.fullmatch(text) and len(text) < 40
        ):  # 1e-5 is text to PyYAML, a number to the public system
            return _number(text)
        case "str":
            return text
    raise ValueError(f"{line}: {text[:60]!r} is no {kind} that is taken here")


def _number(text: str) -> float:
    special = {"inf": math.inf, "nan": math.nan}.get(text.lstrip("+-.").lower())
    value = float(text.replace("_", "")) if special is None else special
    return -value if special is not None and text.startswith("-") else value


def _told(problem: Exception) -> str:
    if isinstance(problem, RecursionError):
        return "values within values too deep"
    if isinstance(problem, yaml.MarkedYAMLError) and problem.problem_mark is not None:
        return f"line {problem.problem_mark.line + 1}: {problem.problem}"
    return str(problem).splitlines()[0] if str(problem) else type(problem).__name__
