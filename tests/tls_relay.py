"""TLS in front of any server: a relay with certificates of a CA that is made for the test."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CHUNK = 65_536


@dataclass(frozen=True)
class Authority:
    """A CA's certificate, a certificate of it for 127.0.0.1, and that one's key, each a PEM file."""

    ca: Path
    certificate: Path
    key: Path


def make_authority(folder: Path, host: str = "127.0.0.1") -> Authority:
    """A CA of its own, and one certificate for `host`, both for a day."""
    folder.mkdir(parents=True, exist_ok=True)
    own, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Portraits test CA")])
    basic = x509.BasicConstraints(ca=True, path_length=0)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = _builder(name, name, own).add_extension(basic, True).add_extension(usage, True).sign(own, hashes.SHA256())
    mine = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    builder = _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]), name, server)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own.public_key()), False)
    leaf = builder.add_extension(mine, False).sign(own, hashes.SHA256())
    made = Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    none = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    made.key.write_bytes(server.private_bytes(serialization.Encoding.PEM, form, none))
    return made


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(days=1))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)


@contextmanager
def tls_in_front_of(host: str, port: int, authority: Authority) -> Iterator[int]:
    """Listen with TLS on a free port of 127.0.0.1 and pass everything on; yields the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, context, (host, port)), daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, context: ssl.SSLContext, target: tuple[str, int]) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(plain, context, target), daemon=True).start()


def _serve(plain: socket.socket, context: ssl.SSLContext, target: tuple[str, int]) -> None:
    """One connection: a client that does not trust the certificate ends it."""
    try:
        client = context.wrap_socket(plain, server_side=True)
    except OSError:
        plain.close()
        return
    with suppress(OSError), client, socket.create_connection(target) as server:
        back = threading.Thread(target=_pass, args=(server, client), daemon=True)
        back.start()
        _pass(client, server)
        back.join()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
