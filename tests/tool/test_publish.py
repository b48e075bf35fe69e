"""The scripts that publish: judged by shellcheck, and run against stand-ins of az, gcloud and aws.

No test here or anywhere reaches a cloud. What the stand-ins take was held once against the programs
themselves: azure-cli 2.91.0, Google Cloud SDK 528.0.0 and aws-cli 1.46.3 parse every call of a dry run.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.schema.publish import AwsSpec, AzureSpec, GcpSpec
from tests.support import require_tool
from tests.tool.cloud_standins import aws, azure, gcp
from tests.tool.cloud_standins.program import State, parse
from tests.tool.publish_kits import DISK, Place, make_kit, place

pytestmark = pytest.mark.tool

CLOUDS = ("azure", "gcp", "aws")
TABLES = {"azure": azure.TABLE, "gcp": gcp.TABLE, "aws": aws.TABLE}
# Optional checks of shellcheck that are not followed, each with its reason.
UNCHECKED = {
    "SC2250": "braces around every variable make the scripts longer and no clearer",
    "SC2310": "functions that are conditions end the script themselves where a call fails",
    "SC2312": "what is masked is the status of printf, tr and sed",
}
# With these nothing in a dry run waits for an answer, but for the ids that AWS gives.
KNOWN = {
    "azure": ("--subscription", azure.SUBSCRIPTION, "--storage-account", "goldsmithdisks"),
    "gcp": ("--project", gcp.PROJECT),
    "aws": ("--bucket", "goldsmith-disks"),
}


@pytest.fixture(params=CLOUDS)
def somewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    require_tool("bash")
    with place(tmp_path, request.param) as made:
        yield made


def at(folder: Path, cloud: str) -> Iterator[Place]:
    require_tool("bash")
    with place(folder, cloud) as made:
        yield made


@pytest.fixture
def on_azure(tmp_path: Path) -> Iterator[Place]:
    yield from at(tmp_path, "azure")


@pytest.fixture
def on_gcp(tmp_path: Path) -> Iterator[Place]:
    yield from at(tmp_path, "gcp")


@pytest.fixture
def on_aws(tmp_path: Path) -> Iterator[Place]:
    yield from at(tmp_path, "aws")


@pytest.mark.parametrize("secure_boot", [True, False])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_shellcheck_finds_nothing(cloud: str, secure_boot: bool, tmp_path: Path) -> None:
    spec = {"azure": AzureSpec, "gcp": GcpSpec, "aws": AwsSpec}[cloud](secure_boot=secure_boot, ports=(22,))
    with place(tmp_path, cloud, make_kit(cloud, spec)) as made:
        options = ["--shell=sh", "--enable=all", f"--exclude={','.join(UNCHECKED)}"]
        result = subprocess.run(
            [require_tool("shellcheck"), *options, str(made.script)], capture_output=True, text=True
        )
    assert (result.returncode, result.stdout) == (0, "")


def test_lines_fit(somewhere: Place) -> None:
    lines = [line for line in somewhere.script.read_text().splitlines() if " check --" not in line]
    assert [line for line in lines if len(line) > 120 and "check_file" not in line] == []


def test_no_option_is_overwritten(somewhere: Place) -> None:
    """But for those that are filled in where they are empty."""
    body = somewhere.script.read_text().split("\ncheck_options\n")[1]
    filled = {item.name for item in somewhere.kit.parameters if item.optional}
    for item in somewhere.kit.parameters:
        if item.name not in filled:
            assert re.search(rf"(^|[\s;]){item.name}=", body) is None


def test_help_shows_every_option_and_what_it_is(somewhere: Place) -> None:
    outcome = somewhere.run("--help")
    assert (outcome.status, outcome.error) == (0, "")
    for item in somewhere.kit.parameters:
        assert f"  --{item.option} '{item.value}'\n      {item.help}\n" in outcome.out
    assert somewhere.cloud.calls == []


@pytest.mark.parametrize(("cloud", "calls"), [("azure", 25), ("gcp", 13), ("aws", 22)])
def test_a_dry_run_prints_every_call_and_makes_none(cloud: str, calls: int, tmp_path: Path) -> None:
    with place(tmp_path, cloud) as made:
        dry = made.run("--dry-run")
        assert (dry.status, dry.error, made.cloud.calls) == (0, "", [])
        lines = [shlex.split(line) for line in dry.out.splitlines()]
        assert len(lines) == calls
        assert {words[0] for words in lines} == {made.cloud.program}
        assert made.run().status == 0
        printed = [_command(words[1:], made) for words in lines]
        # What takes long is looked at more often when it really takes long.
        assert list(dict.fromkeys(printed)) == list(dict.fromkeys(call.command for call in made.cloud.calls))


def _command(words: list[str], made: Place) -> str:
    return next(
        command
        for command in sorted(made.cloud.table, key=len, reverse=True)
        if words[: len(command.split())] == command.split()
    )


def test_printed_calls_are_the_ones_that_are_made(somewhere: Place) -> None:
    """All of them where nothing waits for an answer, and those of AWS that have no id in them."""
    name = next(cloud for cloud in CLOUDS if TABLES[cloud] is somewhere.cloud.table)
    printed = [
        tuple(shlex.split(line)[1:]) for line in somewhere.run("--dry-run", *KNOWN[name]).out.splitlines()
    ]
    exact = [words for words in printed if not any("<" in word for word in words)]
    assert exact == printed or name == "aws"
    for words in exact:
        parse(words, somewhere.cloud.table, somewhere.cloud.common, 2)
    assert somewhere.run(*KNOWN[name]).status == 0
    assert set(exact) <= {call.argv for call in somewhere.cloud.calls}


def test_a_second_run_changes_nothing(somewhere: Place) -> None:
    first = somewhere.run()
    assert first.status == 0, first.error
    assert f"runs {somewhere.kit.disk_name}" in first.out or somewhere.kit.disk_name in first.out
    assert f"goldsmith verify golden.{somewhere.kit.cloud}.json --report console.log" in first.out
    before = deepcopy(somewhere.resources())
    second = somewhere.run()
    assert (second.status, somewhere.changes()) == (0, [])
    assert "is uploaded already" in second.error
    assert somewhere.resources() == before
    assert second.out == first.out


def test_any_call_may_be_the_last_one(somewhere: Place) -> None:
    """Whatever call fails, before it did anything or after, the next run ends where an unbroken one does."""
    assert somewhere.run().status == 0
    whole = deepcopy(somewhere.resources())
    for state in deepcopy(list(somewhere.cloud.after.values())):
        somewhere.cloud.state = state
        outcome = somewhere.run()
        assert outcome.status == 0, outcome.error
        assert somewhere.resources() == whole


@pytest.mark.parametrize("half", [False, True])
def test_a_call_that_fails_ends_the_script_and_the_next_run_goes_on(somewhere: Place, half: bool) -> None:
    assert somewhere.run().status == 0
    numbers = [number for number, call in enumerate(somewhere.cloud.calls, 1) if call.changes]
    for number in (numbers[0], numbers[len(numbers) // 2], numbers[-1]):
        somewhere.cloud.state = State()
        somewhere.cloud.fail, somewhere.cloud.half = number, half
        outcome = somewhere.run()
        assert outcome.status == 1
        assert "that call failed; what is made stays, and the same command goes on from here" in outcome.error
        assert len(somewhere.cloud.calls) == number
        somewhere.cloud.fail = 0
        assert somewhere.run().status == 0


def test_a_look_that_fails_is_not_taken_for_nothing_there(somewhere: Place) -> None:
    assert somewhere.run().status == 0
    before = deepcopy(somewhere.resources())
    for number in range(1, len(somewhere.cloud.calls) // 2):
        somewhere.cloud.fail = number
        outcome = somewhere.run()
        assert outcome.status == 1
        assert f"deploy.sh: this call failed: {somewhere.cloud.program} " in outcome.error
        assert somewhere.resources() == before


def test_half_a_page_blob_is_uploaded_again(on_azure: Place) -> None:
    assert on_azure.run().status == 0
    (blob,) = on_azure.cloud.state.of("blob").values()
    blob["metadata"] = {}
    assert on_azure.run().status == 0
    assert on_azure.changes() == ["storage blob upload", "storage blob metadata update"]
    assert blob["metadata"] == {} or blob["metadata"]["sha256"] == on_azure.kit.disk.sha256


def test_half_an_object_is_uploaded_again(on_gcp: Place) -> None:
    assert on_gcp.run().status == 0
    (item,) = on_gcp.cloud.state.of("object").values()
    item["size"] -= 1
    assert on_gcp.run().status == 0
    assert on_gcp.changes() == ["storage cp"]


@pytest.mark.parametrize("cloud", ["gcp", "aws"])
def test_another_object_of_the_same_name_and_size_is_replaced(cloud: str, tmp_path: Path) -> None:
    with place(tmp_path, cloud) as made:
        assert made.run().status == 0
        ((name, item),) = made.cloud.state.of("object").items()
        for other in ({}, {"sha256": "00" * 32}):
            item["custom_fields" if cloud == "gcp" else "metadata"] = other
            assert made.run().status == 0
            assert made.changes() == [{"gcp": "storage cp", "aws": "s3 cp"}[cloud]]
            item = made.cloud.state.of("object")[name]
        assert made.run().status == 0
        assert made.changes() == []


def test_a_snapshot_without_tags_is_found_by_its_import(on_aws: Place) -> None:
    assert on_aws.run().status == 0
    (snapshot,) = on_aws.cloud.state.of("snapshot").values()
    snapshot["Tags"] = []
    assert on_aws.run().status == 0
    assert on_aws.changes() == ["ec2 create-tags"]


def test_an_import_that_was_removed_does_not_hide_a_later_one(on_aws: Place) -> None:
    """AWS remembers tasks whose snapshots are gone, and the newest snapshot has no tags yet."""
    state = on_aws.cloud.state
    for _ in range(2):
        assert on_aws.run().status == 0
        assert on_aws.run("--delete", "--yes").status == 0
    assert (len(state.of("task")), state.of("snapshot")) == (2, {})
    assert on_aws.run().status == 0
    number = 1 + [call.command for call in on_aws.cloud.calls].index("ec2 create-tags")
    assert on_aws.run("--delete", "--yes").status == 0
    on_aws.cloud.fail = number
    outcome = on_aws.run()
    assert (outcome.status, on_aws.changes()[-1]) == (1, "ec2 create-tags")
    ((name, snapshot),) = state.of("snapshot").items()
    assert snapshot["Tags"] == []
    on_aws.cloud.fail = 0
    broken = deepcopy(state)
    assert on_aws.run().status == 0
    assert "ec2 import-snapshot" not in on_aws.changes()
    assert list(on_aws.cloud.state.of("snapshot")) == [name]
    assert on_aws.cloud.state.of("snapshot")[name]["Tags"] != []
    assert on_aws.run("--delete", "--yes").status == 0
    assert on_aws.cloud.state.of("snapshot") == {}
    on_aws.cloud.state = broken
    assert on_aws.run("--delete", "--yes").status == 0
    assert on_aws.cloud.state.of("snapshot") == {}


def test_noncurrent_objects_are_no_objects(on_gcp: Place) -> None:
    """In a bucket of the user's own, which keeps what was replaced and what was removed."""
    own = ("--bucket", "own-images")
    assert on_gcp.run(*own).status == 0
    state = on_gcp.cloud.state
    state.of("bucket")["own-images"]["versioning"] = True
    (item,) = state.of("object").values()
    item["custom_fields"] = {"sha256": "00" * 32}
    assert on_gcp.run(*own).status == 0
    assert on_gcp.changes() == ["storage cp"]
    assert len(state.of("object")) == 2
    assert on_gcp.run(*own).status == 0
    assert on_gcp.changes() == []
    assert on_gcp.run(*own, "--delete", "--yes").status == 0
    assert "storage rm" in on_gcp.changes()
    assert all("noncurrent_time" in each for each in state.of("object").values())
    assert on_gcp.run(*own, "--delete", "--yes").status == 0
    assert on_gcp.changes() == []
    assert on_gcp.run(*own).status == 0
    assert "storage cp" in on_gcp.changes()


