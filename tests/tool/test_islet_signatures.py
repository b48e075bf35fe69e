"""Keys and signatures of Islet's kind, judged by OpenSSL, and OpenSSL's judged by us."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from recipes.errors import FormatError
from recipes.formats.islet_metadata import RealmManifest, RimAlgorithm, read, sign
from recipes.formats.p384 import Signature, SigningKey
from recipes.formats.p384_files import read_image_key, read_metadata_key, read_public_key
from tests.support import VECTORS, require_tool

pytestmark = pytest.mark.tool

KEY = SigningKey.from_scalar(0x123456789ABCDEF, "key")
CONFIG = b'{"architecture":"arm64","os":"linux"}'
MANIFEST = RealmManifest(
    realm_id="com.company.realm",
    version=(1, 0, 0),
    svn=1,
    rim=bytes(range(32)),
    algorithm=RimAlgorithm.SHA256,
)


def openssl(*words: str | Path, status: int = 0) -> str:
    argv = [require_tool("openssl"), *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def verify(folder: Path, key: bytes, signature: bytes, data: bytes, status: int = 0) -> str:
    paths = folder / "key.pub", folder / "data.sig", folder / "data"
    for path, content in zip(paths, (key, signature, data), strict=True):
        path.write_bytes(content)
    words = ("dgst", "-sha384", "-verify", paths[0], "-keyform", "DER", "-signature", *paths[1:])
    return openssl(*words, status=status)


def test_openssl_verifies_an_image_signature(tmp_path: Path) -> None:
    signature = KEY.sign(CONFIG).der
    assert signature == KEY.sign(CONFIG).der
    assert verify(tmp_path, KEY.public.der, signature, CONFIG) == "Verified OK\n"
    verify(tmp_path, KEY.public.der, signature, CONFIG + b" ", status=1)
    verify(tmp_path, SigningKey.generate().public.der, signature, CONFIG, status=1)


def test_openssl_verifies_metadata(tmp_path: Path) -> None:
    data = sign(MANIFEST, KEY)
    assert data == sign(MANIFEST, KEY)
    header, raw = data[:0x150], data[0x150:]
    # r and s as two INTEGERs, put together by OpenSSL from the bytes as they lie in the file.
    (tmp_path / "sig.cnf").write_text(
        f"asn1=SEQUENCE:sig\n[sig]\nr=INTEGER:0x{raw[:48].hex()}\ns=INTEGER:0x{raw[48:].hex()}\n"
    )
    openssl("asn1parse", "-genconf", tmp_path / "sig.cnf", "-noout", "-out", tmp_path / "sig.der")
    assert header[0xF0:] == KEY.public.der[-96:]
    signature = (tmp_path / "sig.der").read_bytes()
    assert verify(tmp_path, KEY.public.der, signature, header) == "Verified OK\n"
    verify(tmp_path, KEY.public.der, signature, data[:0x14F] + b"\0", status=1)


def make_key(path: Path) -> Path:
    openssl("ecparam", "-genkey", "-name", "secp384r1", "-noout", "-out", path)
    return path


def test_we_verify_signatures_of_openssl(tmp_path: Path) -> None:
    """Twenty, because lengths in DER vary with leading bits."""
    made, data, out = make_key(tmp_path / "key.pem"), tmp_path / "data", tmp_path / "data.sig"
    data.write_bytes(CONFIG)
    public = read_metadata_key(made.read_bytes(), "key.pem").public
    found = set()
    for _ in range(20):
        openssl("dgst", "-sha384", "-sign", made, "-out", out, data)
        signature = Signature.from_der(out.read_bytes(), "data.sig")
        assert signature.der == out.read_bytes()
        assert public.verify(CONFIG, signature)
        assert not public.verify(CONFIG[1:], signature)
        found.add(signature)
    assert len(found) == 20


def test_key_files_of_openssl(tmp_path: Path) -> None:
    """The commands that messages and README name make files that are read."""
    made = make_key(tmp_path / "key.pem")
    key = read_metadata_key(made.read_bytes(), "key.pem")
    openssl("ec", "-in", made, "-outform", "DER", "-out", tmp_path / "key.prv")
    assert read_image_key((tmp_path / "key.prv").read_bytes(), "key.prv") == key
    for form in ("DER", "PEM"):
        openssl("ec", "-in", made, "-pubout", "-outform", form, "-out", tmp_path / "key.pub")
        assert read_public_key((tmp_path / "key.pub").read_bytes(), "key.pub") == key.public
    assert (tmp_path / "key.pem").read_bytes() == key.pem
    assert (tmp_path / "key.prv").read_bytes() == key.der


# How people's keys come to be in another form, and whether metadata or images need them.
FORMS = {
    "pkcs8 for metadata": ("PEM", ["pkcs8", "-topk8", "-nocrypt"]),
    "pkcs8 for images": ("DER", ["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"]),
    "pem for images": ("DER", ["ec"]),
    "der for metadata": ("PEM", ["ec", "-outform", "DER"]),
    "explicit curve for metadata": ("PEM", ["ec", "-param_enc", "explicit"]),
    "explicit curve for images": ("DER", ["ec", "-param_enc", "explicit", "-outform", "DER"]),
}


def convert(message: str) -> None:
    """Runs the command of a message as a user pastes it, whatever the umask."""
    command = message.partition("convert it with `")[2].removesuffix("`")
    subprocess.run(["sh", "-c", f"umask 022; {command}"], check=True, capture_output=True)


@pytest.mark.parametrize("form", FORMS)
def test_the_command_in_the_message_converts(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, words = FORMS[form]
    monkeypatch.chdir(tmp_path)
    made = make_key(tmp_path / "key.pem")
    openssl(*words, "-in", made, "-out", "other")
    reader = read_metadata_key if wanted == "PEM" else read_image_key
    with pytest.raises(FormatError) as caught:
        reader(Path("other").read_bytes(), "other")
    Path("other").chmod(0o644)
    convert(str(caught.value))
    assert reader(Path("other").read_bytes(), "x") == read_metadata_key(made.read_bytes(), "key.pem")
    # One file with the key, as before, and nobody else can read it.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pem", "other"]
    assert stat.S_IMODE(Path("other").stat().st_mode) == 0o600


def test_parameters_before_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    openssl("ecparam", "-genkey", "-name", "secp384r1", "-out", "key.pem")
    with pytest.raises(FormatError) as caught:
        read_metadata_key(Path("key.pem").read_bytes(), "key.pem")
    assert "'EC PARAMETERS' stand before the key" in str(caught.value)
    convert(str(caught.value))
    read_metadata_key(Path("key.pem").read_bytes(), "key.pem")


def test_openssl_agrees_on_the_vectors(tmp_path: Path) -> None:
    vectors = json.loads((VECTORS / "islet" / "islet_metadata.json").read_text())["vectors"]
    for vector in vectors:
        data = bytes.fromhex(vector["metadata_bin_hex"])
        signed = read(data, vector["name"])
        assert verify(tmp_path, signed.public_key.der, signed.signature.der, data[:0x150]) == "Verified OK\n"
