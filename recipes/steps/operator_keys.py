"""``keys:operator``: a development certificate for whoever may exchange a workload, made on first use.

Images pin ``operator.pem``. A real operator brings a certificate under the same name and keeps its key.
"""

from __future__ import annotations

from .keys import FOLDER, checked, write_key
from .task import Task, guarded

KEY, CERTIFICATE = FOLDER / "operator.key", FOLDER / "operator.pem"


def task() -> Task:
    """The doit task. It has no ``clean``: keys are never removed by a build."""
    return {
        "basename": "keys",
        "name": "operator",
        "doc": "make an operator's development certificate in keys/, once",
        "targets": [str(CERTIFICATE)],
        "uptodate": [checked((CERTIFICATE,))],
        "actions": [(guarded, [make])],
        "verbosity": 2,
    }


def make() -> None:
    """Makes what is missing; of a certificate that a person brought the key is not here, nor needed.

    Raises:
        FormatError: the key does not parse.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from ..formats import tls_certificates as tls

    FOLDER.mkdir(exist_ok=True)
    if CERTIFICATE.exists():
        return
    if not KEY.exists():
        write_key(KEY, tls.make_key(), 0o600)
    key = tls.load_key(KEY.read_bytes(), f"keys/{KEY.name}")
    certificate = tls.make_client(key, "Goldsmith development operator")
    write_key(CERTIFICATE, certificate.public_bytes(Encoding.PEM), 0o644)
