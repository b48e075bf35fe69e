from __future__ import annotations

import hashlib
from dataclasses import replace
from uuid import UUID

import pytest

from recipes.errors import FormatError, SpecError
from recipes.formats import luks2
from recipes.formats.luks2_json import Charset
from recipes.formats.luks2_model import (
    Argon2id,
    Expected,
    Integrity,
    KdfBounds,
    Pbkdf2,
    TokenField,
    TokenShape,
)
from recipes.formats.luks2_template import shell_table, template
from recipes.formats.tree import FileTree
from recipes.sources.providers import Provider
from recipes.sources.secrets import Finding, OwnKey, scan
from recipes.sources.volume_checks import check_volume
from recipes.sources.volumes import VolumeSpec, add_volume, assignments, expected_header

PARTITION = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
# 100 bytes are 134 characters of base64 and two of padding.
TOKEN = TokenShape(
    "systemd-tpm2",
    (0,),
    (
        TokenField("tpm2-blob", size=134, padding=2),
        TokenField("tpm2-pcrs", ()),
        TokenField("tpm2-policy-hash", size=64, charset=Charset.HEX),
    ),
)
COUNTED = replace(TOKEN, type="goldsmith-tpm2")
PUBLIC = {"tpm2.pub": b"\0\x56public", "tpm2.pem": b"-----BEGIN PUBLIC KEY-----\n"}
AUTHORITY = {"kbs-ca.pem": b"-----BEGIN CERTIFICATE-----\n"}
BROKER = {"KBS_URL": "https://broker.example", "KBS_VOLUME": "data", "KBS_MACHINE": ""}
PROGRAM = {"EXEC_PROGRAM": "/usr/bin/site-key", "EXEC_MORE": "'"}
KEY = {"keyfile": bytes(range(32))}
DIGEST = "ab" * 32
SIGNED = {
    "TPM2_POLICY": "signed",
    "TPM2_DIGEST": DIGEST,
    "TPM2_PCRS": "11",
    "TPM2_BANK": "sha256",
    "TPM2_COUNTER": "none",
    "TPM2_RELEASE": "0",
}
LITERAL = {
    "TPM2_POLICY": "literal",
    "TPM2_PCRS": "4 7 11",
    "TPM2_BANK": "sha256",
    "TPM2_COUNTER": "none",
}


def provider(name: str, *kinds: str, **more: object) -> Provider:
    text = {"name": name, "script": b"#!/bin/sh\n", "summary": name, "kinds": kinds, "formats": True}
    return Provider(**text | more)  # type: ignore[arg-type]  # the test's own names


EPHEMERAL = provider("ephemeral", "volume-key")
KEYFILE = provider("keyfile", "passphrase", "volume-key", files=("keyfile",), development=True)
TYPED = provider("passphrase", "passphrase")
TPM2 = provider(
    "tpm2",
    "passphrase",
    helpers=("tpm2",),
    files=("tpm2.pub", "tpm2.pem"),
    registers=("options",),
    remembers=True,
)
KBS = provider(
    "kbs", "passphrase", "volume-key", helpers=("kbs", "tpm2"), files=("kbs-ca.pem",), network=True
)
SNP = provider("snp-derived-key", "volume-key", helpers=("derive-key",))
EXEC = provider("exec", "passphrase", "volume-key")
OLD = provider("old", "passphrase", formats=False)

SCRATCH = VolumeSpec(name="scratch", partition_uuid=PARTITION, providers=(EPHEMERAL,))
SEALED = VolumeSpec(
    name="data",
    partition_uuid=PARTITION,
    providers=(TPM2,),
    format_policy="if-blank",
    header="luks2",
    token=TOKEN,
    marker=0x01800042,
    files=PUBLIC,
    options=SIGNED,
)
DERIVED = VolumeSpec(name="data", partition_uuid=PARTITION, providers=(SNP,), format_policy="if-blank")
REMOTE = replace(
    DERIVED,
    providers=(KBS,),
    files=AUTHORITY,
    options=BROKER,
)
KEYED = replace(DERIVED, providers=(KEYFILE,), header="luks2", format_policy="never", files=KEY)
ROOT = replace(KEYED, name="root", mountpoint="/", kdf=Argon2id(4, 65536, 2))
SITE = replace(
    DERIVED,
    providers=(EXEC,),
    files={"site.conf": b"a=b\n"},
    options=PROGRAM,
)


