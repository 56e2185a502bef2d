"""What TLS itself makes of the certificates: handshakes of gRPC over a real connection."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from tests.fork_server import LONG_S, ROOT
from tests.identity.making import RUN, Made, make, make_ca, names, place

from dimat.errors import ConfigError
from dimat.identity import Identity, Refused, require_tls13
from dimat.identity.tls import VARIABLE


@pytest.fixture(scope="session")
def ca() -> Made:
    return make_ca()


def identity(folder: Path, ca: Made, agent: int) -> Identity:
    return Identity.load(place(folder, make(ca, alternative=names(agent)), ca), RUN, agent)


class Introduced(grpc.GenericRpcHandler):
    """Answers who it is that asks, as its certificate says."""

    def __init__(self, own: Identity) -> None:
        self._own = own

    def service(self, details: object) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        shown = context.auth_context()["x509_pem_cert"][0]
        try:
            return repr(self._own.role_of(shown)).encode()
        except Refused as error:
            return error.cause.encode()


@contextmanager
def served(own: Identity) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([Introduced(own)])
    credentials = grpc.ssl_server_credentials([(own.key, own.chain)], own.roots, True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def asked(address: str, name: str, *credentials: bytes | None) -> str:
    """What the agent of a name answers; or the status if TLS comes to nothing."""
    options = [("grpc.ssl_target_name_override", name)]
    given = grpc.ssl_channel_credentials(*credentials)
    with grpc.secure_channel(address, given, options) as channel:
        try:
            return bytes(channel.unary_unary("/dimat/who")(b"", timeout=LONG_S)).decode()
        except grpc.RpcError as error:
            return str(error.code().name)


def test_an_agent_talks_to_the_one_it_means_and_to_no_other_of_the_same_ca(
    tmp_path: Path, ca: Made
) -> None:
    two, three = (identity(tmp_path / str(agent), ca, agent) for agent in (2, 3))
    mine = two.roots, two.key, two.chain
    with served(three) as address:
        assert asked(address, two.target_name(3), *mine) == f"('{RUN}', 2)"
        assert asked(address, two.target_name(4), *mine) == "UNAVAILABLE"
        assert asked(address, "agent-3.banks.dimat", *mine) == "UNAVAILABLE"


def test_who_shows_no_certificate_or_another_cas_is_not_talked_to(tmp_path: Path, ca: Made) -> None:
    two, three = (identity(tmp_path / str(agent), ca, agent) for agent in (2, 3))
    other = make(make_ca(), alternative=names(2))
    name = two.target_name(3)
    with served(three) as address:
        assert asked(address, name, two.roots) == "UNAVAILABLE"
        assert asked(address, name, two.roots, other.key_pem, other.pem) == "UNAVAILABLE"
        assert asked(address, name, other.pem, two.key, two.chain) == "UNAVAILABLE"
        assert asked(address, name, two.roots, two.key, two.chain) == f"('{RUN}', 2)"


def test_whom_tls_lets_in_as_of_the_same_ca_the_identity_may_still_refuse(
    tmp_path: Path, ca: Made
) -> None:
    """TLS knows nothing of runs."""
    three = identity(tmp_path, ca, 3)
    other = make(ca, alternative=names(2, run="banks"))
    with served(three) as address:
        found = asked(address, three.target_name(3), ca.pem, other.key_pem, other.pem)
    assert found == "other-run"


def test_a_ca_below_another_is_trusted_if_it_is_the_one_that_is_named(
    tmp_path: Path,
) -> None:
    """What gRPC makes of the CA that issues alone, the identity makes of it too."""
    between = make_ca(make_ca(path_length=1), "CN=between")
    two, three = (identity(tmp_path / str(agent), between, agent) for agent in (2, 3))
    with served(three) as address:
        found = asked(address, two.target_name(3), two.roots, two.key, two.chain)
    assert found == f"('{RUN}', 2)"


# The first argument says whether TLS 1.3 is required; printed are the versions that were agreed on,
# of a server and of a client of gRPC with one of Python that has a single version.
VERSIONS = """
import os, socket, ssl, sys, threading
from pathlib import Path
folder, required = Path(sys.argv[1]), sys.argv[2] == "required"
from dimat.identity import Identity, require_tls13
if required:
    require_tls13()
import grpc
from tests.identity.test_tls import asked, served

own = Identity.load(folder)
name = own.target_name(own.agent)

def context(kind, version):
    made = ssl.SSLContext(kind)
    made.load_verify_locations(folder / "ca.pem")
    made.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    made.minimum_version = made.maximum_version = version
    made.set_alpn_protocols(["h2"])
    return made

def agreed(connect):
    try:
        with connect() as connection:
            return connection.version()
    except (ssl.SSLError, OSError):
        return "none"

versions = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
with served(own) as address:
    host, port = address.split(":")
    for version in versions:
        client = context(ssl.PROTOCOL_TLS_CLIENT, version)
        print("server", agreed(lambda: client.wrap_socket(
            socket.create_connection((host, int(port))), server_hostname=name)))
for version in versions:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server, found = context(ssl.PROTOCOL_TLS_SERVER, version), []
        def accept():
            one = listening.accept()[0]
            found.append(agreed(lambda: server.wrap_socket(one, server_side=True)))
        thread = threading.Thread(target=accept)
        thread.start()
        asked(f"127.0.0.1:{listening.getsockname()[1]}", name, own.roots, own.key, own.chain)
        thread.join()
        print("client", *found)
"""


@pytest.mark.parametrize(
    ("required", "old"), [("required", "none"), ("as it is", "TLSv1.2")], ids=["required", "not"]
)
def test_tls_13_alone_is_spoken_once_it_is_required(
    required: str, old: str, tmp_path: Path, ca: Made
) -> None:
    identity(tmp_path, ca, 3)
    command = [sys.executable, "-c", VERSIONS, str(tmp_path), required]
    own = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=LONG_S, env=own
    )
    assert done.returncode == 0, done.stderr
    expected = ["server", old, "server", "TLSv1.3", "client", old, "client", "TLSv1.3"]
    assert done.stdout.split() == expected


def test_after_grpc_was_imported_it_is_too_late_to_require_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GRPC_SSL_CIPHER_SUITES", raising=False)
    with pytest.raises(ConfigError, match="'grpc' was imported before .*set GRPC_SSL_CIPHER_S"):
        require_tls13()
    monkeypatch.setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-CHACHA20-POLY1305")
    require_tls13()
