"""A certificate of our own making, for whoever has none: it shows the way, and no reader trusts it.

The leaf hangs below an authority whose key is thrown away at once: a C2PA reader takes no certificate that has signed
itself. Made once for each home; files and folder are this user's alone.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import shutil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from worker.errors import MarkingBroken

FOLDER, CERTIFICATE, KEY, AUTHORITY = "signing", "certificate.pem", "key.pem", "authority.pem"
DAYS = 3650


def make_self_made(folder: Path) -> None:
    """Make an authority, a leaf and its key, whole or not at all; of several processes, the first is right.

    Raises: MarkingBroken.
    """
    beside = folder.with_name(f".{folder.name}-{secrets.token_hex(6)}")
    authority_pem, chain_pem, key_pem = _pair()
    try:
        beside.mkdir(mode=0o700, parents=True)
        for name, data in ((AUTHORITY, authority_pem), (CERTIFICATE, chain_pem), (KEY, key_pem)):
            descriptor = os.open(beside / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        os.rename(beside, folder)
    except OSError as error:
        if not folder.is_dir():
            raise MarkingBroken(f"no certificate can be made in {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _pair() -> tuple[bytes, bytes, bytes]:
    """The authority's certificate, the leaf's with it, and the leaf's key, each in PEM."""
    above, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, subject = _subject("Portraits self-made authority"), _subject("Portraits self-made signer")
    authority = (
        _dated(issuer, issuer, above.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .sign(above, hashes.SHA256())
    )
    leaf = (
        _dated(subject, issuer, own.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        # What C2PA readers ask of a signer's certificate.
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False)
        .sign(above, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return authority.public_bytes(pem), leaf.public_bytes(pem) + authority.public_bytes(pem), key


def _subject(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Portraits (self-made, not trusted)"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _dated(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + dt.timedelta(days=DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    """To sign pictures, or certificates."""
    names = (
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    )
    none = dict.fromkeys(names, False)
    return x509.KeyUsage(digital_signature=signs, key_cert_sign=not signs, crl_sign=not signs, **none)