def check(volume: VolumeSpec, profile: str = "dev", network: str = "dhcp") -> None:
    check_volume(volume, profile=profile, network=network)


@pytest.mark.parametrize(
    "volume",
    [
        SCRATCH,
        SEALED,
        replace(SEALED, options=SIGNED | {"TPM2_COUNTER": "0x01800043", "TPM2_RELEASE": "7"}, token=COUNTED),
        replace(SEALED, options=LITERAL, files={}),
        replace(SEALED, integrity="hmac-sha256", files=PUBLIC | {"escrow.pem": b"public"}),
        replace(SEALED, providers=(TPM2, KBS), files=PUBLIC | AUTHORITY, options=SIGNED | BROKER),
        DERIVED,
        replace(DERIVED, options={"DERIVE_FIELDS": "measurement,policy"}),
        replace(DERIVED, files={"escrow.pem": b"public"}),
        REMOTE,
        replace(REMOTE, header="luks2", format_policy="never"),
        KEYED,
        replace(KEYED, files={"keyfile": bytes(16)}),
        replace(KEYED, files={"keyfile": bytes(512)}),
        replace(KEYED, header="none", files={"keyfile": bytes(64)}),
        ROOT,
        SITE,
        replace(KEYED, providers=(TYPED,), files={}, kdf=Argon2id(1, 64, 1)),
        replace(KEYED, providers=(OLD,), files={}),
        replace(SCRATCH, mountpoint="/srv/a_b/c-d", total_timeout=3600, provider_timeout=1),
    ],
)
def test_what_there_can_be(volume: VolumeSpec) -> None:
    check(volume)
    add_volume(FileTree(), volume)


def written(volume: VolumeSpec) -> FileTree:
    check(volume)
    tree = FileTree()
    add_volume(tree, volume)
    return tree


def lines(volume: VolumeSpec) -> list[str]:
    return written(volume)[f"etc/unlock/{volume.name}.conf"].read().decode("ascii").splitlines()


def test_the_settings_of_a_volume_without_a_header() -> None:
    assert lines(SCRATCH) == [
        "PARTUUID='6ba7b810-9dad-11d1-80b4-00c04fd430c8'",
        "MOUNTPOINT='/var'",
        "FORMAT='always'",
        "HEADER='none'",
        "INTEGRITY='none'",
        "KDF='none'",
        "PROVIDERS='ephemeral'",
        "REMEMBERS=''",
        "PROVIDER_TIMEOUT='20'",
        "TOTAL_TIMEOUT='60'",
        "METADATA_SIZE='0'",
        "CONTENT=''",
        "TOKEN='none'",
        "TOKEN_BLOB_OFFSET='0'",
        "TOKEN_BLOB_SIZE='0'",
        "MARKER='none'",
        "ESCROW='none'",
    ]


def sealed_header(blob: str) -> bytes:
    """A header of the sealed volume that our writer made."""
    return luks2.format(
        expected_header(SEALED),
        uuid=PARTITION,
        seed=luks2.Seed(b"test images only, never a release"),
        volume_key=bytes(range(64)),
        passphrases=[b"secret"],
        tokens=[[blob, DIGEST]],
    )


