"""``dimat certificates``: make, show and revoke certificates of agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jsonargparse import Namespace

from dimat.errors import DimatError
from dimat.experiment.config.parse import Parser
from dimat.experiment.config.places import check_path

SUMMARY = "make, show and revoke the certificates by which agents know each other"
_HOLDER = "(--agent N | --observer NAME)"


class _Action(NamedTuple):
    """One of the actions: its usage and its summary, its options in order, and what it does."""

    usage: str
    summary: str
    options: tuple[str, ...]
    act: Callable[[Namespace], None]


def parser() -> Parser:
    """The parser of ``dimat certificates``, without its actions."""
    return Parser(
        usage="dimat certificates ACTION ...",
        description="Certificates by which the agents of a run know each other: one site holds the "
        "CA ('init'), each agent makes a key and a request ('request'), and the CA signs it "
        "('sign'). A key never leaves the folder that it is made in.",
        allow_abbrev=False,
    )


def add_actions(parser: Parser) -> dict[str, str]:
    """Add the actions, each with a parser of its own; returns how they are called, by name."""
    actions = parser.add_subcommands(dest="action")
    usages = {name: f"dimat certificates {name} {own.usage}" for name, own in _ACTIONS.items()}
    for name, action in _ACTIONS.items():
        one = Parser(
            usage=usages[name],
            description=f"{action.summary[0].upper()}{action.summary[1:]}.",
            allow_abbrev=False,
        )
        for option in action.options:
            _add(one, option)
        actions.add_subcommand(name, one, help=action.summary)
    return usages


def execute(options: Namespace) -> None:
    """Do what the action says, and print what comes next."""
    _ACTIONS[options.action].act(options[options.action])


def _add(parser: Parser, option: str) -> None:
    """Add one of the options, which mean the same in every action."""
    add = parser.add_argument
    match option:
        case "run":
            add("--run", type=str, required=True, help="name of the run: a-z, 0-9 and -")
        case "agent":
            add(
                "--agent",
                type=int | None,
                default=None,
                metavar="N",
                help="number of the agent, from 0",
            )
        case "observer":
            told = "who may ask agents for their status and nothing else, instead of an agent"
            add("--observer", type=str | None, default=None, metavar="NAME", help=told)
        case "serial":
            told = "one certificate, by its serial number as 'show' prints it"
            add("--serial", type=str | None, default=None, metavar="HEX", help=told)
        case "days" | "ca-days":
            days = 365 if option == "days" else 3650
            add("--days", type=int, default=days, help="for how long it is valid")
        case "ca":
            add("--ca", type=str, required=True, metavar="FOLDER", help="the CA's folder")
        case "out":
            add("--out", type=str, required=True, metavar="FOLDER", help="where it is written")
        case "sent":
            told = (
                "for certificate.pem, ca.pem and revoked.pem; NAME.pem: for the certificate alone"
            )
            add("--out", type=str, required=True, metavar="FOLDER", help=told)
        case "overwrite":
            add("--overwrite", action="store_true", help="replace what is there, keys too")
        case "request":
            add("request", type=str, help="the file request.pem that a site sent")
        case "place":
            add("place", type=str, help="a folder of an agent or a CA, or a file of one")


def _init(options: Namespace) -> None:
    folder = check_path("out", options.out, spare=16)
    from dimat.identity import Authority
    from dimat.identity.describe import fingerprint

    own = Authority.create(folder, options.run, options.days, overwrite=options.overwrite)
    print(f"CA of run '{own.run}', valid until {own.certificate.not_valid_after_utc:%Y-%m-%d}")
    print(f"fingerprint: {fingerprint(own.certificate)}")
    print(f"keep:        {folder / 'key.pem'}, for nobody else, and a copy of all of {folder}")
    print(f"send:        {folder / 'ca.pem'}, to every site, which compares the fingerprint")


def _request(options: Namespace) -> None:
    folder = check_path("out", options.out, spare=16)
    from dimat.identity import request
    from dimat.identity.describe import fingerprint
    from dimat.identity.names import whose

    asked = request(
        folder, options.run, options.agent, options.observer, overwrite=options.overwrite
    )
    print(f"request of {whose(options.agent, options.observer)} of run '{options.run}'")
    print(f"fingerprint: {fingerprint(asked)}")
    print(f"keep:        {folder / 'key.pem'}, here, for nobody else")
    print(f"send:        {folder / 'request.pem'}, to the CA, which compares the fingerprint")
    print(f"put here:    certificate.pem and ca.pem, as the CA sends them, into {folder}")


def _sign(options: Namespace) -> None:
    path, out = check_path("request", options.request), check_path("out", options.out, spare=32)
    from dimat.identity import Authority, storage
    from dimat.identity.describe import certificates_of, fingerprint
    from dimat.identity.names import whose

    own = Authority.load(check_path("ca", options.ca))
    asked = storage.read(path, "name the file that the agent's site sent")
    whole = out.suffix != ".pem"  # all that the site needs
    file = out / "certificate.pem" if whole else out
    if not options.overwrite:
        storage.check_free(file)
    holder = whose(options.agent, options.observer)
    others = own.good(options.agent, options.observer)
    signed = own.sign(asked, options.agent, options.observer, options.days)
    storage.write(file, signed, overwrite=options.overwrite)
    for name in ("ca.pem", "revoked.pem") if whole else ():
        if (own.folder / name).exists():
            content = storage.read(own.folder / name, "it was there before")
            storage.write(out / name, content, overwrite=True)
    certificate = certificates_of(file)[0]
    print(f"{holder} of run '{own.run}', valid until {certificate.not_valid_after_utc:%Y-%m-%d}")
    print(f"fingerprint: {fingerprint(certificate)}, the same as of the request")
    print(f"serial:      {certificate.serial_number:x}")
    print(f"send:        {out}, to the site of {holder}")
    for other in others:
        print(f"also good:   serial {other.serial} of {holder}, until {other.until[:10]}")


def _show(options: Namespace) -> None:
    path = check_path("place", options.place)
    from dimat.identity.describe import describe

    lines, problems = describe(path)
    print("\n".join(lines))
    if problems:
        raise DimatError("; ".join(problems))


def _revoke(options: Namespace) -> None:
    folder = check_path("ca", options.ca)
    from dimat.identity import Authority

    own = Authority.load(folder)
    done = own.revoke(agent=options.agent, observer=options.observer, serial=options.serial)
    for one in done:
        print(f"revoked: serial {one.serial}, of {one.holder}, valid until {one.until[:10]}")
    if not done:
        print("revoked before: the list is written anew")
    print(f"send:    {folder / 'revoked.pem'}, to every site, which puts it beside its ca.pem")


_ACTIONS = {
    "init": _Action(
        "--run NAME --out FOLDER [--days 3650] [--overwrite]",
        "make a CA: its key, and its certificate ca.pem for all sites",
        ("run", "out", "ca-days", "overwrite"),
        _init,
    ),
    "request": _Action(
        f"--run NAME {_HOLDER} --out FOLDER [--overwrite]",
        "make an agent's key, and request.pem for the CA",
        ("run", "agent", "observer", "out", "overwrite"),
        _request,
    ),
    "sign": _Action(
        f"REQUEST --ca FOLDER {_HOLDER} --out FOLDER [--days 365] [--overwrite]",
        "make a certificate of a request, as the CA, in a folder with all that the site needs",
        ("request", "ca", "agent", "observer", "days", "sent", "overwrite"),
        _sign,
    ),
    "show": _Action(
        "FOLDER | FILE",
        "print whose certificates there are, until when they are good, and what is wrong",
        ("place",),
        _show,
    ),
    "revoke": _Action(
        "--ca FOLDER (--agent N | --observer NAME | --serial HEX)",
        "revoke certificates, as the CA, and write the list revoked.pem for all sites",
        ("ca", "agent", "observer", "serial"),
        _revoke,
    ),
}
