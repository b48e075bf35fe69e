from __future__ import annotations

import pytest

from recipes.sources.root_edit import boot_partition, leftovers, new_fstab, newest_kernel, os_name

CLOUD = """\
# /etc/fstab: static file system information
PARTUUID=4a1a7e0b-01 / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1
PARTUUID=4a1a7e0b-0f /boot/efi vfat defaults 0 0
LABEL=BOOT /boot ext4 defaults 0 2
/dev/sdb1 none swap sw 0 0
/swapfile none swap sw 0 0
tmpfs /tmp tmpfs size=50% 0 0
nas:/x /mnt nfs ro 0 0

/srv/a /srv/b none bind 0 0
"""


def test_only_lines_without_a_device_stay() -> None:
    assert new_fstab(CLOUD) == (
        "/dev/mapper/root / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1\n"
        "# /etc/fstab: static file system information\n"
        "/swapfile none swap sw 0 0\n"
        "tmpfs /tmp tmpfs size=50% 0 0\n"
        "nas:/x /mnt nfs ro 0 0\n"
        "\n"
        "/srv/a /srv/b none bind 0 0\n"
    )


def test_a_table_without_a_root_gets_one() -> None:
    assert new_fstab("") == "/dev/mapper/root / ext4 errors=remount-ro 0 1\n"
    assert new_fstab("overlay / overlay\n") == "/dev/mapper/root / ext4 errors=remount-ro 0 1\n"


def test_it_is_the_same_the_second_time() -> None:
    assert new_fstab(new_fstab(CLOUD)) == new_fstab(CLOUD)


def test_where_boot_is() -> None:
    assert boot_partition(CLOUD) == "LABEL=BOOT"
    assert boot_partition("#LABEL=BOOT /boot ext4\n") is None
    assert boot_partition("") is None


@pytest.mark.parametrize(
    ("names", "newest"),
    [
        (["vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-56-amd64", "vmlinuz-5.10.0-30-amd64"], "6.1.0-56-amd64"),
        (
            ["vmlinuz-6.12.9+deb13-cloud-amd64", "vmlinuz-6.12.10+deb13-cloud-amd64"],
            "6.12.10+deb13-cloud-amd64",
        ),
        (["vmlinuz-0-rescue", "vmlinuz-5.14.0-503.el9.x86_64"], "5.14.0-503.el9.x86_64"),
        (["vmlinuz", "vmlinuz-rescue-6"], None),
        ([], None),
    ],
)
def test_the_newest_kernel(names: list[str], newest: str | None) -> None:
    assert newest_kernel(names) == newest


def test_the_name_of_a_system() -> None:
    text = 'PRETTY_NAME="Debian GNU/Linux 13"\nID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n'
    assert os_name(text) == "debian 13"
    assert os_name("ID='arch'\n") == "arch"
    assert os_name("NAME=x\n") == ""


def test_what_belongs_to_one_machine_is_removed() -> None:
    patterns = leftovers()
    for path in ("/boot/grub", "/etc/crypttab", "/etc/ssh/ssh_host_*_key", "/var/lib/systemd/random-seed"):
        assert path in patterns
    # They become one pattern in braces.
    assert all(path.startswith("/") and not set("{,} ") & set(path) for path in patterns)
