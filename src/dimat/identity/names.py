"""Names in certificates: which agent of which run, or which observer, a certificate is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from cryptography import x509

from dimat.errors import ConfigError, check_whole, quoted, shown
from dimat.files import read_regular
from dimat.identity.refused import Refused
from dimat.plain_yaml import load_yaml

OBSERVER = "observer"  # what names.yaml says of a certificate that is no agent's
_RUN = "[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"  # a label of a DNS name, of 40 letters at most
_URI = re.compile(rf"dimat://({_RUN})/(?:agents/(0|[1-9][0-9]{{0,8}})|observers/({_RUN}))")
_SCHEME = "dimat://"
_DOMAIN = ".dimat"


def check_name(setting: str, name: object) -> None:
    """Refuse a name of a run, or of an observer, that could not stand in a certificate.

    Raises:
        ConfigError: If so.

    >>> check_name("run", "St. Mary")
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: 'run' is 'St. Mary': must be 1 to 40 of a-z, 0-9 and '-', with no '-'
    at either end
    """
    if not isinstance(name, str) or re.fullmatch(_RUN, name) is None:
        raise ConfigError(
            f"'{setting}' is {quoted(name)}: must be 1 to 40 of a-z, 0-9 and '-', with no '-' at "
            "either end"
        )


def server_name(run: str, agent: int) -> str:
    """DNS name in an agent's certificate, which TLS compares when another agent connects to it.

    Raises:
        ConfigError: If the run's name, or the agent's number, cannot stand in a certificate.

    >>> server_name("hospitals", 3)
    'agent-3.hospitals.dimat'
    """
    check_name("run", run)
    check_whole("agent", agent, least=0)
    return f"agent-{agent}.{run}{_DOMAIN}"


def whose(agent: int | None, observer: str | None) -> str:
    """The holder of a certificate in words: an agent, or else an observer."""
    return f"observer {observer}" if agent is None else f"agent {agent}"


def alternative_names(run: str, agent: int | None, observer: str | None) -> list[x509.GeneralName]:
    """Names of an agent, or else of an observer, as its certificate bears them."""
    if agent is not None:
        dns = server_name(run, agent)
        uri = x509.UniformResourceIdentifier(f"{_SCHEME}{run}/agents/{agent}")
        return [uri, x509.DNSName(dns)]
    check_name("run", run)
    check_name("observer", observer)
    return [x509.UniformResourceIdentifier(f"{_SCHEME}{run}/observers/{observer}")]


def uris(extensions: x509.Extensions) -> list[str]:
    """URIs among the alternative names of a certificate, or of a request for one."""
    return _alternative(extensions, x509.UniformResourceIdentifier)


def dns_names(extensions: x509.Extensions) -> list[str]:
    """DNS names among the alternative names of a certificate, or of a request, in lower case."""
    return [name.lower() for name in _alternative(extensions, x509.DNSName)]


def claimed(extensions: x509.Extensions) -> list[str]:
    """Names that only dimat gives: its URIs, and the DNS names of its agents."""
    own = [uri for uri in uris(extensions) if uri.lower().startswith(_SCHEME)]
    return own + [name for name in dns_names(extensions) if name.endswith(_DOMAIN)]


def role(certificate: x509.Certificate) -> tuple[str, int | None, str | None]:
    """Run, and the agent or else the observer, that a certificate of dimat's own CA is for.

    Raises:
        Refused: If it is for none, or for several.
    """
    own = [uri for uri in uris(certificate.extensions) if uri.lower().startswith(_SCHEME)]
    found = [_URI.fullmatch(uri) for uri in own]
    if len(found) != 1 or found[0] is None:
        said = shown(", ".join(own)) if own else "nobody"
        raise Refused(
            "other-agent", f"its certificate names {said}: it must name one agent of one run"
        )
    run, agent, observer = found[0].groups()
    return run, None if agent is None else int(agent), observer


def mapped(certificate: x509.Certificate, names: Mapping[str, int | None]) -> int | None:
    """Agent, or None for an observer, that ``names.yaml`` says a certificate is of.

    Raises:
        Refused: If it says nothing of it, or names several.
    """
    # A subject has a "=", a URI has a "://", a DNS name neither: none can be taken for another.
    borne = {certificate.subject.rfc4514_string()}
    borne |= {name for name in dns_names(certificate.extensions) if "=" not in name}
    borne |= {uri for uri in uris(certificate.extensions) if "://" in uri}
    found = {names[name] for name in borne & set(names)}
    if len(found) != 1:
        said = shown(", ".join(sorted(borne)))
        rule = "several agents" if found else "no agent"
        raise Refused("other-agent", f"names.yaml has {rule} for its certificate, of {said}")
    return found.pop()


def read_names(path: Path) -> dict[str, int | None]:
    """The mapping file of a consortium that has a CA of its own; empty if there is no file.

    Raises:
        ConfigError: If the file cannot be read, or has no mapping of names to agents.
    """
    rule = "must have lines such as 'node3.hospital.org: 3', or 'ops.hospital.org: observer'"
    try:
        names = load_yaml(read_regular(path).decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}; {rule}") from error
    if not isinstance(names, dict) or not names:
        raise ConfigError(f"{path} names no agent: {rule}")
    found: dict[str, int | None] = {}
    for name, agent in names.items():
        if not isinstance(name, str):
            raise ConfigError(f"{path} has the name {quoted(name)}: {rule}")
        if agent != OBSERVER and (type(agent) is not int or agent < 0):
            raise ConfigError(f"{path} says that '{shown(name)}' is {quoted(agent)}: {rule}")
        key = name if "=" in name or "://" in name else name.lower()
        if key in found:
            raise ConfigError(f"{path} has '{shown(name)}' twice: keep one")
        found[key] = None if agent == OBSERVER else agent
    return found


def _alternative(
    extensions: x509.Extensions, kind: type[x509.DNSName] | type[x509.UniformResourceIdentifier]
) -> list[str]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name) for name in names.get_values_for_type(kind)]