def test_a_groups_name_in_capitals_is_the_same_group(on_azure: Place) -> None:
    """In the id of the image that Azure says a machine was made of."""
    assert on_azure.run().status == 0
    (machine,) = [
        item for key, item in on_azure.cloud.state.of("resource").items() if "virtualMachines" in key
    ]
    assert "/resourceGroups/CVM-TEST_RG/" in machine["storageProfile"]["imageReference"]["id"]
    assert on_azure.run().status == 0
    assert on_azure.changes() == []
    machine["provisioningState"] = "Failed"
    assert "machine cvm-test could not be made" in on_azure.run().error


def test_another_disk_is_not_uploaded(somewhere: Place) -> None:
    disk = somewhere.script.parent / somewhere.kit.disk.file
    disk.write_bytes(DISK[:-1] + b"x")
    outcome = somewhere.run()
    assert outcome.status == 1
    assert f"{disk.name} has SHA-256 " in outcome.error
    assert f"and not {somewhere.kit.disk.sha256}, which was measured; build the image again" in outcome.error
    assert not any("upload" in name or name.endswith(" cp") for name in somewhere.changes())


def test_a_key_file_that_was_changed_is_not_used(somewhere: Place) -> None:
    name = somewhere.kit.files[0].file
    (somewhere.script.parent / name).write_bytes(b"other")
    outcome = somewhere.run()
    assert outcome.status == 1
    assert f"deploy.sh: {name} has SHA-256 " in outcome.error


