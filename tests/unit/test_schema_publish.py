from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from recipes.errors import SpecError
from recipes.reader import load
from recipes.schema import load_image
from recipes.schema.publish import (
    AwsSpec,
    AzureSpec,
    CloudSpec,
    GcpSpec,
    PublishSpec,
    Tee,
    azure_version,
    parameters,
)
from recipes.units import GIB
from tests.support import ROOT, require_tool

SPECS = (AzureSpec(), GcpSpec(), AwsSpec())


def recipe(tmp_path: Path, publish: str, version: str = "1") -> Path:
    """The project's recipe with another list of clouds, in a project of its own."""
    text = (ROOT / "recipes" / "images" / "debian-cvm.yaml").read_text()
    text = re.sub(r"^publish: .*$", f"publish: {publish}", text, count=1, flags=re.MULTILINE)
    text = re.sub(r'^version: ".*"$', f'version: "{version}"', text, count=1, flags=re.MULTILINE)
    for folder in ("rootfs", "initrd", "recipes/workloads", "recipes/firmware"):
        if (ROOT / folder).exists():
            (tmp_path / folder).parent.mkdir(exist_ok=True)
            (tmp_path / folder).symlink_to(ROOT / folder)
    path = tmp_path / "some-image.yaml"
    path.write_text(text)
    return path


def test_every_key_has_a_default() -> None:
    found, _ = load("{azure: {}, gcp: {}, aws: {}}", "x", PublishSpec)
    assert found == PublishSpec(azure=AzureSpec(), gcp=GcpSpec(), aws=AwsSpec())
    assert [name for name, _ in found.clouds] == ["azure", "gcp", "aws"]
    assert load("{aws: {}}", "x", PublishSpec)[0].clouds == (("aws", AwsSpec()),)
    assert PublishSpec().clouds == ()


def test_keys_as_words_of_a_command_line() -> None:
    text = "azure: {ports: [22, 8000], disk_size: 64GiB, vtpm: no, tee: none, secure_boot: no}"
    spec = load(text, "x", PublishSpec)[0].azure
    assert spec is not None
    words = {item.name: item.value for item in parameters(spec)}
    assert (words["ports"], words["disk_size"], words["vtpm"], words["tee"]) == (
        "22,8000",
        "64",
        "false",
        "none",
    )
    assert (words["size"], words["location"], words["os_disk_encryption"]) == (
        "",
        "eastus",
        "VMGuestStateOnly",
    )
    assert parameters(spec)[-1].option == "os-disk-encryption"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_values_and_examples_match_their_patterns_here_and_in_grep(spec: CloudSpec) -> None:
    grep = require_tool("grep")
    for item in parameters(spec):
        assert item.help
        for value in (item.value, item.example):
            if value or not item.optional:
                assert re.fullmatch(item.pattern, value), item
                result = subprocess.run([grep, "-Eqx", "-e", item.pattern], input=f"{value}\n".encode())
                assert result.returncode == 0, item
        for wrong in ("a b", "'", "$(id)", "a;b", "-"):
            result = subprocess.run([grep, "-Eqx", "-e", item.pattern], input=f"{wrong}\n".encode())
            assert (result.returncode, re.fullmatch(item.pattern, wrong)) == (1, None), item


@pytest.mark.parametrize("spec", [AzureSpec(), GcpSpec()], ids=lambda spec: type(spec).__name__)
def test_there_is_a_machine_for_everything_that_protects(spec: AzureSpec | GcpSpec) -> None:
    assert sorted(spec.BY_TEE) == sorted(item.value for item in Tee)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1", "1.0.0"),
        ("0", "0.0.0"),
        ("12.3", "12.3.0"),
        ("1.2.3", "1.2.3"),
        ("1.2.3.4", None),
        ("01", None),
        ("1.0~rc1", None),
        ("1.", None),
        ("", None),
    ],
)
def test_versions_of_a_gallery(version: str, expected: str | None) -> None:
    assert azure_version(version) == expected


