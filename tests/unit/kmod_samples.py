"""Kernel modules for tests: small relocatable ELF64 files with the sections that depmod reads."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from recipes.formats.tree import FileTree

RELEASE = "6.1.0-test"
ROOT = f"usr/lib/modules/{RELEASE}"


def make_module(
    info: Sequence[str] = (), exports: Sequence[str] = (), needs: Sequence[str] = (), *, crcs: bool = True
) -> bytes:
    """A module with these ``.modinfo`` items, exported and undefined symbols (in that order of the table)."""
    names = bytearray(b"\0")
    strings = bytearray(b"\0")

    def add(table: bytearray, text: str) -> int:
        offset = len(table)
        table.extend(text.encode() + b"\0")
        return offset

    symbols = bytearray(24)
    if crcs:
        for symbol in exports:
            symbols += struct.pack("<IBBHQQ", add(strings, f"__crc_{symbol}"), 0, 0, 0xFFF1, 0, 0)
    for symbol in needs:
        symbols += struct.pack("<IBBHQQ", add(strings, symbol), 0x10, 0, 0, 0, 0)
    contents: list[tuple[str, int, bytes, int, int]] = [
        (".modinfo", 1, b"".join(item.encode() + b"\0" for item in info), 0, 0),
        ("__ksymtab_strings", 1, b"".join(symbol.encode() + b"\0" for symbol in exports), 0, 0),
        (".symtab", 2, bytes(symbols), 4, 24),
        (".strtab", 3, bytes(strings), 0, 0),
    ]
    offsets = [add(names, name) for name, *_ in contents]
    own = add(names, ".shstrtab")
    body = bytearray()
    table = bytearray(64)
    for name, (_, kind, data, link, size) in zip(offsets, contents, strict=True):
        table += struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, 64 + len(body), len(data), link, 1, 1, size)
        body += data
    table += struct.pack("<IIQQQQIIQQ", own, 3, 0, 0, 64 + len(body), len(names), 0, 0, 1, 0)
    body += names
    body += bytes(-len(body) % 8)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    count = len(contents) + 2
    head = struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, count, count - 1)
    return ident + head + bytes(body) + bytes(table)


def sample_modules() -> dict[str, bytes]:
    """Relative paths and contents of a directory with every kind of relation."""
    device = ["alias=char-major-10-235", "alias=devname:gamma"]
    deep = [
        "depends=gamma,alpha-lib",
        "softdep=pre: beta crypto-sum post: omega",
        "alias=fs-delta",
        "license=GPL",
    ]
    return {
        "kernel/lib/alpha-lib.ko": make_module(["name=alpha_lib"], ["alpha_one", "alpha_two"]),
        "kernel/lib/beta.ko": make_module(["alias=crypto-beta", "alias=devname:beta-control"], ["beta_go"]),
        "kernel/drivers/gamma.ko": make_module(
            ["depends=alpha-lib,beta", "alias=pci:v00001AF4d0000[1-9]*sv-*", *device],
            ["gamma_run"],
            ["alpha_two", "printk", "beta_go"],
        ),
        "kernel/fs/delta.ko": make_module(deep, (), ["gamma_run", "alpha_one"]),
        "kernel/fs/epsilon.ko": make_module(["softdep=pre: delta", "alias=pci:v[bad-d*"], crcs=False),
        "kernel/crypto/sum-generic.ko": make_module(
            ["depends=alpha-lib", "alias=crypto-sum", "alias=sum"],
            ["sum_all", "beta_extra"],
            ["alpha_one"],
            crcs=False,
        ),
    }


BUILTIN = "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio-pci.ko\n"
BUILTIN_MODINFO = (
    b"ext4.alias=fs-ext4\0ext4.alias=ext-3\0ext4.license=GPL\0virtio_pci.alias=pci:v00001AF4d*\0"
)
ORDER = (
    "kernel/fs/delta.ko",
    "kernel/lib/beta.ko",
    "kernel/drivers/gamma.ko",
    "kernel/crypto/sum-generic.ko",
    "kernel/lib/alpha-lib.ko",
    "kernel/fs/epsilon.ko",
)


def sample_tree(modules: dict[str, bytes] | None = None) -> FileTree:
    """A tree with the module directory of ``RELEASE``."""
    tree = FileTree()
    for path, data in (sample_modules() if modules is None else modules).items():
        tree.add_file(f"{ROOT}/{path}", data)
    tree.add_file(f"{ROOT}/modules.order", "".join(f"{path}\n" for path in ORDER).encode())
    tree.add_file(f"{ROOT}/modules.builtin", BUILTIN.encode())
    tree.add_file(f"{ROOT}/modules.builtin.modinfo", BUILTIN_MODINFO)
    return tree
