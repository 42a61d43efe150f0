"""Certificate and key to sign with: the operator's own, or self-made ones that readers do not trust."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import NameOID

from jobs.settings import Settings
from worker.errors import MarkingBroken
from worker.marking.self_made import CERTIFICATE, FOLDER, KEY, make_self_made

MAX_BYTES = 256 * 1024
SELF_MADE = "self-made certificate: readers will say that it is not trusted"
_ECDSA = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Credentials:
    """A certificate with its issuers after it, and its private key; `algorithm` is C2PA's name for its signatures."""

    chain_pem: bytes
    key_pem: bytes
    algorithm: str
    name: str
    not_before: dt.datetime
    not_after: dt.datetime
    is_self_made: bool

    def __repr__(self) -> str:
        """Without the key."""
        return f"Credentials({self.name!r}, {self.algorithm}, until {self.not_after:%Y-%m-%d})"

    def check_time(self) -> None:
        """Raises MarkingBroken where the certificate is not valid now."""
        now = dt.datetime.now(dt.UTC)
        if not self.not_before <= now <= self.not_after:
            span = f"{self.not_before:%Y-%m-%d %H:%M} to {self.not_after:%Y-%m-%d %H:%M} UTC"
            raise MarkingBroken(
                f"the certificate of {self.name} is valid from {span} and it is {now:%Y-%m-%d %H:%M}; renew it "
                "(PORTRAITS_SIGN_CERTIFICATE), workers find the new file by themselves"
            )


def load_credentials(settings: Settings) -> Credentials:
    """The configured certificate and key, else the self-made ones, which are made where they are not there yet.

    Raises: MarkingBroken, which names the files and what is wrong with them.
    """
    certificate, key = settings.sign_certificate, settings.sign_key
    if (certificate is None) != (key is None):
        missing = "PORTRAITS_SIGN_KEY" if key is None else "PORTRAITS_SIGN_CERTIFICATE"
        raise MarkingBroken(f"a certificate and its key are wanted, {missing} is not set; set both, or neither")
    if certificate is None or key is None:
        folder = settings.home / FOLDER
        if not folder.is_dir():
            make_self_made(folder)
        return _credentials(folder / CERTIFICATE, folder / KEY, is_self_made=True)
    return _credentials(certificate.expanduser(), key.expanduser(), is_self_made=False)


def _credentials(certificate: Path, key: Path, *, is_self_made: bool) -> Credentials:
    chain_pem, key_pem = _read(certificate), _read(key)
    leaf, own = _leaf(chain_pem, certificate), _private_key(key_pem, key)
    if leaf.public_key() != own.public_key():
        raise MarkingBroken(f"the key in {key} is not that of the first certificate in {certificate}; wanted a pair")
    found = Credentials(
        chain_pem=chain_pem,
        key_pem=key_pem,
        algorithm=_algorithm(own, key),
        name=_name(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        is_self_made=is_self_made,
    )
    found.check_time()
    return found


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise MarkingBroken(f"{file} cannot be read ({error.strerror}); wanted a PEM file of this user") from None
    if len(data) > MAX_BYTES:
        raise MarkingBroken(f"{file} has more than {MAX_BYTES} bytes; wanted a PEM file")
    return data


def _leaf(chain_pem: bytes, file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(chain_pem)[0]
    except ValueError:
        raise MarkingBroken(f"{file} holds no certificate in PEM; wanted the signer's, its issuers after it") from None


def _private_key(key_pem: bytes, file: Path) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(key_pem, password=None)
    except TypeError:
        raise MarkingBroken(
            f"the key in {file} has a password; wanted PKCS8 without one, readable by this user only"
        ) from None
    except ValueError:
        raise MarkingBroken(f"{file} holds no private key in PEM; wanted PKCS8") from None


def _algorithm(key: PrivateKeyTypes, file: Path) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _ECDSA:
        return _ECDSA[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    raise MarkingBroken(
        f"the key in {file} is none that C2PA signs with; wanted P-256, P-384 or P-521, Ed25519, or RSA of 2048 bits"
    )


def _name(certificate: x509.Certificate) -> str:
    """Its common name, else its whole subject."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else certificate.subject.rfc4514_string()