def test_a_missing_disk(somewhere: Place) -> None:
    disk = somewhere.script.parent / somewhere.kit.disk.file
    disk.unlink()
    assert f"{disk} is missing or not readable; build the image again" in somewhere.run().error


@pytest.mark.parametrize(
    ("cloud", "options", "message"),
    [
        ("azure", ("--location", "atlantis"), "LocationNotAvailableForResourceType"),
        ("azure", ("--size", "Standard_D2s_v5"), "is not supported with security type"),
        ("azure", ("--storage-account", "taken"), "StorageAccountAlreadyTaken"),
        ("gcp", ("--zone", "atlantis-west1-a"), "The specified location constraint is not valid"),
        ("gcp", ("--machine-type", "n2-standard-4"), "TDX is not supported for machine type n2-standard-4"),
        ("gcp", ("--project", "others-1"), "not found"),
        ("gcp", ("--bucket", "taken"), "The requested bucket name is not available"),
        ("aws", ("--region", "at-west-1"), "Could not connect to the endpoint URL"),
        ("aws", ("--region", "us-east-1"), "is not supported for AmdSevSnp"),
        ("aws", ("--instance-type", "m7i.large"), "is not supported for AmdSevSnp"),
        ("aws", ("--role", "other"), "The service role other provided does not exist"),
    ],
)
def test_what_a_cloud_refuses_is_shown(
    cloud: str, options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with place(tmp_path, cloud) as made:
        outcome = made.run(*options)
    assert outcome.status == 1
    assert message in outcome.error


@pytest.mark.parametrize(
    ("cloud", "message"),
    [
        ("azure", "Azure could not make image version 1.0.0; its portal says why"),
        ("gcp", "gcloud compute operations list says why"),
        ("aws", "AWS did not import the disk (ClientError: Disk validation failed)"),
    ],
)
def test_a_disk_that_a_cloud_does_not_take(cloud: str, message: str, tmp_path: Path) -> None:
    with place(tmp_path, cloud) as made:
        made.cloud.state.bad_disk = True
        outcome = made.run()
        assert (outcome.status, message in outcome.error) == (1, True)
        made.cloud.state.bad_disk = False
        assert made.run().status == 0


@pytest.mark.parametrize(
    ("cloud", "advice"),
    [("azure", "az login signs in"), ("gcp", "gcloud auth login signs in"), ("aws", "aws configure")],
)
def test_nobody_is_signed_in(cloud: str, advice: str, tmp_path: Path) -> None:
    with place(tmp_path, cloud) as made:
        made.cloud.state.signed_out = True
        outcome = made.run()
        assert (outcome.status > 0, advice in outcome.error, made.changes()) == (True, True, [])


def test_the_program_is_not_installed(somewhere: Place) -> None:
    (Path(somewhere.environment["PATH"].split(":")[0]) / somewhere.cloud.program).unlink()
    tools = somewhere.folder / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "grep", "tr", "sed", "mktemp", "rm", "cat"):
        (tools / name).symlink_to(require_tool(name))
    outcome = somewhere.run(PATH=str(tools))
    assert outcome.status == 2
    assert f"deploy.sh: {somewhere.cloud.program} is not installed; see https://" in outcome.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vm", "x; touch pwned"), "no space and no special character may be in it"),
        (("--vm", "x\ny"), "no space and no special character may be in it"),
        (("--vm", "$(touch${IFS}pwned)"), "is not allowed; write for example cvm-test"),
        (("--vm=a'b",), "is not allowed; write for example cvm-test"),
        (("--vm", "-x"), "is not allowed; write for example cvm-test"),
        (("--vm", ""), "is not allowed; write for example cvm-test"),
        (("--ports", "22,65536"), "--ports: 65536 is not 1 to 65535"),
        (("--ports", "22;id"), "is not allowed; write for example 22,8000"),
        (("--source", "`id`"), "is not allowed; write for example 203.0.113.0/24"),
        (("--source", "999.1.1.1/77"), "is not allowed; write for example 203.0.113.0/24"),
        (("--source", "08.0.0.0/8"), "is not allowed; write for example 203.0.113.0/24"),
        (("--source", "203.0.113.9/24"), "--source: '203.0.113.9/24' has bits behind its prefix"),
        (("--source", "128.0.0.0/0"), "--source: '128.0.0.0/0' has bits behind its prefix"),
        (("--tee", "sgx"), "'sgx' is not allowed; write for example"),
        (("--disk-size", "0"), "'0' is not allowed; write for example 64"),
        (("--vtpm", "false"), "without a TPM nothing that boots is measured"),
        (("--vmm", "x"), "--vmm is no option; see --help"),
        (("--vm",), "--vm is no option, or needs a value; see --help"),
        (("vm",), "'vm' is no option; see --help"),
        (("--dry-run=yes",), "--dry-run is no option; see --help"),
    ],
)
def test_a_wrong_option_stops_before_any_call(
    somewhere: Place, options: tuple[str, ...], message: str
) -> None:
    outcome = somewhere.run(*options)
    assert (outcome.status, outcome.out, somewhere.cloud.calls) == (2, "", [])
    assert outcome.error.startswith("deploy.sh: ")
    assert message in outcome.error
    assert not list(somewhere.folder.rglob("pwned"))


