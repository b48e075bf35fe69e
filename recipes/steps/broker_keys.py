"""``keys:broker``: a CA and a server certificate for a key broker on this host, made on first use.

They are for development: images pin ``broker-ca.pem``, and the broker shows ``broker.pem``. A real broker has
a certificate of its operator's CA, whose certificate then takes the place of ``broker-ca.pem``.
"""

from __future__ import annotations

from .keys import FOLDER, checked, write_key
from .task import Task, guarded

CA_KEY, CA = FOLDER / "broker-ca.key", FOLDER / "broker-ca.pem"
SERVER_KEY, SERVER = FOLDER / "broker.key", FOLDER / "broker.pem"
PRIVATE = (CA_KEY, SERVER_KEY)
# This host's loopback, and how a guest on QEMU's user network sees it.
# Spec: QEMU 7.2 qemu-options.hx, -netdev user: the host is at .2 of 10.0.2.0/24.
HOSTS = ("localhost", "127.0.0.1", "::1", "10.0.2.2")


def task() -> Task:
    """The doit task. It has no ``clean``: keys are never removed by a build."""
    return {
        "basename": "keys",
        "name": "broker",
        "doc": "make a development CA and a broker's certificate in keys/, once",
        "targets": [str(CA)],
        "uptodate": [checked((CA,))],
        "actions": [(guarded, [make])],
        "verbosity": 2,
    }


def make() -> None:
    """Makes what is missing. Of an operator's CA only the certificate is here, and only that is needed.

    Raises:
        FormatError: a key does not parse.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from ..formats import tls_certificates as tls

    FOLDER.mkdir(exist_ok=True)
    if CA.exists() and not CA_KEY.exists():
        return
    if not CA_KEY.exists():
        write_key(CA_KEY, tls.make_key(), 0o600)
    signer = tls.load_key(CA_KEY.read_bytes(), f"keys/{CA_KEY.name}")
    if not CA.exists():
        certificate = tls.make_ca(signer, "Goldsmith development broker CA")
        write_key(CA, certificate.public_bytes(Encoding.PEM), 0o644)
    if not SERVER_KEY.exists():
        write_key(SERVER_KEY, tls.make_key(), 0o600)
    if not SERVER.exists():
        key = tls.load_key(SERVER_KEY.read_bytes(), f"keys/{SERVER_KEY.name}")
        ca = x509.load_pem_x509_certificate(CA.read_bytes())
        made = tls.make_server((signer, ca), key.public_key(), HOSTS)
        write_key(SERVER, made.public_bytes(Encoding.PEM), 0o644)
