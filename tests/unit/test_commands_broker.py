from __future__ import annotations

from pathlib import Path

import pytest

from recipes.__main__ import main
from tests.unit.snp_samples import real_roots


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "broker: whose boots are good? name golden manifests with --golden"),
        (["--golden", "g"], "broker: where are the volumes' keys? name their folder with --keys"),
        (
            ["--golden", "g", "--keys", "k"],
            (
                "broker: whose TPMs are trusted? name attestation keys with --enrolled, CAs with "
                "--endorsed-by, or AMD's roots with --tee-roots; correct PCRs under an unknown key prove "
                "nothing\n"
            ),
        ),
        (
            ["--golden", "g", "--keys", "k", "--tee-roots", "r"],
            (
                "broker: which guests have their TPM inside? name their launch measurements with "
                "--tee-measurements; a report of any other guest proves nothing\n"
            ),
        ),
        *(
            (
                ["--golden", "g", "--keys", "k", "--enrolled", "e", option, value],
                (
                    f"broker: {option} is for reports, which only --tee-roots accepts; "
                    "leave it out, or name the roots\n"
                ),
            )
            for option, value in (
                ("--tee-measurements", "m"),
                ("--tee-vmpl", "0"),
                ("--tee-minimum-tcb", "Milan:snp=1"),
            )
        ),
    ],
)
def test_what_a_broker_cannot_do_without(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["broker", *words]) == 2
    assert capsys.readouterr().err.startswith(f"goldsmith: {message}")


def test_no_key_is_enrolled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said before anything else is looked at."""
    words = ["--golden", str(tmp_path / "none"), "--keys", str(tmp_path), "--enrolled", str(tmp_path)]
    assert main(["broker", *words]) == 2
    assert "no attestation key is enrolled, so every guest is refused" in capsys.readouterr().err


def test_there_is_no_folder_of_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--golden", "g", "--keys", str(tmp_path), "--enrolled", str(tmp_path / "none")]
    assert main(["broker", *words]) == 2
    assert "none: no folder; make it, for NAME.pub" in capsys.readouterr().err


GOLDEN = '{"schema": 1, "image": "i", "version": "1", "artefacts": [], "unmeasured": [], "machines": []}'


def started(folder: Path, *words: str) -> int:
    golden, keys, enrolled = folder / "golden.json", folder / "keys", folder / "enrolled"
    golden.write_text(GOLDEN)
    keys.mkdir(mode=0o700)
    enrolled.mkdir(mode=0o755)
    return main(["broker", "--golden", str(golden), "--keys", str(keys), "--enrolled", str(enrolled), *words])


@pytest.mark.parametrize("port", ["65536", "-1"])
def test_a_port_that_is_none(port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert started(tmp_path, f"--port={port}") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"goldsmith: broker: port {port} is not within 0 to 65535; 8443 is usual"


@pytest.mark.parametrize("name", ["golden.json", "rules.yaml"])
def test_what_others_may_write(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden, rules = tmp_path / "golden.json", tmp_path / "rules.yaml"
    for path in (golden, rules):
        path.touch(mode=0o600)
    rules.write_text("volumes: []")
    (tmp_path / name).chmod(0o646)
    assert started(tmp_path, "--rules", str(rules), "--port=-1") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    hint = "`chmod go-w` it, and look whom it makes the broker believe"
    assert last == f"goldsmith: {tmp_path / name}: mode 0646 lets others write; {hint}"
    (tmp_path / name).chmod(0o600)
    (tmp_path / "keys").rmdir()
    (tmp_path / "enrolled").rmdir()
    assert started(tmp_path, "--rules", str(rules), "--port=-1") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("goldsmith: broker: port -1 is not within")


def test_rules_in_another_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "rules.yaml"
    rules.touch(mode=0o600)
    rules.write_bytes("# für alle\n".encode("latin-1"))
    assert started(tmp_path, "--rules", str(rules), "--accept-omitted") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"goldsmith: {rules}: byte 3 is no UTF-8; save the rules as UTF-8"


def test_trust_in_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What its options say is read before a port is opened, and each of them is used."""
    golden, keys, roots = tmp_path / "golden.json", tmp_path / "keys", tmp_path / "roots"
    golden.write_text(GOLDEN)
    keys.mkdir(mode=0o700)
    roots.mkdir(mode=0o755)
    (roots / "milan.pem").write_bytes(real_roots("milan-v2"))
    measurements = tmp_path / "measurements"
    measurements.write_text("ab" * 48)
    for path in (measurements, roots / "milan.pem"):
        path.chmod(0o644)

    def lines(*more: str) -> list[str]:
        words = ["--golden", str(golden), "--keys", str(keys), "--tee-roots", str(roots), "--port=-1"]
        assert main(["broker", *words, "--tee-measurements", str(measurements), *more]) == 2
        return capsys.readouterr().err.splitlines()

    def said(*more: str) -> str:
        return lines(*more)[-1].removeprefix("goldsmith: ")

    warning = "reports of any patch level will do, of firmware with known holes too; name the least good"
    assert f"{roots}: {warning} with --tee-minimum-tcb" in lines()
    assert not any(warning in line for line in lines("--tee-minimum-tcb=Milan:snp=24"))
    assert said("--tee-vmpl=3", "--tee-minimum-tcb=Milan:snp=24").startswith("broker: port -1 is not within")
    assert said("--tee-vmpl=4") == "VMPL 4 is not 0 to 3; 0 is the usual one"
    what = "Milan has no part 'x'; known: bootloader, microcode, snp, tee"
    assert said("--tee-minimum-tcb=Milan:x=1") == f"minimum TCB 'Milan:x=1': {what}"
    measurements.write_text("ab")
    what = "line 1 is no launch measurement; write its 96 hexadecimal digits"
    assert said() == f"{measurements}: {what}"
    measurements.write_text("ab" * 48)
    (roots / "milan.pem").unlink()
    assert said().startswith(f"{roots}: no ASK in a PEM file, so no report is believed; ")


def test_the_help_says_what_a_report_does_not_prove(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["broker", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "That shows a TPM inside the guest only where the launch measurement covers the TPM",
        "any other guest may have been given the host's TPM",
        "Spec-only: never tried with a guest on such hardware",
        "Without it firmware with known holes will do",
        "Read anew while it runs: the folder of --enrolled for every attestation",
        "All other files are read once: start the broker anew after a change.",
    ):
        assert words in printed


def test_two_kinds_of_trust_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["broker", "--enrolled", "a", "--endorsed-by", "b"])
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_the_protocol_is_printed_for_who_writes_the_other_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["broker", "--protocol"]) == 0
    printed = capsys.readouterr().out
    for word in ("/v1/challenge", "/v1/activate", "/v1/attest", "HKDF", "AES-256-GCM"):
        assert word in printed
