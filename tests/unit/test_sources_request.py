from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.errors import FormatError, SpecError
from recipes.sources.lock import Asked, Lock, LockedPackage
from recipes.sources.request import Closure, Group, Request, asked, check_packages, check_request
from tests.packages import control, write_deb

GROUPS = (
    Group("rootfs", ("dbus", "bash"), place="rootfs.packages"),
    Group("kernel", ("linux-image-cloud",), Closure.KERNEL, "kernel.package"),
)
REQUEST = Request(
    image="demo", recipe="images/demo.yaml", suite="trixie", architecture="amd64", groups=GROUPS
)
UPDATE = "run `python3 dodo.py update:demo`"


def row(name: str, version: str = "1", group: str = "rootfs", source: str = "") -> LockedPackage:
    return LockedPackage(
        name=name,
        version=version,
        architecture="amd64",
        sha256=hashlib.sha256(name.encode()).digest(),
        size=1,
        source=source or name,
        source_version=version,
        groups=(group,),
    )


LOCK = Lock(
    suite="trixie",
    architecture="amd64",
    epoch=0,
    request=(Asked("kernel", ("linux-image-cloud",)), Asked("rootfs", ("bash", "dbus"))),
    packages=(row("bash"), row("dbus"), row("dbus-daemon"), row("linux-image-cloud", group="kernel")),
)


def asking(*packages: str) -> Request:
    return replace(REQUEST, groups=(replace(GROUPS[0], packages=packages), GROUPS[1]))


def complaint(request: Request, lock: Lock) -> list[str]:
    with pytest.raises(SpecError) as caught:
        check_request(request, lock)
    return str(caught.value).splitlines()


def test_what_a_lock_remembers() -> None:
    assert asked(GROUPS) == LOCK.request
    assert asked((Group("stub", ("b", "a", "b")),)) == (Asked("stub", ("a", "b")),)


def test_a_lock_that_is_the_answer() -> None:
    check_request(REQUEST, LOCK)
    check_request(asking("bash", "dbus", "bash"), LOCK)


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        (("bash", "dbus", "htop", "vim"), ["htop is not in the lock", "vim is not in the lock"]),
        (
            ("bash", "dbus-deamon"),
            [
                "dbus-deamon is not in the lock (did you mean dbus-daemon?)",
                "dbus is in the lock, and is asked for no more",
            ],
        ),
        (
            ("bash", "dbus", "dbus-daemon"),
            ["dbus-daemon is in the lock only because another package needs it"],
        ),
        (("bash",), ["dbus is in the lock, and is asked for no more"]),
        # A kernel is no part of the root file system, wherever else it is locked.
        (("bash", "dbus", "linux-image-cloud"), ["linux-image-cloud is not in the lock"]),
    ],
)
def test_a_recipe_that_changed(packages: tuple[str, ...], said: list[str]) -> None:
    assert complaint(asking(*packages), LOCK) == [
        f"images/demo.yaml: rootfs.packages: {text}; {UPDATE}" for text in said
    ]


def test_a_row_that_was_deleted() -> None:
    lock = replace(LOCK, packages=LOCK.packages[1:])
    assert complaint(REQUEST, lock) == [
        f"images/demo.yaml: rootfs.packages: bash is not in the lock; {UPDATE}"
    ]


def test_a_lock_without_a_request() -> None:
    said = complaint(REQUEST, replace(LOCK, request=()))
    assert [line.split(" is in the lock only")[0] for line in said] == [
        "images/demo.yaml: kernel.package: linux-image-cloud",
        "images/demo.yaml: rootfs.packages: bash",
        "images/demo.yaml: rootfs.packages: dbus",
    ]


def test_groups_of_one_side() -> None:
    assert complaint(replace(REQUEST, groups=GROUPS[:1]), LOCK) == [
        f"images/demo.yaml: kernel: linux-image-cloud is in the lock, and is asked for no more; {UPDATE}"
    ]
    lock = replace(LOCK, packages=(*LOCK.packages, row("ovmf", group="firmware")))
    assert complaint(REQUEST, lock) == [
        "images/demo.yaml: firmware: no package is asked for under this name, and the lock has some; "
        + UPDATE
    ]


def test_another_release_and_architecture() -> None:
    assert complaint(replace(REQUEST, suite="forky", architecture="arm64"), LOCK) == [
        f"images/demo.yaml: debian.suite is forky, and the lock is for trixie; {UPDATE}",
        f"images/demo.yaml: architecture is arm64, and the lock is for amd64; {UPDATE}",
    ]


# --- packages and their rows