def test_the_projects_recipe_goes_to_every_cloud(tmp_path: Path) -> None:
    image = load_image(recipe(tmp_path, "{azure: {}, gcp: {}, aws: {}}"), tmp_path)
    assert len(image.recipe.publish.clouds) == 3


@pytest.mark.parametrize(
    ("publish", "version", "message"),
    [
        ("{azure: {ports: [0]}}", "1", "port 0 is not 1 to 65535"),
        ("{gcp: {ports: [22, 65536]}}", "1", "port 65536 is not 1 to 65535"),
        ("{aws: {ports: [22, 22]}}", "1", "port 22 is listed twice"),
        ("{azure: {disk_size: 100MiB}}", "1", "publish.azure.disk_size must be whole GiB"),
        (
            "{gcp: {vtpm: no}}",
            "1",
            "without a TPM nothing that boots is measured; leave it true, or write tee: none",
        ),
        ("{azure: {vtpm: no, tee: none}}", "1", "Azure verifies what boots only where there is a TPM"),
        (
            "{azure: {}}",
            "1.0~rc1",
            (
                "version '1.0~rc1' is not one to three numbers, which is all an Azure gallery takes; azure"
                " answers InvalidParameter (the image version name is invalid); set publish.azure.image_ver"
            ),
        ),
        (
            "{azure: {source: 999.1.1.1/77}}",
            "1",
            "publish.azure.source: '999.1.1.1/77' is not allowed; write for example 203.0.113.0/24",
        ),
        ("{gcp: {source: 203.0.113.0/33}}", "1", "'203.0.113.0/33' is not allowed"),
        (
            "{gcp: {source: 203.0.113.9/24}}",
            "1",
            (
                "publish.gcp.source: '203.0.113.9/24' has bits behind its prefix, or could be shorter; gcp"
                " answers Invalid value for field 'resource.sourceRanges[0]'; write 203.0.113.0/24"
            ),
        ),
        (
            "{azure: {source: '2001:db8:0::/48'}}",
            "1",
            (
                "has bits behind its prefix, or could be shorter; azure answers"
                " SecurityRuleInvalidAddressPrefix; write 2001:db8::/48"
            ),
        ),
        (
            "{aws: {source: '1:2:3/48'}}",
            "1",
            "publish.aws.source: '1:2:3/48' is no range of addresses; aws answers InvalidParameterValue",
        ),
        ("{aws: {volume_type: io2}}", "1", "publish.aws.volume_type: 'io2' is not known; known: gp2, gp3"),
        ("{azure: {vm: A_b}}", "1", "publish.azure.vm: 'A_b' is not allowed; write for example cvm-test"),
        ("{aws: {tee: tdx}}", "1", "publish.aws.tee: 'tdx' is not known; known: none, sev-snp"),
        ("{openstack: {}}", "1", "unknown key 'openstack'"),
        ("{azure: {locaton: eastus}}", "1", "unknown key 'locaton'; did you mean 'location'?"),
    ],
)
def test_mistakes(publish: str, version: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_image(recipe(tmp_path, publish, version), tmp_path)
    (problem,) = caught.value.problems
    assert message in problem.message


@pytest.mark.parametrize(
    "source", ["0.0.0.0/0", "203.0.113.9/32", "10.255.0.0/16", "'::/0'", "'2001:db8::/48'"]
)
def test_addresses_that_may_reach_a_machine(source: str, tmp_path: Path) -> None:
    image = load_image(recipe(tmp_path, f"{{gcp: {{source: {source}}}}}"), tmp_path)
    assert image.recipe.publish.gcp == GcpSpec(source=source.strip("'"))


def test_a_version_for_azure_alone(tmp_path: Path) -> None:
    image = load_image(
        recipe(tmp_path, '{azure: {image_version: "1.0.1", disk_size: 2GiB}}', "1.0~rc1"), tmp_path
    )
    assert image.recipe.publish.azure == AzureSpec(image_version="1.0.1", disk_size=2 * GIB)