ALONE = ("--security-feature", "ConfidentialVmSupported")


@pytest.mark.parametrize(
    ("cloud", "options", "message"),
    [
        ("azure", ("--disk-size", "4096"), "--disk-size: a disk that is booted from has 1 to 4095 GiB"),
        ("azure", (*ALONE, "--tee", "none", "--secure-boot", "false"), "takes neither --tee none nor keys"),
        ("azure", ALONE, "--security-feature: an image for confidential machines alone takes neither"),
        ("gcp", ("--disk-size", "9"), "--disk-size: a disk of type pd-balanced has 10 to 65536 GiB"),
        ("gcp", ("--disk-size", "65537"), "--disk-size: a disk of type pd-balanced has 10 to 65536 GiB"),
        ("aws", ("--disk-size", "65537"), "--disk-size: a volume of type gp3 has 1 to 65536 GiB"),
        ("aws", ("--disk-size", "16385", "--volume-type", "gp2"), "gp2 has 1 to 16384 GiB"),
    ],
)
def test_what_the_last_call_would_refuse_stops_before_the_first(
    cloud: str, options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with place(tmp_path, cloud) as made:
        outcome = made.run(*options)
        assert (outcome.status, outcome.out, made.cloud.calls) == (2, "", [])
        assert message in outcome.error


@pytest.mark.parametrize(
    ("cloud", "options"),
    [
        ("azure", ("--disk-size", "4095", *ALONE, "--secure-boot", "false")),
        ("azure", ("--ports", "22", "--source", "203.0.113.9/32")),
        ("gcp", ("--disk-size", "10", "--ports", "22", "--source", "::/0")),
        ("gcp", ("--disk-size", "4", "--disk-type", "hyperdisk-balanced")),
        ("aws", ("--disk-size", "16384", "--volume-type", "gp2")),
        ("aws", ("--ports", "22", "--source", "128.0.0.0/1")),
    ],
)
def test_what_is_just_allowed(cloud: str, options: tuple[str, ...], tmp_path: Path) -> None:
    with place(tmp_path, cloud) as made:
        outcome = made.run(*options)
        assert outcome.status == 0, outcome.error


@pytest.mark.parametrize("cloud", CLOUDS)
def test_secure_boot_without_keys_stops_before_any_call(cloud: str, tmp_path: Path) -> None:
    spec = {"azure": AzureSpec, "gcp": GcpSpec, "aws": AwsSpec}[cloud](secure_boot=False)
    with place(tmp_path, cloud, make_kit(cloud, spec)) as made:
        outcome = made.run("--secure-boot", "true")
        assert (outcome.status, outcome.out, made.cloud.calls) == (2, "", [])
        assert outcome.error == (
            "deploy.sh: --secure-boot: this kit has no keys; "
            f"build it with secure_boot: true in publish.{cloud}\n"
        )
        assert made.run().status == 0


# What is there, what is then asked for, and what of the first two is said.
SAFER: list[tuple[str, tuple[str, ...], tuple[str, ...], str]] = [
    ("azure", ("--tee", "none"), (), "with 'none-sb1-vtpm1' and not with 'tdx-sb1-vtpm1-"),
    ("azure", (), ("--os-disk-encryption", "NonPersistedTPM"), "not with 'tdx-sb1-vtpm1-NonPersistedTPM'"),
    ("gcp", ("--tee", "none", "--machine-type", "n2-standard-4"), (), "with 'none-sb1-vtpm1-integrity"),
    ("gcp", ("--tee", "sev-snp"), (), "and not with 'tdx-sb1-vtpm1-integrity"),
    ("aws", ("--tee", "none"), (), "with 'none-sb1-vtpm1' and not with 'sev-snp-sb1-vtpm1'"),
]


@pytest.mark.parametrize(("cloud", "first", "second", "message"), SAFER)
def test_a_machine_with_other_protection_is_not_taken(
    cloud: str, first: tuple[str, ...], second: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with place(tmp_path, cloud) as made:
        assert made.run(*first).status == 0
        outcome = made.run("--ports", "22", *second)
        assert (outcome.status, outcome.out, made.changes()) == (1, "", [])
        assert "deploy.sh: machine cvm-test" in outcome.error
        assert message in outcome.error
        assert outcome.error.endswith("remove it with --delete, or give another --vm\n")
        assert made.run(*first).status == 0
        assert made.run("--delete", "--yes").status == 0
        assert made.run(*second).status == 0


@pytest.mark.parametrize(
    ("cloud", "options", "message"),
    [
        ("azure", ("--secure-boot", "false"), "with 'sb0' and not with 'sb1', which is asked for"),
        ("gcp", ("--secure-boot", "false"), "with 'sb0' and not with 'sb1', which is asked for"),
        ("aws", ("--secure-boot", "false"), "with 'sb0-vtpm1' and not with 'sb1-vtpm1', which is asked for"),
        ("aws", ("--tee", "none", "--vtpm", "false"), "with 'sb1-vtpm0' and not with 'sb1-vtpm1', which"),
    ],
)
def test_an_image_with_other_protection_is_not_taken(
    cloud: str, options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with place(tmp_path, cloud) as made:
        assert made.run(*options).status == 0
        outcome = made.run(
            "--vm", "other", *(("--resource-group", "cvm-test_rg") if cloud == "azure" else ())
        )
        assert (outcome.status, outcome.out, made.changes()) == (1, "", [])
        assert message in outcome.error
        assert made.run("--delete", "--yes").status == 0
        assert made.run().status == 0


@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_text_of_a_kit_is_run(cloud: str, tmp_path: Path) -> None:
    hostile = 'x\'; touch pwned; $(touch pwned) `touch pwned` "$HOME" #'
    kit = replace(make_kit(cloud), image=hostile, version=hostile, disk_name=hostile)
    with place(tmp_path, cloud, kit) as made:
        outcome = made.run("--dry-run")
        assert outcome.status == 0
        assert any(hostile in word for line in outcome.out.splitlines() for word in shlex.split(line))
        assert not list(tmp_path.rglob("pwned"))


def test_options_change_the_calls(on_azure: Place) -> None:
    options = (
        "--vm=other",
        "--tee",
        "sev-snp",
        "--os-disk-encryption",
        "NonPersistedTPM",
        "--disk-size",
        "64",
    )
    assert on_azure.run(*options).status == 0
    (created,) = [call.argv for call in on_azure.cloud.calls if call.command == "vm create"]
    text = " ".join(created)
    for words in (
        "--name other --resource-group other_rg",
        "--size Standard_DC2as_v5",
        "--os-disk-security-encryption-type NonPersistedTPM",
        "--os-disk-size-gb 64",
    ):
        assert words in text


def test_a_machine_without_protection(somewhere: Place) -> None:
    assert somewhere.run("--tee", "none", "--secure-boot", "false").status == 0
    words = " ".join(word for call in somewhere.cloud.calls for word in call.argv)
    assert (
        re.search("ConfidentialVM |confidential-compute|AmdSevSnp|uefiSettings|key-file|uefi-data", words)
        is None
    )


def test_ports_are_opened_and_closed(somewhere: Place) -> None:
    assert somewhere.run("--ports", "22,8000").status == 0
    opened = deepcopy(somewhere.resources())
    assert somewhere.run("--ports", "22,8000").status == 0
    assert somewhere.changes() == []
    assert somewhere.run("--ports", "8000", "--source", "203.0.113.0/24").status == 0
    assert somewhere.resources() != opened
    assert len(somewhere.changes()) > 0
    assert somewhere.run("--ports", "").status == 0
    assert "8000" not in str(
        [item for kind in ("rule", "group") for item in somewhere.cloud.state.of(kind).values()]
        + [key for key in somewhere.cloud.state.of("resource") if "securityRules" in key]
    )


@pytest.mark.parametrize(
    ("cloud", "kind", "path", "message"),
    [
        (
            "azure",
            "virtualMachines/cvm-test",
            ("storageProfile", "imageReference", "id"),
            "machine cvm-test runs",
        ),
        ("azure", "versions/1.0.0", ("tags", "goldsmith_sha256"), "give another --image-version"),
        ("azure", "images/debian-cvm", ("osState",), "give another --definition"),
        ("gcp", "instance", ("labels", "goldsmith_disk"), "give another --vm"),
        ("gcp", "image", ("labels", "goldsmith_image"), "delete or rename it"),
        ("aws", "instance", ("ImageId",), "give another --vm"),
        ("aws", "ami", ("BlockDeviceMappings", 0, "Ebs", "SnapshotId"), "deregister or rename it"),
        ("aws", "group", ("Tags", 0, "Value"), "give another --vm"),
    ],
)
def test_what_is_somebody_elses_is_not_touched(
    cloud: str, kind: str, path: tuple[str | int, ...], message: str, tmp_path: Path
) -> None:
    with place(tmp_path, cloud) as made:
        assert made.run().status == 0
        where = "resource" if cloud == "azure" else kind
        value: Any = next(
            item for key, item in made.cloud.state.of(where).items() if cloud != "azure" or key.endswith(kind)
        )
        for step in path[:-1]:
            value = value[step]
        value[path[-1]] = "something-else"
        outcome = made.run()
        assert (outcome.status, made.changes()) == (1, [])
        assert message in outcome.error


def test_delete_asks_first(somewhere: Place) -> None:
    assert somewhere.run().status == 0
    before = deepcopy(somewhere.resources())
    outcome = somewhere.run("--delete")
    assert (outcome.status, somewhere.changes(), somewhere.resources()) == (1, [], before)
    assert outcome.error.endswith("? [y/N] deploy.sh: nothing was deleted\n")


def test_delete_removes_what_was_made_and_can_be_broken_off(somewhere: Place) -> None:
    assert somewhere.run("--ports", "22").status == 0
    made = deepcopy(somewhere.cloud.state)
    assert somewhere.run("--delete", "--yes").status == 0
    assert _left(somewhere) == {}
    for state in deepcopy(list(somewhere.cloud.after.values())):
        somewhere.cloud.state = state
        assert somewhere.run("--delete", "--yes").status == 0
        assert _left(somewhere) == {}
    somewhere.cloud.state = made
    dry = somewhere.run("--delete", "--dry-run", *KNOWN[somewhere.kit.cloud])
    assert (dry.status, somewhere.cloud.calls) == (0, [])
    assert all(shlex.split(line)[0] == somewhere.cloud.program for line in dry.out.splitlines())


def _left(made: Place) -> dict[str, object]:
    """What is left but for the records that a cloud itself keeps."""
    found = made.resources()
    found.pop("task", None)
    if all(item["State"]["Name"] == "terminated" for item in found.get("instance", {}).values()):
        found.pop("instance", None)
    return found


def test_delete_keeps_what_others_have_there(on_azure: Place) -> None:
    assert on_azure.run().status == 0
    state = on_azure.cloud.state
    group = next(iter(state.of("group")))
    network = next(key for key in state.of("resource") if key.endswith("/cvm-test-vnet"))
    state.of("resource")[network]["tags"] = {"goldsmith_image": "another"}
    state.of("blob")[f"{next(iter(state.of('container')))}/theirs.vhd"] = {"name": "theirs.vhd"}
    outcome = on_azure.run("--delete", "--yes")
    assert outcome.status == 0
    assert f"kept: {network}, it was made for another" in outcome.error
    left = on_azure.resources()
    assert set(left) == {"group", "resource", "container", "blob"}
    assert list(left["group"]) == [group]
    assert min(key.rpartition("/")[2] for key in left["resource"]) == "cvm-test-vnet"
    assert [item["name"] for item in left["blob"].values()] == ["theirs.vhd"]


KEPT: dict[str, tuple[str, set[str]]] = {
    "azure": (
        "kept: machine cvm-test and its network, it runs something else (debian-cvm-2-0-",
        {"cvm-test", "cvm-testVMNic", "cvm-test-ip", "cvm-test-nsg", "cvm-test-vnet", "ports"},
    ),
    "gcp": (
        "kept: machine cvm-test and its firewall rule, it runs something else",
        {"cvm-test", "cvm-test-ports"},
    ),
    "aws": ("kept: machine cvm-test and its security group, it runs something else", set()),
}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_delete_keeps_a_machine_of_another_version(cloud: str, tmp_path: Path) -> None:
    """The machine was made by the next version's kit, of the same image and with the same names."""
    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir()
    old.mkdir()
    message, names = KEPT[cloud]
    kit = make_kit(cloud)
    version = ("--image-version", "2.0.0") if cloud == "azure" else ()
    newer = replace(kit, version="2.0", disk_name=kit.disk_name.replace("-1-0-", "-2-0-"))
    with place(new, cloud, newer) as second, place(old, cloud, kit) as first:
        assert second.run("--ports", "22", *version).status == 0
        first.server.cloud = second.server.cloud
        running = _machine(second)
        outcome = first.run("--delete", "--yes")
        assert outcome.status == 0, outcome.error
        assert message in outcome.error
        assert _machine(second) == running
        assert names <= {key.rpartition("/")[2] for items in second.resources().values() for key in items}
        # Nor does the older kit open or close anything of it.
        assert first.run("--ports", "23").status == 1
        assert _machine(second) == running
        assert second.run("--delete", "--yes", *version).status == 0
        assert not any(names & set(items) for items in second.resources().values())


def _machine(made: Place) -> dict[str, Any]:
    """The machine, and what lets others reach it."""
    kinds = {"instance", "group", "rule", "resource"} if made.kit.cloud != "azure" else {"resource"}
    wanted = re.compile("Microsoft.(Network|Compute/virtualMachines)/")
    return deepcopy(
        {
            kind: {key: item for key, item in items.items() if kind != "resource" or wanted.search(key)}
            for kind, items in made.resources().items()
            if kind in kinds
        }
    )


def test_delete_where_there_is_nothing(somewhere: Place) -> None:
    assert somewhere.run("--delete", "--yes").status == 0
    assert somewhere.changes() == []


def test_an_interrupt_leaves_what_is_made_for_the_next_run(on_aws: Place) -> None:
    """While it waits, which is where people lose their patience."""
    process = subprocess.Popen(
        ["sh", str(on_aws.script)],
        env={**on_aws.environment, "GOLDSMITH_POLL": "60"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    limit = time.monotonic() + 60
    while "ec2 describe-import-snapshot-tasks" not in [call.command for call in on_aws.cloud.calls[-1:]]:
        assert time.monotonic() < limit
        time.sleep(0.05)
    while on_aws.cloud.calls[-1].argv[2] != "--import-task-ids":
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"deploy.sh: stopped; the same command goes on from here" in error
    assert list((on_aws.folder / "tmp").iterdir()) == []
    assert on_aws.run().status == 0
    assert "ec2 import-snapshot" not in on_aws.changes()
    assert len(on_aws.cloud.state.of("task")) == 1


def test_no_secret_is_on_a_command_line(somewhere: Place) -> None:
    assert somewhere.run().status == 0
    for call in somewhere.cloud.calls:
        assert not {"--account-key", "--sas-token", "--connection-string"} & set(call.argv)
        assert not any("PRIVATE" in word for word in call.argv)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_command_of_the_table_is_documented_and_used(cloud: str, tmp_path: Path) -> None:
    with place(tmp_path, cloud) as made:
        used: set[str] = set()
        subnet = () if cloud != "aws" else ("--subnet", "subnet-0123456789abcdef0")
        for options in (("--ports", "22,8000"), ("--ports", "22"), (), ("--delete", "--yes"), subnet):
            assert made.run(*options).status == 0
            used |= {call.command for call in made.cloud.calls}
    rare = {"ec2 deregister-image"}
    assert set(TABLES[cloud]) - used <= rare
    for command in TABLES[cloud].values():
        assert re.match(
            r"https://(learn\.microsoft\.com|cloud\.google\.com|docs\.aws\.amazon\.com)/", command.doc
        )