def check(folder: Path, controls: dict[str, str], *rows: LockedPackage) -> None:
    """Checks rows against packages with these further fields of control."""
    for name, more in controls.items():
        write_deb(folder, control(name, more=more))
    lock = replace(LOCK, packages=rows)
    check_packages(REQUEST, lock, lambda package: folder / f"{package.name}.deb")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": "2"}, "bash 2 amd64: version is 2, but the package with this sha256 says 1"),
        (
            {"architecture": "all"},
            "bash 1 all: architecture is all, but the package with this sha256 says amd64",
        ),
        ({"source": "dash"}, "bash 1 amd64: source is dash, but the package with this sha256 says shells"),
        (
            {"source_version": "1"},
            "bash 1 amd64: source_version is 1, but the package with this sha256 says 3",
        ),
    ],
)
def test_a_row_that_is_not_its_package(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    right = replace(row("bash", source="shells"), source_version="3")
    check(tmp_path, {"bash": "Source: shells (3)\n"}, right)
    with pytest.raises(SpecError) as caught:
        check(tmp_path, {}, replace(right, **changed))  # type: ignore[arg-type] # all of these are texts
    assert str(caught.value) == f"lock of demo: {said}; {UPDATE}"


def test_a_row_of_another_package(tmp_path: Path) -> None:
    write_deb(tmp_path, control("bash")).rename(tmp_path / "zsh.deb")
    with pytest.raises(SpecError) as caught:
        check(tmp_path, {}, row("zsh", source="bash"))
    said = "zsh 1 amd64: name is zsh, but the package with this sha256 says bash"
    assert str(caught.value) == f"lock of demo: {said}; {UPDATE}"


def test_a_file_that_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "bash.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(FormatError, match=r"bash 1 \(bash\.deb\): members are none"):
        check(tmp_path, {}, row("bash"))


@pytest.mark.parametrize(
    ("depends", "other"),
    [
        ("Depends: dbus\n", ""),
        ("Pre-Depends: dbus (>= 1), dbus (<< 2)\n", ""),
        ("Depends: none | dbus:any (= 1)\n", ""),
        ("Depends: bus\n", "Provides: abc, bus\n"),
        ("Depends: bus (>= 5)\n", "Provides: bus (= 5.1)\n"),
        ("Depends: dbus (>= 2)\n", "Provides: dbus (= 2)\n"),
        ("Recommends: none\nSuggests: none\n", ""),
    ],
)
def test_dependencies_that_are_met(tmp_path: Path, depends: str, other: str) -> None:
    check(tmp_path, {"bash": depends, "dbus": other}, row("bash"), row("dbus"))


@pytest.mark.parametrize(
    ("depends", "other", "needed"),
    [
        ("Depends: none\n", "", "none"),
        ("Depends: dbus, none (>= 2) | nothing\n", "", "none (>= 2) | nothing"),
        ("Pre-Depends: dbus (>> 1)\n", "", "dbus (>> 1)"),
        ("Depends: bus (>= 1)\n", "Provides: bus\n", "bus (>= 1)"),
        ("Depends: bus (>= 5)\n", "Provides: bus (= 4)\n", "bus (>= 5)"),
        # The kernel is locked, and is not in the root file system.
        ("Depends: linux-image-cloud\n", "", "linux-image-cloud"),
    ],
)
def test_dependencies_that_are_not(tmp_path: Path, depends: str, other: str, needed: str) -> None:
    with pytest.raises(SpecError) as caught:
        check(
            tmp_path,
            {"bash": depends, "dbus": other, "linux-image-cloud": ""},
            row("bash"),
            row("dbus"),
            row("linux-image-cloud", group="kernel"),
        )
    assert str(caught.value) == (f"lock of demo: bash 1 needs {needed}, which group rootfs lacks; {UPDATE}")


def test_a_kernel_needs_its_image_alone(tmp_path: Path) -> None:
    controls = {"linux-image-cloud": "Depends: linux-image-6, initramfs-tools\n", "linux-image-6": ""}
    kernel, image = row("linux-image-cloud", group="kernel"), row("linux-image-6", group="kernel")
    check(tmp_path, controls, kernel, image)
    with pytest.raises(SpecError) as caught:
        check(tmp_path, {}, kernel)
    said = "linux-image-cloud 1 needs linux-image-6, which group kernel lacks"
    assert str(caught.value) == f"lock of demo: {said}; {UPDATE}"


def test_a_group_that_is_not_closed_needs_nothing(tmp_path: Path) -> None:
    write_deb(tmp_path, control("ovmf", more="Depends: none\n"))
    groups = (Group("firmware", ("ovmf",), Closure.NONE),)
    lock = replace(LOCK, packages=(row("ovmf", group="firmware"),))
    check_packages(replace(REQUEST, groups=groups), lock, lambda package: tmp_path / "ovmf.deb")
