from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from recipes.errors import SpecError
from recipes.formats import tls_certificates as tls
from recipes.formats.tree import FileTree
from recipes.steps import attest, operator_keys


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without keys."""
    monkeypatch.setattr(attest, "ROOT", tmp_path)
    for name, place in (
        ("FOLDER", "keys"),
        ("KEY", "keys/operator.key"),
        ("CERTIFICATE", "keys/operator.pem"),
    ):
        monkeypatch.setattr(operator_keys, name, tmp_path / place)
    return tmp_path


def settings(root: Path, port: int = 8000) -> attest.Attested:
    return attest.Attested(port=port, operators=root / "keys/operator.pem")


def test_the_certificate_is_made_once_and_vouches_for_itself_alone(root: Path) -> None:
    operator_keys.make()
    certificate = x509.load_pem_x509_certificate((root / "keys/operator.pem").read_bytes())
    assert certificate.issuer == certificate.subject
    certificate.verify_directly_issued_by(certificate)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert (root / "keys/operator.key").stat().st_mode & 0o777 == 0o600
    before = (root / "keys/operator.pem").read_bytes()
    operator_keys.make()
    assert (root / "keys/operator.pem").read_bytes() == before


def test_a_certificate_that_a_person_brought_needs_no_key(root: Path) -> None:
    (root / "keys").mkdir()
    (root / "keys/operator.pem").write_text("theirs")
    operator_keys.make()
    assert sorted(path.name for path in (root / "keys").iterdir()) == ["operator.pem"]


def test_settings_are_files_of_the_root(root: Path) -> None:
    operator_keys.make()
    tree = FileTree()
    attest.add_settings(tree, settings(root, 7999))
    port = tree["usr/lib/systemd/system/attest.socket.d/port.conf"]
    assert port.read() == b"[Socket]\nListenStream=7999\n"
    operators = tree["usr/lib/goldsmith/attest-operators.pem"]
    assert operators.read() == (root / "keys/operator.pem").read_bytes()


def test_without_operators_there_is_no_file(root: Path) -> None:
    tree = FileTree()
    attest.add_settings(tree, attest.Attested(port=8000, operators=None))
    assert "usr/lib/goldsmith/attest-operators.pem" not in tree


WHERE = "attest.operators: keys/operator.pem"
REMEDY = "give the one CA certificate that vouches for operators, in PEM"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, f"{WHERE}: no such file or directory; put the file there"),
        (tls.make_key(), f"{WHERE}: this is a private key; name the certificate"),
        (
            b"",
            f"{WHERE}: 0 PEM blocks, expected one certificate and nothing else; {REMEDY}",
        ),
    ],
)
def test_what_is_no_certificate(root: Path, data: bytes | None, message: str) -> None:
    (root / "keys").mkdir()
    if data is not None:
        (root / "keys/operator.pem").write_bytes(data)
    with pytest.raises(SpecError) as error:
        attest.add_settings(FileTree(), settings(root))
    assert str(error.value) == message
