"""The network script of the initramfs, in a network of its own: a pair of interfaces, one of them far away.

It needs no privilege but namespaces of the kernel (user_namespaces(7), network_namespaces(7)).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT, require_tool

pytestmark = pytest.mark.tool

APPLETS = ("cat", "ip", "rm", "sh", "sleep", "tail", "timeout", "udhcpc")
# `eth0` is the machine's, and its other end `far` belongs to another network, with a DHCP server where one is
# asked for. Another interface comes before it by name and has no carrier; `lo` is no Ethernet.
SCENE = """\
set -eu
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
ip link add eth0 type veth peer name far
ip link add dum0 type veth peer name dum1
unshare -n sleep 60 &
far=$!
until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
ip link set far netns "$far"
ip link set dum1 netns "$far"
inside() { nsenter -t "$far" -n "$@"; }
inside ip addr add 192.0.2.1/24 dev far
inside ip addr add 2001:db8::1/64 dev far nodad
[ -z "$CABLE" ] || inside ip link set far up
if [ -n "$DHCP" ]; then
    # Not by the function: a shell of its own would be what is killed, and the server stay.
    nsenter -t "$far" -n busybox udhcpd -f -S "$PWD/udhcpd.conf" >udhcpd.log 2>&1 &
    server=$!
fi
set +e
busybox sh machine.sh
code=$?
[ -z "$DHCP" ] || kill "$server"
kill "$far"
exit $code
"""
MACHINE = """\
set -u
PATH=$PWD/bin
NETWORK='{network}' DEVICE_TIMEOUT={timeout}
. ./common.sh
. ./network.sh
show() {{ ip -o -4 addr show dev eth0; ip -o -6 addr show dev eth0 scope global; ip -4 route; ip -6 route; }}
if network_up; then echo up "$network_interface"; else echo failed; fi
show
{more}
network_down
echo down "$network_interface"
show
cat sys/class/net/*/flags
[ ! -e resolv.conf ] || echo names
"""
LEASE = """\
start 192.0.2.100
end 192.0.2.100
interface far
lease_file {folder}/leases
opt subnet {mask}
opt router 192.0.2.1
opt dns 192.0.2.53 192.0.2.54
opt mtu 1460
"""


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bin", "sys", "run"):
            (folder / name).mkdir()
        for applet in APPLETS:
            (folder / "bin" / applet).symlink_to(require_tool("busybox"))
        for name in ("common.sh", "network.sh", "udhcpc"):
            text = (ROOT / "initrd" / name).read_text()
            places = {
                "/sys/class/net": "sys/class/net",
                "/etc/resolv.conf": "resolv.conf",
                "/usr/lib/goldsmith/": "/",
                "/run/": "run/",
                "/dev/kmsg": "log",
            }
            for old, new in places.items():
                text = text.replace(old, f"{folder}/{new.lstrip('/')}")
            # The log of the kernel takes a line at a time; a file is written on.
            (folder / name).write_text(text.replace(f">{folder}/log", f">>{folder}/log"))
        (folder / "udhcpc").chmod(0o755)

    def run(
        self,
        network: str,
        more: str = "",
        *,
        timeout: int = 10,
        cable: bool = True,
        dhcp: str = "",
    ) -> list[str]:
        """What the machine prints."""
        (self.folder / "machine.sh").write_text(MACHINE.format(network=network, timeout=timeout, more=more))
        (self.folder / "udhcpd.conf").write_text(LEASE.format(folder=self.folder, mask=dhcp))
        (self.folder / "leases").touch()
        environment = {**os.environ, "CABLE": "yes" if cable else "", "DHCP": dhcp}
        environment["PATH"] += ":/usr/sbin:/sbin"
        done = subprocess.run(
            [require_tool("unshare"), "-rnm", "sh", "-c", SCENE],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    for name in ("unshare", "nsenter", "ip", "busybox"):
        require_tool(name)
    argv = ["unshare", "-rnm", "sh", "-c", f"mount -t sysfs sysfs {tmp_path}"]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine makes no namespaces: {done.stderr.strip()}")
    return Scene(tmp_path)


def split(lines: list[str]) -> tuple[list[str], list[str]]:
    """What is there while the network is up, and afterwards."""
    index = next(at for at, line in enumerate(lines) if line.startswith("down"))
    return lines[:index], lines[index:]


PING = "{bin}/busybox ping -c 1 -w 5 -q {address} >/dev/null && echo reached"
# No interface is up (IFF_UP is bit 0), and none has an address or a route; the loopback device is as it was.
GONE = ["down", "0x1002", "0x1002", "0x8"]


def reach(scene: Scene, address: str) -> str:
    shutil.copy(require_tool("busybox"), scene.folder / "bin" / "busybox")
    return PING.format(bin=scene.folder / "bin", address=address)


def test_a_fixed_address(scene: Scene) -> None:
    lines = scene.run("192.0.2.7/24,192.0.2.1", f"{reach(scene, '192.0.2.1')}\nnetwork_up && echo again")
    up, down = split(lines)
    assert up[0] == "up eth0"
    assert " inet 192.0.2.7/24 " in up[1]
    assert up[-2:] == ["reached", "again"]
    assert any(line.startswith("default via 192.0.2.1 dev eth0") for line in up)
    assert down == GONE
    assert scene.log == ["<6>goldsmith: network: eth0 is up, 192.0.2.7/24,192.0.2.1"]


def test_a_fixed_address_of_ipv6(scene: Scene) -> None:
    """It can be used at once, without the second that a search for duplicates takes."""
    up, down = split(scene.run("2001:db8::7/64,2001:db8::1", reach(scene, "2001:db8::1")))
    assert (up[0], up[-1]) == ("up eth0", "reached")
    assert any(" inet6 2001:db8::7/64 " in line and "tentative" not in line for line in up)
    assert any(line.startswith("default via 2001:db8::1 dev eth0") for line in up)
    assert down == GONE


@pytest.mark.parametrize("mask", ["255.255.255.0", "255.255.255.255"])
def test_a_lease(scene: Scene, mask: str) -> None:
    """Some clouds give an address that is in no network together with its gateway."""
    more = f"cat resolv.conf sys/class/net/eth0/mtu\n{reach(scene, '192.0.2.1')}"
    up, down = split(scene.run("dhcp", more, dhcp=mask))
    size = 24 if mask.endswith(".0") else 32
    assert up[0] == "up eth0", scene.log
    assert f" inet 192.0.2.100/{size} " in up[1]
    assert up[-4:] == ["nameserver 192.0.2.53", "nameserver 192.0.2.54", "1460", "reached"]
    assert any(line.startswith("default via 192.0.2.1 dev eth0") for line in up)
    assert down == GONE
    assert scene.log == ["<6>goldsmith: network: eth0 is up, dhcp"]


def test_no_network_is_wanted(scene: Scene) -> None:
    up, down = split(scene.run("none"))
    assert (up, down) == (["up"], GONE)
    assert not (scene.folder / "log").exists()


def test_nobody_gives_a_lease(scene: Scene) -> None:
    up, down = split(scene.run("dhcp", timeout=1))
    assert (up, down) == (["failed"], GONE)
    assert scene.log[0].startswith(
        "<4>goldsmith: no network: no DHCP server gives eth0 an address: udhcpc: no lease"
    )


def test_no_cable(scene: Scene) -> None:
    up, down = split(scene.run("dhcp", timeout=1, cable=False))
    assert (up, down) == (["failed"], GONE)
    words = (
        "no Ethernet interface has a carrier after 1 s, seen: dum0 eth0; give the machine a network card that"
    )
    assert scene.log == [f"<4>goldsmith: no network: {words} the recipe has a module for"]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("192.0.2.999/24", "eth0 does not take the address 192.0.2.999/24: "),
        ("192.0.2.7/24,203.0.113.1", "no route by 203.0.113.1: "),
    ],
)
def test_addresses_that_do_not_do(scene: Scene, network: str, words: str) -> None:
    up, down = split(scene.run(network))
    assert (up, down) == (["failed"], GONE)
    assert scene.log[0].startswith(f"<4>goldsmith: no network: {words}")
