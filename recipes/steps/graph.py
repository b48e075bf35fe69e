"""Every task of every image: the steps in order, and the name that builds all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..schema import ConvertedImage, DiskImage, HatsImage, Image, Project, RealmImage, SharedKernel
from . import (
    broker_keys,
    check,
    data,
    develop,
    disk,
    disk_formats,
    firmware,
    golden,
    helpers,
    initramfs,
    kernel,
    keys,
    launch,
    operator_keys,
    packages,
    publish,
    rootfs,
    run,
    summary,
    uki,
    unlock_keys,
    update,
    verity,
    volume_keys,
    workload,
)
from .convert import base, encrypt, jindisk, root
from .convert import disk as converted_disk
from .hats import bundles, capture, files, policies
from .hats import golden as hats_golden
from .hats import keys as hats_keys
from .realm import applications, provision, stability
from .realm import golden as realm_golden
from .realm import initramfs as realm_initramfs
from .realm import kernel as realm_kernel
from .realm import keys as realm_keys
from .signals import clean_up_when_stopped
from .task import Step, Task

HEADERS = {
    "keys": "make development keys in keys/, once",
    "packages": "download locked packages and check each against the lock",
    "kernel": "take kernels out of their packages",
    "rootfs": "make root file systems (EROFS)",
    "base": "assemble base images of packages",
    "convert": "copy the roots of base images and edit them in an appliance, once",
    "encrypt": "encrypt root file systems (LUKS2)",
    "jindisk": "write device-mapper tables for kernels with dm-jindisk",
    "workload": "write workloads' partitions (EROFS) and the manifests that are measured",
    "verity": "hash root file systems for dm-verity",
    "helpers": "compile the initramfs' C programs with a compiler from locked packages",
    "initramfs": "make initramfs archives with the unlock driver",
    "uki": "assemble and sign Unified Kernel Images",
    "firmware": "take firmware out of its package",
    "variables": "write variable stores with Secure Boot keys enrolled",
    "data": "make data partitions that come with their image",
    "disk": "lay out disks, and write them in the formats of clouds",
    "applications": "import or make OCI application images, check and sign them",
    "files": "take the files that HATs launches, or stand-ins for them",
    "bundles": "write the archives that HATs' launcher takes",
    "launch": "render launch scripts",
    "golden": "compute golden measurements",
    "policies": "write appraisal policies and the configuration of HATs' launcher",
    "publish": "put together what publishes images on clouds",
    "provision": "write signed realm metadata, reference values and the lines that start a realm",
    "stability": "say which options change a realm's measurement",
    "check": "boot an image and compare what the TPM measured with the prediction",
    "run": "boot an image on this terminal",
    "capture": "capture ACPI tables for stage0 from the QEMU that is installed",
    "update": "resolve a lock again and capture what only a running VMM knows",
}

# Tasks that run virtual machines or test runners, which must not be left behind.
START_PROGRAMS = frozenset({"capture", "check", "convert", "update", "test", "lint", "bench"})


def steps(image: Image) -> tuple[Step, ...]:
    """The steps that build and measure an image, in the order in which they depend on each other."""
    return (
        packages.step(image),
        kernel.step(image),
        rootfs.step(image),
        verity.step(image),
        *workload.steps(image),
        helpers.step(image),
        initramfs.step(image),
        uki.step(image),
        *firmware.steps(image),
        *data.steps(image),
        disk.step(image),
        *disk_formats.steps(image),
        launch.step(image),
        golden.step(image),
        *publish.steps(image),
    )


def converted_steps(image: ConvertedImage) -> tuple[Step, ...]:
    """The steps that convert, encrypt and measure an image."""
    return (
        packages.step(image),
        *(() if image.recipe.base.is_brought else (base.step(image),)),
        *(() if image.recipe.kernel.package is None else (kernel.step(image),)),
        root.step(image),
        *jindisk.steps(image),
        encrypt.step(image),
        helpers.step(image),
        initramfs.step(image),
        uki.step(image),
        *firmware.steps(image),
        converted_disk.step(image),
        *disk_formats.steps(image),
        launch.step(image),
        golden.step(image),
        *publish.steps(image),
    )


def realm_steps(realm: RealmImage, shared: SharedKernel) -> tuple[Step, ...]:
    """The steps that build, measure and provision a realm."""
    return (
        packages.step(realm),
        realm_kernel.step(realm, shared),
        applications.step(realm),
        realm_initramfs.step(realm, shared),
        realm_golden.step(realm),
        provision.step(realm),
    )


def hats_steps(image: HatsImage) -> tuple[Step, ...]:
    """The steps that bundle and measure what HATs launches."""
    return (
        packages.step(image),
        kernel.step(image),
        files.step(image),
        bundles.step(image),
        hats_golden.step(image),
        policies.step(image),
    )


def processes(arguments: Sequence[str]) -> int:
    """How many steps run at once. A task that talks to the terminal must be in doit's own process (0)."""
    interactive = any(word == "run" or word.startswith("run:") for word in arguments)
    return 0 if interactive else 2


