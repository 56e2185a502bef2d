"""YAML of settings: each key once, and no deeper and no longer than anyone writes it."""

from __future__ import annotations

from itertools import chain
from typing import Any

import yaml

_DEEPEST = 20  # settings lie 2 deep, the values of a grid 4
_MOST_VALUES = 1_000_000  # 100,000 seeds are 100,000
_MERGE = "tag:yaml.org,2002:merge"  # the key <<, which may be there several times


def load_yaml(text: str) -> object:
    """Values of YAML text.

    Raises:
        yaml.YAMLError: If it is no YAML, has a key twice, or is nested so deeply, or has aliases
            that unfold to so much, that it is no file of settings; with the line.

    >>> load_yaml("agents: 5")
    {'agents': 5}
    """
    try:
        return yaml.load(text, _Loader)
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # !!int x, 2026-99-99
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which checks keys, depth and size before it makes values."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}  # values inside; what an alias stands for counts

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One value, with all that is in it."""
        mark, alias = self.get_mark(), self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _refusal(f"values more than {_DEEPEST} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and node not in self._sizes:
            raise _refusal("an alias of what it is a part of", mark)
        if node is not None and not alias:
            self._sizes[node] = 1 + sum(self._sizes[part] for part in _parts(node))
            if self._sizes[node] > _MOST_VALUES:
                raise _refusal(f"more than {_MOST_VALUES:,} values, those of aliases counted", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping, if it has each key once."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                mark = first.setdefault((key.tag, key.value), key.start_mark)
                if mark is not key.start_mark:
                    problem = f"'{key.value}' is given twice, in line {mark.line + 1} too: keep one"
                    raise _refusal(problem, key.start_mark)
        return node


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return list(chain.from_iterable(node.value))
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refusal(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, problem, mark)
