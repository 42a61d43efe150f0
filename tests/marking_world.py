"""Certificates, keys and pictures to mark and to read back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from jobs.settings import Settings

RECORD: dict[str, Any] = {
    "software": "hyperlora-portraits",
    "job": "job-id-of-ada",
    "final_prompt": "PROMPT OF ADA",
    "negative_prompt": "",
    "steps": 20,
    "scheduler": "euler",
    "guidance": 5.0,
    "seed": 7,
    "width": 64,
    "height": 48,
    "model_fingerprint": "a" * 64,
    "weight_set_fingerprint": "b" * 64,
    "lora_weight": 0.8,
    "profile": "released",
}
KEYS: dict[str, Callable[[], Any]] = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
}


def settings(home: Path, **changes: Any) -> Settings:
    """Settings with everything in `home`."""
    return Settings(home=home, **changes)


def picture(width: int = 64, height: int = 48, seed: int = 1) -> Image.Image:
    """Soft blobs with some noise, as photos are."""
    noise = np.random.default_rng(seed)
    small = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    soft = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(soft + noise.integers(-12, 13, soft.shape), 0, 255).astype(np.uint8))


def write_pair(
    folder: Path, kind: str = "es256", *, valid_days: tuple[float, float] = (-1, 30), name: str = "Studio Ada"
) -> tuple[Path, Path, Path]:
    """An operator's own certificate below an authority: files of chain, key and authority."""
    folder.mkdir(parents=True, exist_ok=True)
    above, own = ec.generate_private_key(ec.SECP256R1()), KEYS[kind]()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of Ada")])
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Ada Ltd"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )

    def certificate(who: x509.Name, key: Any, days: tuple[float, float], ca: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        usage = {"digital_signature": not ca, "key_cert_sign": ca, "crl_sign": ca}
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        builder = (
            x509.CertificateBuilder(issuer, who, key, x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca, 0 if ca else None), critical=True)
            .add_extension(
                x509.KeyUsage(**usage, **dict.fromkeys(others, False), encipher_only=False, decipher_only=False),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False)
        )
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        return builder.sign(above, hashes.SHA256())

    root = certificate(issuer, above.public_key(), (-400, 400), True)
    leaf = certificate(subject, own.public_key(), valid_days, False)
    pem = serialization.Encoding.PEM
    files = folder / "chain.pem", folder / "key.pem", folder / "root.pem"
    files[0].write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
    files[1].write_bytes(own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    files[2].write_bytes(root.public_bytes(pem))
    return files