def test_the_settings_of_a_sealed_volume() -> None:
    volume = replace(
        SEALED,
        providers=(TPM2, KBS),
        files=PUBLIC | AUTHORITY | {"escrow.pem": b"public"},
        options=SIGNED | BROKER,
        mountpoint="/srv",
        provider_timeout=5,
        total_timeout=6,
    )
    blob = "Blob" * 33 + "AA"
    # What is at that place of a header is the text of the token, padding and all.
    offset = sealed_header(blob).index(f"{blob}==".encode())
    assert 4096 < offset < 16384
    assert lines(volume) == [
        "PARTUUID='6ba7b810-9dad-11d1-80b4-00c04fd430c8'",
        "MOUNTPOINT='/srv'",
        "FORMAT='if-blank'",
        "HEADER='luks2'",
        "INTEGRITY='none'",
        "KDF='pbkdf2 1000'",
        "PROVIDERS='tpm2 kbs'",
        "REMEMBERS='tpm2'",
        "PROVIDER_TIMEOUT='5'",
        "TOTAL_TIMEOUT='6'",
        "METADATA_SIZE='290816'",
        "CONTENT=''",
        "TOKEN='systemd-tpm2'",
        f"TOKEN_BLOB_OFFSET='{offset}'",
        "TOKEN_BLOB_SIZE='136'",
        "MARKER='0x01800042'",
        "ESCROW='/etc/unlock/data.d/escrow.pem'",
        "KBS_MACHINE=''",
        "KBS_URL='https://broker.example'",
        "KBS_VOLUME='data'",
        "TPM2_BANK='sha256'",
        "TPM2_COUNTER='none'",
        f"TPM2_DIGEST='{DIGEST}'",
        "TPM2_PCRS='11'",
        "TPM2_POLICY='signed'",
        "TPM2_RELEASE='0'",
    ]


def test_the_settings_of_a_root() -> None:
    assert {
        "MOUNTPOINT='/'",
        "FORMAT='never'",
        "HEADER='luks2'",
        "KDF='argon2id 4 65536 2'",
        "METADATA_SIZE='290816'",
        "TOKEN='none'",
        "TOKEN_BLOB_OFFSET='0'",
        "TOKEN_BLOB_SIZE='0'",
    } <= set(lines(ROOT))


def test_an_authenticated_volume_has_a_longer_key() -> None:
    volume = replace(KEYED, integrity="hmac-sha256")
    # 32768 bytes of headers, and 4000 stripes of 96 bytes in whole blocks of 4096
    assert {"INTEGRITY='hmac-sha256'", "METADATA_SIZE='417792'"} <= set(lines(volume))
    assert expected_header(volume).integrity is Integrity.HMAC_SHA256


def test_options_are_quoted_for_a_shell() -> None:
    assert lines(SITE)[-2:] == [r"EXEC_MORE=''\'''", "EXEC_PROGRAM='/usr/bin/site-key'"]
    assert assignments({"A": "$(b) `c` \\", "B": "d'e'"}) == (
        b"A='$(b) `c` \\'\n" + rb"B='d'\''e'\'''" + b"\n"
    )


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (
            ROOT,
            Expected(keyslots=(KdfBounds(Argon2id(4, 65536, 2)),), uuid=PARTITION),
        ),
        (
            SEALED,
            Expected(keyslots=(KdfBounds(Pbkdf2(1000)),), tokens=(TOKEN,), uuid=PARTITION),
        ),
        (
            replace(KEYED, integrity="hmac-sha256", kdf=Pbkdf2(2000)),
            Expected(keyslots=(KdfBounds(Pbkdf2(2000)),), integrity=Integrity.HMAC_SHA256, uuid=PARTITION),
        ),
    ],
    ids=["root", "sealed", "integrity"],
)
def test_the_table_of_the_header(volume: VolumeSpec, expected: Expected) -> None:
    node = written(volume)[f"etc/unlock/{volume.name}.header"]
    assert node.read().decode("ascii") == shell_table(template(expected))
    assert node.mode == 0o644
    # the whole identity of the volume is literal, so that another volume's header does not pass
    assert " uuid " not in node.read().decode("ascii")


def test_the_table_is_that_of_a_header_that_is_written() -> None:
    """Its literal lines, one by one, against a header of our writer, which cryptsetup judges elsewhere."""
    data = sealed_header("B" * 134)
    table = written(SEALED)["etc/unlock/data.header"].read().decode("ascii")
    literals = [line.split(" ")[1:] for line in table.splitlines() if line.startswith("literal ")]
    assert len(literals) > 8
    for offset, size, digest in literals:
        part = data[int(offset) : int(offset) + int(size)]
        assert hashlib.sha256(part).hexdigest() == digest


def test_without_a_header_there_is_no_table() -> None:
    assert "etc/unlock/scratch.header" not in written(SCRATCH)


