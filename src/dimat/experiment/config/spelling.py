"""Settings as people write them: dashes for underscores, a group for what it is known by, lists.

``--pretrain-epochs 3`` is ``--pretrain_epochs 3``, ``--topology ring`` is ``--topology.name ring``,
and ``--controls none`` is ``--controls []``, which zsh takes for a pattern; in files too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import get_origin

from dimat.errors import ConfigError
from dimat.experiment.config.forms import KNOWN_BY, listed
from dimat.experiment.config.messages import setting_types
from dimat.experiment.config.method_options import as_options

# As an item of a list.
_NO_TEXT = re.compile(r"((?:^\[|,) *)([0-9]+|yes|no|on|off|true|false|null)(?= *[\],])", re.I)


def spelled(name: str, known: Collection[str]) -> str:
    """The known name that a given one means; the name as it is if there is none.

    >>> spelled("pretrain-epochs", ["pretrain_epochs"]), spelled("batch_size", ["batch-size"])
    ('pretrain_epochs', 'batch-size')
    >>> spelled("topology", ["topology", "topology.name"]), spelled("rnig", ["ring"])
    ('topology.name', 'rnig')
    >>> spelled("import", ["imports"])
    'imports'
    """
    name = "imports" if name == "import" else name  # no setting in Python can be called import
    if KNOWN_BY.get(name) in known:
        return KNOWN_BY[name]
    if name in known:
        return name
    return next((k for k in known if k.replace("-", "_") == name.replace("-", "_")), name)


def bracketed(text: str) -> str:
    """A list as YAML has it: of names with commas between, or of none.

    >>> bracketed("wa,local"), bracketed("none"), bracketed("[wa]")
    ('[wa,local]', '[]', '[wa]')

    Names that YAML would read as numbers, or as true and false, as of classes, are text.

    >>> bracketed("0,1,my 3 cats"), bracketed("[0, 1]"), bracketed('["a,b", 1]')
    ('["0","1",my 3 cats]', '["0", "1"]', '["a,b", 1]')
    >>> bracketed("no,Yes,nobody")
    '["no","Yes",nobody]'
    """
    text = text if text.startswith("[") else f"[{','.join(listed(text))}]"
    return text if {'"', "'"} & {*text} else _NO_TEXT.sub(r'\1"\2"', text)


def is_list(name: str) -> bool:
    """Whether there is a setting of that name, and it is a list."""
    return get_origin(setting_types().get(name)) is tuple


def spelled_words(words: Sequence[str], known: Collection[str]) -> list[str]:
    """A command line with its options spelled as they are known.

    >>> spelled_words(["--max-wall-s=3", "--out", "a-b", "--", "--x-y"], ["max_wall_s", "x_y"])
    ['--max_wall_s=3', '--out', 'a-b', '--', '--x-y']
    """
    found, options = [], True
    for word in words:
        options = options and word != "--"
        name, equals, value = word.partition("=")
        if options and name.startswith("--"):
            word = f"--{spelled(name[2:], known)}{equals}{value}"
        found.append(word)
    return found


def spelled_tree(
    content: Mapping[str, object], known: Collection[str], prefix: str = ""
) -> dict[str, object]:
    """The settings of a file, spelled as they are known, at every depth.

    Raises:
        ConfigError: If one setting is given twice, in two spellings.

    >>> spelled_tree({"batch-size": 8, "topology": "ring"}, ["batch_size", "topology.name"])
    {'batch_size': 8, 'topology': {'name': 'ring'}}
    """
    tree: dict[str, object] = {}
    names = {*known, *(name.partition(".")[0] for name in known)} - {*KNOWN_BY.values()}
    for given, value in content.items():
        name = spelled(f"{prefix}{given}", names).removeprefix(prefix)
        if isinstance(value, dict) and is_list(f"{prefix}{name}"):
            value = list(as_options(value))
        elif isinstance(value, dict):
            value = spelled_tree(value, known, f"{prefix}{name}.")
        elif isinstance(value, str) and not prefix and KNOWN_BY.get(name) in known:
            value = {KNOWN_BY[name].rpartition(".")[2]: value}
        elif isinstance(value, str) and is_list(f"{prefix}{name}"):
            value = bracketed(value)
        elif isinstance(value, list) and is_list(f"{prefix}{name}"):
            value = [str(own) if type(own) is int else own for own in value]
            if any(isinstance(own, bool) for own in value):
                raise ConfigError(
                    f"setting '{prefix}{name}' has true or false, which YAML makes of yes, no, on "
                    f'and off too: put them in quotes, as in ["no", "yes"]'
                )
        if name in tree:
            raise ConfigError(f"setting '{prefix}{name}' is given twice, as '{prefix}{given}' too")
        tree[name] = value
    for name in tree:
        group, _, last = name.rpartition(".")
        inside = tree.get(group)
        if isinstance(inside, dict) and last in inside:
            raise ConfigError(f"setting '{name}' is given twice, in the group '{group}' too")
    return tree
