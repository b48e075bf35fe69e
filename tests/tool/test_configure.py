"""What we configure against the programs scripts call: systemd-sysusers, systemctl, openssl."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from recipes.formats.tree import FileTree, NodeType
from recipes.sources.configure.accounts import Accounts, add_lines, write_accounts
from recipes.sources.configure.certificates import subject_hash, write_certificates
from recipes.sources.configure.sysusers import read_lines
from recipes.sources.configure.units import enable, mask, preset_all, set_default
from tests.support import require_tool
from tests.unit.debian13 import unit_tree

pytestmark = pytest.mark.tool

SYSUSERS = {
    "basic.conf": "g adm 4 -\ng nogroup 65534 -\nu root 0 - /root /bin/bash\n"
    "u daemon 1 - /usr/sbin /usr/sbin/nologin\nu sync 4:65534 - /bin /bin/sync\n"
    "u nobody 65534:65534 - /nonexistent /usr/sbin/nologin\n",
    "b.conf": 'g journal - -\nu netd - "Network % Management"\nu late 985 "x" /var/lib/late\n',
    "c.conf": '# comment\ng input -\nm netd adm\nm extra journal\nu messagebus - "System Bus" /nonexistent\n',
}


def _lay(tree: FileTree, root: Path) -> None:
    for path, node in tree.sorted():
        if node.type is NodeType.DIRECTORY:
            (root / path).mkdir(parents=True, exist_ok=True)
        elif node.type is NodeType.SYMLINK:
            (root / path).symlink_to(node.target)
        else:
            (root / path).write_bytes(node.read())


def test_systemd_sysusers(tmp_path: Path) -> None:
    program = require_tool("systemd-sysusers")
    tree = FileTree()
    for name, text in SYSUSERS.items():
        tree.add_file(f"usr/lib/sysusers.d/{name}", text.replace(" % ", " %% ").encode())
    _lay(tree, tmp_path)
    (tmp_path / "etc").mkdir()
    subprocess.run([program, f"--root={tmp_path}"], check=True, capture_output=True)
    accounts = Accounts()
    add_lines(accounts, read_lines(tree), stable=())
    write_accounts(tree, accounts)
    for name in ("passwd", "group"):
        want = (tmp_path / "etc" / name).read_text().splitlines()
        assert sorted(tree[f"etc/{name}"].read().decode().splitlines()) == sorted(want)
    shadow = [line.split(":") for line in (tmp_path / "etc/shadow").read_text().splitlines()]
    ours = [line.split(":") for line in tree["etc/shadow"].read().decode().splitlines()]
    # systemd writes today's date as that of the last change
    assert sorted([*fields[:2], *fields[3:]] for fields in ours) == sorted(
        [*fields[:2], *fields[3:]] for fields in shadow
    )


def _links(root: Path) -> dict[str, str]:
    """Links below etc/systemd/system; systemctl writes /lib or /usr/lib, which are the same directory."""
    found = {}
    for path in sorted(root.glob("etc/systemd/system/**/*")):
        if path.is_symlink():
            target = path.readlink().as_posix()
            found[str(path.relative_to(root))] = f"/usr{target}" if target.startswith("/lib/") else target
    return found


def test_systemctl(tmp_path: Path) -> None:
    systemctl = require_tool("systemctl")
    tree = unit_tree()
    _lay(tree, tmp_path)
    (tmp_path / "lib").symlink_to("usr/lib")
    names = ["serial-getty@ttyS0.service", "systemd-networkd.service"]
    masks = ["fstrim.timer", "systemd-pstore.service"]
    commands = (["preset-all"], ["mask", *masks], ["enable", *names], ["set-default", "multi-user.target"])
    for command in commands:
        argv = [systemctl, f"--root={tmp_path}", "--quiet", *command]
        subprocess.run(argv, check=True, capture_output=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
    preset_all(tree)
    mask(tree, masks)
    enable(tree, names)
    set_default(tree, "multi-user.target")
    ours = {path: node.target for path, node in tree.nodes.items() if path.startswith("etc/") and node.target}
    theirs = _links(tmp_path)
    # systemctl leaves the links that want a masked unit; they have no effect
    theirs = {
        path: target
        for path, target in theirs.items()
        if not (path.endswith(tuple(masks)) and ".wants/" in path)
    }
    assert ours == theirs


NAMES = (
    [(NameOID.COMMON_NAME, "  Mixed   Case\tROOT ", _ASN1Type.UTF8String)],
    [
        (NameOID.COUNTRY_NAME, "DE", _ASN1Type.PrintableString),
        (NameOID.COMMON_NAME, "Straße ÄÖ", _ASN1Type.UTF8String),
    ],
    [
        (NameOID.COMMON_NAME, "Wide Œ", _ASN1Type.BMPString),
        (NameOID.EMAIL_ADDRESS, "A@B.c", _ASN1Type.IA5String),
    ],
)


def _certificate(attributes: list[tuple[x509.ObjectIdentifier, str, _ASN1Type]], serial: int) -> bytes:
    key = ec.derive_private_key(7 + serial, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(oid, value, kind) for oid, value, kind in attributes])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(serial).not_valid_before(start).not_valid_after(start + timedelta(days=9))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("attributes", NAMES)
def test_subject_hash(tmp_path: Path, attributes: list[tuple[x509.ObjectIdentifier, str, _ASN1Type]]) -> None:
    openssl = require_tool("openssl")
    pem = _certificate(attributes, 1)
    (tmp_path / "c.pem").write_bytes(pem)
    argv = [openssl, "x509", "-noout", "-subject_hash", "-in", str(tmp_path / "c.pem")]
    output = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    assert subject_hash(der, "c") == output.strip()


def test_openssl_rehash(tmp_path: Path) -> None:
    openssl = require_tool("openssl")
    tree = FileTree()
    files = {
        "one": _certificate(NAMES[1], 1),
        "two": _certificate(NAMES[1], 2),
        "other": _certificate(NAMES[2], 3),
    }
    files["twin"] = files["other"]
    files["pair"] = files["one"] + files["other"]
    for name, data in files.items():
        tree.add_file(f"usr/share/ca-certificates/{name}.crt", data)
        (tmp_path / f"{name}.pem").write_bytes(data)
    write_certificates(tree)
    subprocess.run([openssl, "rehash", tmp_path], capture_output=True)  # complains about `pair` and `twin`
    theirs = {path.name: path.readlink().name for path in tmp_path.iterdir() if path.is_symlink()}
    ours = {
        path.rpartition("/")[2]: node.target
        for path, node in tree.nodes.items()
        if path.startswith("etc/ssl/certs/") and node.target and not node.target.startswith("/")
    }
    assert ours == theirs
    assert len(ours) == 3
