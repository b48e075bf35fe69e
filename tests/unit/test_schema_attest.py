from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import SpecError
from recipes.schema import load_image
from recipes.schema.attest import AttestSpec
from recipes.steps import attest, rootfs
from recipes.steps.digests import ROOT as PROJECT
from tests.support import ROOT

RECIPE = (ROOT / "recipes/images/debian-workload.yaml").read_text()
ASKED = "attest: {operators: keys/operator.pem}\n"


def load(folder: Path, text: str) -> AttestSpec | None:
    path = folder / "some.yaml"
    path.write_text(text)
    return load_image(path, ROOT).recipe.attest


def test_what_a_recipe_says(tmp_path: Path) -> None:
    assert ASKED in RECIPE
    assert load(tmp_path, RECIPE) == AttestSpec(operators="keys/operator.pem", port=8000)
    assert load(tmp_path, RECIPE.replace(ASKED, "attest: {port: 7999}\n")) == AttestSpec(port=7999)
    assert load(tmp_path, RECIPE.replace(ASKED, "attest: {}\n")) == AttestSpec()
    assert load(tmp_path, RECIPE.replace(ASKED, "")) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("python3, ", "", "the attestation service needs python3; add it to rootfs.packages"),
        ("openssl,", "", "the attestation service needs openssl; add it to rootfs.packages"),
        (ASKED, "attest: {port: 0}\n", "attest.port is 0; a port is 1 to 65535"),
        (ASKED, "attest: {port: 65536}\n", "attest.port is 65536; a port is 1 to 65535"),
        ("loop, ", "", "a workload that comes is mounted as a file; add loop to rootfs.modules"),
        (ASKED, "attest: {operator: keys/operator.pem}\n", "operator"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    with pytest.raises(SpecError) as error:
        load(tmp_path, RECIPE.replace(old, new))
    assert message in str(error.value)
    assert "some.yaml:" in str(error.value)


def test_operators_need_a_workload(tmp_path: Path) -> None:
    start = RECIPE.index("workload:\n")
    end = RECIPE.index("# Says what this machine booted")
    with pytest.raises(
        SpecError, match="there is no workload to exchange; write workload, or leave operators out"
    ):
        load(tmp_path, RECIPE[:start] + RECIPE[end:])


def test_the_service_is_in_the_root_file_system() -> None:
    image = load_image(ROOT / "recipes/images/debian-workload.yaml", PROJECT)
    step = rootfs.step(image)
    spec = step.arguments["spec"]
    assert "attest" in spec.overlays
    assert {"attest.socket", "systemd-networkd.service"} <= set(spec.enable)
    assert PROJECT / "keys/operator.pem" in step.inputs
    assert step.arguments["attested"] == attest.Attested(port=8000, operators=PROJECT / "keys/operator.pem")
    assert [path.name for path in step.arguments["programs"]] == ["helpers.tar"]


def test_an_image_without_it_is_as_before() -> None:
    image = load_image(ROOT / "recipes/images/debian-cvm.yaml", PROJECT)
    step = rootfs.step(image)
    assert "attest" not in step.arguments["spec"].overlays
    assert step.arguments["attested"] is None
    assert attest.inputs(image) == ()