def cleans_everything(arguments: Sequence[str]) -> bool:
    """Whether ``clean`` names no task: then it is for the products of every image, not of the default one."""
    return list(arguments[:1]) == ["clean"] and all(word.startswith("-") for word in arguments[1:])


def tasks(project: Project) -> Iterator[Task]:
    """All doit tasks."""
    for task in _tasks(project):
        if task["basename"] in START_PROGRAMS and "actions" in task:
            task["actions"] = [(clean_up_when_stopped,), *task["actions"]]
        yield task


def _tasks(project: Project) -> Iterator[Task]:
    for basename, doc in HEADERS.items():
        yield {"basename": basename, "name": None, "doc": doc}
    yield keys.task()
    yield unlock_keys.task()
    yield broker_keys.task()
    yield operator_keys.task()
    yield realm_keys.task()
    for shared in project.kernels:
        yield packages.step(shared).task()
        yield kernel.step(shared).task()
        yield update.task(shared)
    for firmware_of_images in project.firmware:
        yield packages.step(firmware_of_images).task()
        yield update.task(firmware_of_images)
    for image in project.images:
        yield from _disk_tasks(image, steps(image))
    for converted in project.converted:
        yield from _disk_tasks(converted, converted_steps(converted))
    for realm in project.realms:
        shared = project.kernel(realm.recipe.kernel)
        built = realm_steps(realm, shared)
        yield from (step.task() for step in built)
        kernels = [f"packages:{shared.name}", f"kernel:{shared.name}"]
        whole = summary.task(realm, [*kernels, *(step.name for step in built)])
        report = stability.task(realm)
        # Who cleans the image cleans the report on it too, though building it makes none.
        yield {**whole, "clean": report["clean"]}
        yield report
        yield update.task(realm)
    for hats in project.hats:
        yield from _hats_tasks(hats)
    yield from develop.tasks()


def _hats_tasks(image: HatsImage) -> Iterator[Task]:
    """The tasks of what HATs launches."""
    key = hats_keys.key_path(image)
    if key is not None:
        yield hats_keys.task(image, key)
    built = hats_steps(image)
    yield from (step.task() for step in built)
    yield summary.task(image, [step.name for step in built])
    yield capture.task(image)
    yield update.task(image)


def _disk_tasks(image: DiskImage, built: Sequence[Step]) -> Iterator[Task]:
    """The tasks of an image that boots from a disk."""
    if volume_keys.kept(image):
        yield volume_keys.task(image)
    yield from (step.task() for step in built)
    shared = dict.fromkeys(item.firmware.recipe for item in image.snp if item.firmware.recipe)
    yield summary.task(image, [*(f"packages:{name}" for name in shared), *(step.name for step in built)])
    yield check.task(image)
    yield run.task(image)
    yield update.task(image)