def test_the_files_of_the_providers() -> None:
    tree = written(replace(SEALED, files=PUBLIC | {"escrow.pem": b"public"}))
    files = {path: (node.mode, node.read()) for path, node in tree.sorted() if ".d/" in path}
    assert files == {
        "etc/unlock/data.d/escrow.pem": (0o644, b"public"),
        "etc/unlock/data.d/tpm2.pem": (0o644, PUBLIC["tpm2.pem"]),
        "etc/unlock/data.d/tpm2.pub": (0o644, PUBLIC["tpm2.pub"]),
    }


def test_a_key_in_a_development_image() -> None:
    """Nothing gives random bytes away as a secret; our own key is found wherever it is."""
    data = hashlib.sha256(b"a key").digest()
    volume = replace(KEYED, files={"keyfile": data})
    tree = written(volume)
    path = "etc/unlock/data.d/keyfile"
    assert (tree[path].mode, tree[path].read()) == (0o600, data)
    assert volume.secrets == (path,)
    assert SEALED.secrets == ()
    assert scan(tree) == ()
    assert scan(tree, [OwnKey("data.key", data)]) == (
        Finding(path, 0, "our own key data.key"),
        Finding(path, 1, "our own key data.key"),
    )
    assert data.hex() not in repr(volume)
    assert str(data) not in repr(volume)


@pytest.mark.parametrize(
    ("volume", "registers"),
    [
        (SCRATCH, ()),
        (SEALED, ("sha256:11",)),
        (replace(SEALED, options=LITERAL), ("sha256:4", "sha256:7", "sha256:11")),
        (
            replace(
                SEALED, providers=(provider("x", "passphrase", registers=("sha384:7", "sha256:11")), TPM2)
            ),
            ("sha384:7", "sha256:11"),
        ),
    ],
)
def test_the_registers_that_a_key_depends_on(volume: VolumeSpec, registers: tuple[str, ...]) -> None:
    assert volume.registers == registers


def test_a_token_that_fits_no_header() -> None:
    huge = replace(TOKEN, fields=(TokenField("tpm2-blob", size=8000), TokenField("more", "x" * 4000)))
    with pytest.raises(FormatError, match=r"^luks2 header: .* bytes of JSON, 12287 fit; shorten the tokens$"):
        written(replace(SEALED, token=huge))


@pytest.mark.parametrize(
    "token",
    [
        replace(TOKEN, fields=()),
        replace(TOKEN, fields=(TokenField("tpm2-blob", "literal"),)),
        replace(TOKEN, fields=(TokenField("blob", size=4),)),
    ],
)
def test_a_token_without_a_place_for_the_key(token: TokenShape) -> None:
    with pytest.raises(FormatError) as caught:
        written(replace(SEALED, token=token))
    assert str(caught.value) == "tpm2 token: 0 tokens have a sealed blob, expected one"


def test_an_option_that_is_the_builder_s_own() -> None:
    token = provider("token", "volume-key")
    with pytest.raises(SpecError) as caught:
        written(replace(DERIVED, providers=(token,), options={"TOKEN_BLOB_SIZE": "7"}))
    assert str(caught.value) == ("volume data: TOKEN_BLOB_SIZE is no option, the builder sets it; remove it")


def options(**changes: str) -> VolumeSpec:
    return replace(SEALED, options=SIGNED | changes)


def without(*names: str) -> VolumeSpec:
    return replace(SEALED, options={key: value for key, value in SIGNED.items() if key not in names})


