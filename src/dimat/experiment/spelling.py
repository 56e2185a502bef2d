"""Names of settings as people write them: dashes for underscores, a group for what it is known by.

``--pretrain-epochs 3`` is ``--pretrain_epochs 3``, and ``--topology ring`` is ``--topology.name
ring``; in files too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dimat.errors import ConfigError

KNOWN_BY = {
    "topology": "topology.name",
    "data": "data.source",
    "optimizer": "optimizer.name",
    "merging": "merging.combine",
}


def spelled(name: str, known: Collection[str]) -> str:
    """The one of the names that are ``known`` that is meant; the name as it is if there is none.

    >>> spelled("pretrain-epochs", ["pretrain_epochs"]), spelled("batch_size", ["batch-size"])
    ('pretrain_epochs', 'batch-size')
    >>> spelled("topology", ["topology", "topology.name"]), spelled("rnig", ["ring"])
    ('topology.name', 'rnig')
    """
    if KNOWN_BY.get(name) in known:
        return KNOWN_BY[name]
    if name in known:
        return name
    return next((k for k in known if k.replace("-", "_") == name.replace("-", "_")), name)


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
        ConfigError: If two spellings of one setting are given.

    >>> spelled_tree({"batch-size": 8, "topology": "ring"}, ["batch_size", "topology.name"])
    {'batch_size': 8, 'topology': {'name': 'ring'}}
    """
    tree: dict[str, object] = {}
    names = {*known, *(name.partition(".")[0] for name in known)} - {*KNOWN_BY.values()}
    for given, value in content.items():
        name = spelled(f"{prefix}{given}", names).removeprefix(prefix)
        if isinstance(value, dict):
            value = spelled_tree(value, known, f"{prefix}{name}.")
        elif isinstance(value, str) and not prefix and KNOWN_BY.get(name) in known:
            value = {KNOWN_BY[name].rpartition(".")[2]: value}
        if name in tree:
            raise ConfigError(f"setting '{prefix}{name}' is given twice, as '{prefix}{given}' too")
        tree[name] = value
    return tree
