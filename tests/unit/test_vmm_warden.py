from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from recipes.errors import MeasureError
from recipes.machine import Irqchip, KvmtoolMachine, KvmtoolNetwork
from recipes.vmm import warden

REALM = uuid.UUID("3d9b4dbb-b5a6-527b-b1b9-a8af27f51cd2")
FILES = warden.WardenFiles(kernel="Image", initramfs="initramfs.cpio.gz", metadata="metadata.bin")
MACHINE = KvmtoolMachine(
    name="m",
    profile="kvmtool-eac5",
    vcpus=2,
    memory=512 << 20,
    irqchip=Irqchip.GICV3,
    networks=(KvmtoolNetwork(options="tapif=tap100,guest_mac=52:55:00:d1:55:01"),),
    vsock=12344,
    disable_sve=True,
)


def test_the_line_says_what_the_machine_is() -> None:
    # Spec: realm-manager 79b74b6 warden: -n cores, -r MB, -k, -i, -v CID, -d metadata, -z id, -t tap, -a MAC.
    assert warden.create_realm(MACHINE, REALM, FILES) == (
        "create-realm -n 2 -r 512 -k Image -i initramfs.cpio.gz -v 12344 -d metadata.bin "
        "-z 3d9b4dbb-b5a6-527b-b1b9-a8af27f51cd2 -t tap100 -a 52:55:00:d1:55:01"
    )


def test_the_quotation_marks_are_wardens() -> None:
    machine = replace(MACHINE, parameters='"quiet debug"')
    assert " -o 'quiet debug' " in warden.create_realm(machine, REALM, FILES)


def test_an_application_has_sizes_in_mib() -> None:
    application = warden.WardenApplication(
        name="hello", version="1.0", registry="registry:8888", image_size=32 << 20, data_size=64 << 20
    )
    assert warden.create_application(REALM, application) == (
        f"create-application -r {REALM} -n hello -v 1.0 -i registry:8888 -o 32 -d 64"
    )
    assert warden.start_realm(REALM) == f"start-realm -r {REALM}"


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (replace(MACHINE, algorithm="sha512"), "m: warden starts realms with sha256 only"),
        (replace(MACHINE, networks=()), "m: warden starts realms with one tap device and its MAC address"),
        (replace(MACHINE, networks=None), "m: warden starts realms with one tap device and its MAC address"),
    ],
)
def test_what_warden_cannot_start_is_refused(machine: KvmtoolMachine, message: str) -> None:
    with pytest.raises(MeasureError) as caught:
        warden.create_realm(machine, REALM, FILES)
    assert str(caught.value) == message
