"""``dimat certificates``: the way of an administrator, from an empty folder to one revoked."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dimat.cli import main
from dimat.identity import Identity, Refused

Said = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """What a command prints, if it goes well; what it complains of, if it ends with a code."""

    def run(words: str, code: int = 0) -> str:
        assert main(["certificates", *words.split()]) == code, capsys.readouterr()
        out, err = capsys.readouterr()
        assert (err == "") == (code == 0)
        return out if code == 0 else err

    return run


def fingerprints(text: str) -> list[str]:
    return re.findall(r"(?:[0-9a-f]{4}:){15}[0-9a-f]{4}", text)


def test_from_an_empty_folder_to_agents_that_know_each_other_and_back(said: Said) -> None:
    of_ca = fingerprints(said("init --run hospitals --out ca"))
    asked = said("request --run hospitals --agent 3 --out site-3")
    assert fingerprints(asked) == fingerprints(said("show site-3/request.pem"))
    said("request --run hospitals --agent 4 --out site-4")
    signed = said("sign site-3/request.pem --ca ca --agent 3 --out site-3")
    assert fingerprints(signed) == fingerprints(asked) != of_ca
    said("sign site-4/request.pem --ca ca --agent 4 --days 30 --out site-4/certificate.pem")
    assert "ca.pem is missing" in said("show site-4", 1)
    shutil.copy("ca/ca.pem", "site-4")

    shown = said("show site-3")
    assert fingerprints(shown) == fingerprints(asked) + of_ca
    assert "for agent 3 of run 'hospitals'" in shown
    assert re.findall(r"agent (\d):.*good until", said("show ca")) == ["3", "4"]
    three, four = Identity.load(Path("site-3"), "hospitals", 3), Identity.load(Path("site-4"))
    three.check_peer(four.chain, 4)

    told = said("revoke --ca ca --agent 4")
    assert re.findall(r"serial (\w+), of agent 4", told) == re.findall(
        r"serial:\s+(\w+)", said("show site-4/certificate.pem")
    )
    assert "revoked on" in said("show ca")
    for site in ("site-3", "site-4"):
        shutil.copy("ca/revoked.pem", site)
    with pytest.raises(Refused) as caught:
        three.check_peer(four.chain, 4)
    assert caught.value.cause == "revoked"
    assert "was revoked on" in said("show site-4", 1)
    assert "none in site-3/revoked.pem is its own" in said("show site-3")
    assert "number 1" in said("show ca/revoked.pem")
    assert "revoked before" in said("revoke --ca ca --agent 4")
    assert stat.S_IMODE(Path("site-3/key.pem").stat().st_mode) == 0o600


def test_a_certificate_that_is_renewed_is_for_the_same_key_beside_the_old_one(said: Said) -> None:
    said("init --run r --out ca")
    said("request --run r --agent 0 --out site")
    said("sign site/request.pem --ca ca --agent 0 --out site")
    old = re.findall(r"serial:\s+(\w+)", said("show site/certificate.pem"))
    assert "exists" in said("sign site/request.pem --ca ca --agent 0 --out site", 2)
    assert said("show ca").count("agent 0:") == 1
    again = said("sign site/request.pem --ca ca --agent 0 --days 700 --out site --overwrite")
    assert f"also good:   serial {old[0]} of agent 0" in again
    said(f"revoke --ca ca --serial {old[0]}")
    shutil.copy("ca/revoked.pem", "site")
    assert "for agent 0 of run 'r'" in said("show site")


def test_a_key_whose_certificate_was_revoked_gets_no_other(said: Said) -> None:
    said("init --run r --out ca")
    said("request --run r --agent 0 --out site")
    said("sign site/request.pem --ca ca --agent 0 --out old")
    said("revoke --ca ca --agent 0")
    refused = said("sign site/request.pem --ca ca --agent 0 --out new", 2)
    assert re.search(r"the request's key is that of serial \w+ of agent 0, which was rev", refused)
    assert "a new request, by 'dimat certificates request' into a new folder" in refused
    assert not Path("new").exists()
    assert said("show ca").count("agent 0:") == 1
    said("request --run r --agent 0 --out again")
    said("sign again/request.pem --ca ca --agent 0 --out new")
    shutil.copy("new/certificate.pem", "again")
    shutil.copy("new/ca.pem", "again")
    shutil.copy("new/revoked.pem", "again")
    assert "for agent 0 of run 'r'" in said("show again")


def test_a_ledger_of_before_keys_were_in_it_is_read(said: Said) -> None:
    said("init --run r --out ca")
    said("request --run r --agent 0 --out site")
    said("sign site/request.pem --ca ca --agent 0 --out site")
    ledger = json.loads(Path("ca/issued.json").read_text())
    del ledger["issued"][0]["key"]
    Path("ca/issued.json").write_text(json.dumps(ledger))
    said("revoke --ca ca --agent 0")
    assert "revoked on" in said("show ca")


def test_an_observer_has_a_name_instead_of_a_number(said: Said) -> None:
    said("init --run r --out ca")
    said("request --run r --observer ops --out ops")
    said("sign ops/request.pem --ca ca --observer ops --out ops")
    assert "for an observer of run 'r'" in said("show ops")
    assert "observer ops:" in said("show ca")
    assert "of observer ops" in said("revoke --ca ca --observer ops")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no command: one of init, request, sign, show, revoke"),
        ("shw", "unknown command 'shw': did you mean 'show'?"),
        ("init --out ca", "'run' is missing"),
        ("init --run St.Mary --out ca", "'run' is 'St.Mary': must be 1 to 40 of a-z, 0-9 and '-'"),
        ("init --run r --out ca --days 0", "'days' is 0: must be >= 1"),
        ("request --run r --out s", "for whom? Say --agent N, or --observer NAME"),
        ("request --run r --agent 1 --observer x --out s", "for whom?"),
        ("request --run r --agent -1 --out s", "'agent' is -1: must be >= 0"),
        ("request --run r --agent one --out s", "'agent' is 'one': must be a whole number"),
        ("request --run r --agnt 1 --out s", "unknown setting 'agnt': did you mean 'agent'?"),
        ("request --run r --observer A --out s", "'observer' is 'A': must be 1 to 40"),
        ("sign r.pem --ca ca --agent 1 --out s", "key.pem is missing: 'dimat certificates init"),
        ("revoke --ca ca --agent 1", "key.pem is missing: 'dimat certificates init"),
        ("show nothing", "nothing is missing: name a folder or a file"),
        ("show .", "is a folder of no agent (certificate.pem) and of no CA (issued.json)"),
    ],
)
def test_what_cannot_be_done_is_said(words: str, message: str, said: Said) -> None:
    assert message in said(words, 2)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----", "-----BEGIN X509 CRL-----"])
def test_a_file_of_something_else_cannot_be_shown(text: str, said: Said) -> None:
    Path("file.pem").write_text(text)
    assert "file.pem has no" in said("show file.pem", 2)


def test_the_request_of_another_is_not_signed(said: Said) -> None:
    said("init --run r --out ca")
    said("request --run r --agent 1 --out site")
    assert "not for agent 2 of run 'r'" in said(
        "sign site/request.pem --ca ca --agent 2 --out out", 2
    )
    assert "the request says dimat://r/agents/1" in said(
        "sign site/request.pem --ca ca --out out", 2
    )
    assert not Path("out").exists()


@pytest.mark.parametrize("action", ["init", "request", "sign", "show", "revoke"])
def test_each_action_has_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["certificates", action, "--help"])
    assert caught.value.code == 0
    assert f"usage: dimat certificates {action} " in capsys.readouterr().out