NAME = "not a volume's name; use at most 16 lower-case letters, digits, - and _"
ROUND = "write 1 to 3600 seconds"
INDEXES = "0x01000000 to 0x01ffffff"
PCRS = "is no list of PCRs; write one such as '4 7 11'"


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (replace(SCRATCH, name="a b"), f"volume a b: {NAME}"),
        (replace(SCRATCH, name="a" * 17), f"volume {'a' * 17}: {NAME}"),
        (replace(SCRATCH, name="../a"), f"volume ../a: {NAME}"),
        *(
            (
                replace(SCRATCH, mountpoint=path),
                f"volume scratch: {path!r} is no mount point; write a path such as /var",
            )
            for path in ("/var/../etc", "/v'r", "", "var", "/var/", "//", "/a\n")
        ),
        (
            replace(SCRATCH, format_policy="once"),
            "volume scratch: format: 'once' is not known; write one of never, if-blank, always",
        ),
        (
            replace(SCRATCH, header="luks1"),
            "volume scratch: header: 'luks1' is not known; write one of luks2, none",
        ),
        (
            replace(SEALED, integrity="aead"),
            "volume data: integrity: 'aead' is not known; write one of none, hmac-sha256",
        ),
        (
            replace(SCRATCH, provider_timeout=0),
            f"volume scratch: provider_timeout: 0 is out of range; {ROUND}",
        ),
        (
            replace(SCRATCH, total_timeout=3601),
            f"volume scratch: total_timeout: 3601 is out of range; {ROUND}",
        ),
        (
            replace(SCRATCH, integrity="hmac-sha256"),
            "volume scratch: integrity hmac-sha256 stands in a header; use header luks2",
        ),
        (
            replace(SCRATCH, providers=()),
            "volume scratch: has no unlock provider; name one, such as ephemeral",
        ),
        (
            replace(ROOT, mountpoint="/var"),
            "volume root: is mounted on /var; the volume on / is named root, and no other is",
        ),
        (
            replace(SCRATCH, mountpoint="/"),
            "volume scratch: is mounted on /; the volume on / is named root, and no other is",
        ),
        (
            replace(ROOT, header="none"),
            "volume root: header none; the build gives the root a LUKS2 header, use luks2",
        ),
        (
            replace(ROOT, format_policy="if-blank"),
            "volume root: format if-blank; the build makes the root, use never",
        ),
        (
            replace(SEALED, name="root", mountpoint="/", format_policy="never", marker=None),
            (
                "volume root: provider tpm2: the build makes the root and cannot seal for a TPM it does not "
                "have; use another provider"
            ),
        ),
        (
            replace(SCRATCH, header="luks2"),
            (
                "volume scratch: provider ephemeral gives a volume-key, and header luks2 wants a passphrase; "
                "use header none, or another provider"
            ),
        ),
        (
            replace(DERIVED, providers=(SNP, TPM2)),
            (
                "volume data: provider tpm2 gives a passphrase, and header none wants a volume-key; "
                "use header luks2, or another provider"
            ),
        ),
        (
            replace(KEYED, providers=(TYPED,)),
            (
                "volume data: provider passphrase takes what a person typed, which can be guessed; "
                "use argon2id as its KDF"
            ),
        ),
        (
            replace(SEALED, files={"tpm2.pem": b"x"}),
            "volume data: provider tpm2 wants tpm2.pub in /etc/unlock/data.d; give the volume that",
        ),
        (
            replace(SEALED, files={}),
            "volume data: provider tpm2 wants tpm2.pub, tpm2.pem in /etc/unlock/data.d; give the volume that",
        ),
        (
            without("TPM2_PCRS", "TPM2_BANK"),
            "volume data: provider tpm2 wants the options TPM2_PCRS, TPM2_BANK; give the volume those",
        ),
        (
            replace(REMOTE, options={}),
            (
                "volume data: provider kbs wants the options KBS_URL, KBS_VOLUME, KBS_MACHINE; "
                "give the volume those"
            ),
        ),
        (
            replace(SITE, options={}),
            "volume data: provider exec wants the options EXEC_PROGRAM; give the volume those",
        ),
        (
            replace(SCRATCH, providers=(EPHEMERAL, SNP)),
            (
                "volume scratch: format always makes a new file system at every boot, so the key that "
                "provider snp-derived-key keeps serves nothing; use provider ephemeral, or format if-blank"
            ),
        ),
        *(
            (
                replace(SCRATCH, format_policy=policy, providers=(SNP, EPHEMERAL)),
                (
                    f"volume scratch: format {policy} keeps the data, and nobody keeps the key of provider "
                    "ephemeral; use format always, or another provider"
                ),
            )
            for policy in ("never", "if-blank")
        ),
        (
            replace(KEYED, format_policy="if-blank", providers=(OLD, replace(OLD, name="older")), files={}),
            (
                "volume data: format if-blank, and none of the providers old, older has a key for a new "
                "volume; add one that has, or use format never"
            ),
        ),
        (
            replace(SEALED, token=None),
            (
                "volume data: provider tpm2 keeps its sealed key in a token, and the volume has none; "
                "give the token's shape"
            ),
        ),
        (
            replace(DERIVED, token=TOKEN),
            "volume data: token systemd-tpm2 stands in a header; use header luks2",
        ),
        (
            replace(SEALED, token=replace(TOKEN, type="systemd-fido2")),
            "volume data: token: 'systemd-fido2' is not known; write one of systemd-tpm2, goldsmith-tpm2",
        ),
        (
            replace(KEYED, token=TOKEN),
            "volume data: token systemd-tpm2 is for provider tpm2, which is not asked; add it",
        ),
        (
            replace(SEALED, token=COUNTED),
            (
                "volume data: TPM2_COUNTER is none, and the token is goldsmith-tpm2; "
                "a counter goes with goldsmith-tpm2, none with systemd-tpm2"
            ),
        ),
        (
            options(TPM2_COUNTER="0x01800043"),
            (
                "volume data: TPM2_COUNTER is 0x01800043, and the token is systemd-tpm2; "
                "a counter goes with goldsmith-tpm2, none with systemd-tpm2"
            ),
        ),
        *(
            (
                replace(SEALED, marker=marker),
                f"volume data: marker {marker:#x} is no NV index; use {INDEXES}",
            )
            for marker in (0, 0xFFFFFF, 0x02000000, -1)
        ),
        (
            replace(DERIVED, marker=0x01800042),
            "volume data: the marker is in the TPM, and provider tpm2 is not asked; add it",
        ),
        *(
            (
                replace(SEALED, format_policy="never", marker=marker),
                (
                    "volume data: format never: a TPM knows the volumes that it formatted, and no others; "
                    "use format if-blank with tpm2"
                ),
            )
            for marker in (None, 0x01800042)
        ),
        (
            replace(SEALED, marker=None),
            (
                "volume data: provider tpm2 remembers the volume by a marker, and there is none; "
                "give the handle of an NV index"
            ),
        ),
        (
            replace(options(TPM2_COUNTER="0x01800042", TPM2_RELEASE="1"), token=COUNTED),
            "volume data: marker and TPM2_COUNTER are both 0x01800042; use two indexes",
        ),
        (
            replace(SITE, files={"A": b"x"}),
            "volume data: 'A' is not a file's name; use lower-case letters, digits, dots and hyphens",
        ),
        (
            replace(SITE, files={"../a": b"x"}),
            "volume data: '../a' is not a file's name; use lower-case letters, digits, dots and hyphens",
        ),
        (
            replace(SEALED, files=PUBLIC | {"tpm2.pub": b""}),
            "volume data: file tpm2.pub is empty; give its content",
        ),
        (
            replace(SEALED, files=PUBLIC | {"other": b"x"}),
            "volume data: file other is for none of its providers; remove it",
        ),
        (
            replace(SEALED, files=PUBLIC | {"keyfile": bytes(32)}),
            "volume data: file keyfile is for none of its providers; remove it",
        ),
        *(
            (
                replace(KEYED, files={"keyfile": bytes(size)}),
                f"volume data: keyfile has {size} bytes; a passphrase has 16 to 512",
            )
            for size in (15, 513)
        ),
        (
            replace(KEYED, header="none", files={"keyfile": bytes(63)}),
            "volume data: keyfile has 63 bytes; a volume-key has 64",
        ),
        *(
            (
                volume,
                (
                    "volume data: content is that of a volume without a header that the build made; use "
                    "header none and format never, or leave it out"
                ),
            )
            for volume in (replace(KEYED, content=bytes(32)), replace(DERIVED, content=bytes(32)))
        ),
        (
            replace(KEYED, files=KEY | {"escrow.pem": b"x"}),
            (
                "volume data: escrow.pem is for the key of a volume that the guest makes and keeps; "
                "use format if-blank, or remove the file"
            ),
        ),
        *(
            (
                replace(SITE, options=PROGRAM | {name: "x"}),
                f"volume data: {name!r} is not an option's name; write one such as KBS_URL",
            )
            for name in ("PATH", "exec_x", "EXEC_", "EXEC_X\n", "EXEC X", "EXEC_X=y;EXEC_Z")
        ),
        *(
            (
                replace(SITE, options=PROGRAM | {name: "x"}),
                f"volume data: option {name} is of none of its providers; remove it",
            )
            for name in ("KBS_URL", "LD_PRELOAD", "ON_FAILURE", "TOTAL_TIMEOUT", "EXECUTE_X")
        ),
        *(
            (
                replace(SITE, options=PROGRAM | {"EXEC_X": text}),
                f"volume data: EXEC_X is {text!r}, which has more than printable ASCII; remove that",
            )
            for text in ("a\nb", "ä", "\x1b")
        ),
        *(
            (
                replace(SITE, options={"EXEC_PROGRAM": path}),
                f"volume data: EXEC_PROGRAM {path!r} is no path; write one such as /usr/bin/site-key",
            )
            for path in ("", "usr/bin/a", "/usr/../a", "/usr/bin/", "/usr/bin/a b")
        ),
        (
            options(TPM2_POLICY="none"),
            "volume data: TPM2_POLICY: 'none' is not known; write one of signed, literal",
        ),
        (
            options(TPM2_BANK="sha1"),
            "volume data: TPM2_BANK: 'sha1' is not known; write one of sha256, sha384, sha512",
        ),
        *(
            (options(TPM2_PCRS=text), f"volume data: TPM2_PCRS {text!r} {PCRS}")
            for text in ("24", "7 4", "7 7", "7,11", " 7", "07", "x", "7  8", "-1")
        ),
        (
            options(TPM2_PCRS=""),
            "volume data: TPM2_PCRS names no registers, and a provider depends on those; write them",
        ),
        *(
            (
                replace(SEALED, options=LITERAL | {"TPM2_PCRS": text}),
                (
                    f"volume data: TPM2_PCRS {text!r}: PCR {pcr} can be reset by software and binds nothing; "
                    "leave it out"
                ),
            )
            for text, pcr in (("16", 16), ("7 23", 23))
        ),
        (
            replace(SEALED, token=COUNTED, options=LITERAL | {"TPM2_COUNTER": "0x01800043"}),
            (
                "volume data: TPM2_COUNTER '0x01800043': a literal policy knows one boot only and needs no "
                "counter; write none"
            ),
        ),
        *(
            (
                options(TPM2_DIGEST=text),
                f"volume data: TPM2_DIGEST {text!r} is no policy digest; write its 64 hex digits",
            )
            for text in ("", "ab" * 31, "AB" * 32)
        ),
        *(
            (
                replace(options(TPM2_COUNTER=text, TPM2_RELEASE="1"), token=COUNTED),
                f"volume data: TPM2_COUNTER {text!r} is no NV index; use none, or {INDEXES}",
            )
            for text in ("0x02000000", "0x1800042", "25165890", "")
        ),
        *(
            (
                replace(options(TPM2_COUNTER="0x01800043", TPM2_RELEASE=text), token=COUNTED),
                f"volume data: TPM2_RELEASE {text!r} is no release; write a number from 1 on",
            )
            for text in ("0", "", "01", "-1", "1.0")
        ),
    ],
)
def test_what_cannot_be(volume: VolumeSpec, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        check(volume)
    assert str(caught.value) == message


def test_what_a_release_never_has() -> None:
    check(REMOTE, profile="release")
    with pytest.raises(SpecError) as caught:
        check(KEYED, profile="release")
    assert str(caught.value) == (
        "volume data: provider keyfile is for development; use another, or set profile: dev"
    )
    # even with a provider whose header does not say so
    for providers in ((replace(KEYFILE, development=False),), (EXEC,)):
        volume = replace(KEYED, providers=providers, options=PROGRAM if providers == (EXEC,) else {})
        check(volume)
        with pytest.raises(SpecError) as caught:
            check(volume, profile="release")
        assert str(caught.value) == (
            "volume data: file keyfile is a secret, and whatever is in a release is public; "
            "use another provider, or set profile: dev"
        )


def test_a_provider_that_needs_a_network() -> None:
    check(REMOTE, network="10.0.2.15/24")
    with pytest.raises(SpecError) as caught:
        check(REMOTE, network="none")
    assert str(caught.value) == (
        "volume data: provider kbs needs a network; set initramfs.network to dhcp or an address"
    )
