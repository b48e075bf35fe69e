from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import SpecError
from recipes.schema import load_image
from recipes.schema.workload import SecretsPolicy, WorkloadSpec
from tests.unit.test_schema import RECIPE, write

WITH = RECIPE.replace("packages: [systemd]", "packages: [systemd, podman, crun]")


def load(folder: Path, workload: str, recipe: str = WITH) -> WorkloadSpec | None:
    made = folder / "recipes/workloads/site"
    made.mkdir(parents=True, exist_ok=True)
    (made / "docker-compose.yml").touch()
    (folder / "recipes/workloads/empty").mkdir(exist_ok=True)
    return load_image(write(folder, f"{recipe}workload: {workload}\n"), folder).recipe.workload


def mistake(folder: Path, workload: str, recipe: str = WITH) -> str:
    with pytest.raises(SpecError) as caught:
        load(folder, workload, recipe)
    return str(caught.value).replace("recipes/images/one.yaml:", "")


def test_a_workload_has_defaults(tmp_path: Path) -> None:
    spec = load(tmp_path, "{path: recipes/workloads/site}")
    assert spec == WorkloadSpec(path="recipes/workloads/site")
    assert (spec.name, spec.verity, spec.register) == ("site", True, 14)
    assert (spec.secrets, spec.size, spec.images) == (SecretsPolicy.REFUSE, None, ())
    assert load_image(write(tmp_path, RECIPE), tmp_path).recipe.workload is None


def test_every_key(tmp_path: Path) -> None:
    images = "images: [{name: a, packages: [busybox-static], overlay: base, entrypoint: [/bin/a, b]}]"
    spec = load(
        tmp_path,
        "{path: recipes/workloads/site, verity: false, register: 23, size: 2MiB, "
        f"secrets: plaintext-readable-by-the-host, {images}}}",
    )
    assert spec is not None
    assert (spec.verity, spec.register, spec.size) == (False, 23, 2 << 20)
    assert spec.secrets is SecretsPolicy.PLAINTEXT
    (image,) = spec.images
    assert (image.name, image.overlay, image.entrypoint) == ("a", "base", ("/bin/a", "b"))


SITE = "path: recipes/workloads/site"
LINE = WITH.count("\n") + 1


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (
            "{path: recipes/workloads/sit}",
            f"{LINE}:18: there is no folder recipes/workloads/sit; did you mean 'site'?",
        ),
        (
            "{path: recipes/workloads/empty}",
            (
                f"{LINE}:18: recipes/workloads/empty has no docker-compose.yml; "
                "write one that lists the services"
            ),
        ),
        (
            "{path: site}",
            (f"{LINE}:18: workload.path: 'site' is not allowed; write for example recipes/workloads/hello"),
        ),
        (
            f"{{{SITE}, register: 11}}",
            f"{LINE}:52: PCR 11 is not for workloads; use one of 14, 15, 23, best 14",
        ),
        (
            f"{{{SITE}, secrets: yes}}",
            (
                f"{LINE}:51: workload.secrets: 'yes' is not known; known: "
                "plaintext-readable-by-the-host, refuse"
            ),
        ),
        (f"{{{SITE}, size: 1000KiB}}", f"{LINE}:48: workload.size 1000 KiB is not whole MiB"),
        (
            f"{{{SITE}, images: [{{name: a, packages: [], entrypoint: [x]}}]}}",
            f"{LINE}:71: the image has neither packages nor an overlay; name what is in it",
        ),
        (
            f"{{{SITE}, images: [{{name: a, packages: [b1], entrypoint: []}}]}}",
            f"{LINE}:89: entrypoint is empty; say which program the image runs",
        ),
        (
            f"{{{SITE}, images: [{{name: a, packages: [b1], entrypoint: [x], overlay: bas}}]}}",
            f"{LINE}:103: there is no overlay rootfs/bas; did you mean 'base'?",
        ),
    ],
)
def test_mistakes_have_a_place(tmp_path: Path, workload: str, message: str) -> None:
    assert mistake(tmp_path, workload).splitlines()[0] == message


def test_a_workload_needs_what_runs_it(tmp_path: Path) -> None:
    assert mistake(tmp_path, f"{{{SITE}}}", RECIPE).splitlines() == [
        f"{LINE}:11: a workload needs the package crun; add it to rootfs.packages",
        f"{LINE}:11: a workload needs the package podman; add it to rootfs.packages",
    ]


def test_an_image_that_is_listed_twice(tmp_path: Path) -> None:
    image = "{name: a, packages: [b1], entrypoint: [x]}"
    text = mistake(tmp_path, f"{{{SITE}, images: [{image}, {image}]}}")
    assert text.endswith("image 'a' is listed twice")
