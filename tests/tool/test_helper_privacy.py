"""Programs with a key in their memory: nobody looks in, and a key goes where it belongs and nowhere else."""

from __future__ import annotations

import hmac
import os
import struct
import subprocess
from pathlib import Path

import pytest

from recipes.steps.encrypted import content_key
from tests.support import ROOT, require_tool
from tests.tool.built_helpers import helper

pytestmark = pytest.mark.tool

# Preloaded: says at the end of a program how private it is.
WATCH = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
__attribute__((destructor)) static void report(void) {
    struct rlimit core = {1, 1};
    FILE *out = fopen(getenv("WATCH"), "w");
    getrlimit(RLIMIT_CORE, &core);
    fprintf(out, "%d %llu %llu", prctl(PR_GET_DUMPABLE), (unsigned long long)core.rlim_cur,
            (unsigned long long)core.rlim_max);
    fclose(out);
}
"""
# Preloaded into dmtable: takes what it sends to the kernel's device-mapper, and says yes to all of it.
MAPPER = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/ioctl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
int open(const char *path, int flags, ...) {
    const char *real = strcmp(path, "/dev/mapper/control") ? path : "/dev/null";
    return (int)syscall(SYS_openat, AT_FDCWD, real, flags, 0);
}
int mknod(const char *path, mode_t mode, dev_t device) { (void)path, (void)mode, (void)device; return 0; }
int ioctl(int file, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    struct dm_ioctl *head = va_arg(rest, struct dm_ioctl *);
    va_end(rest);
    (void)file;
    if (request == DM_TABLE_LOAD) {
        FILE *out = fopen(getenv("LOADED"), "w");
        fwrite((char *)head + head->data_start, 1, head->data_size - head->data_start, out);
        fclose(out);
    }
    return 0;
}
"""
KEY = bytes(range(64))
CONTENT = bytes(range(100, 132))


def preloaded(folder: Path, source: str) -> str:
    path = folder / "preloaded.so"
    (folder / "preloaded.c").write_text(source)
    argv = ["cc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(path)]
    subprocess.run([require_tool(argv[0]), *argv[1:], str(folder / "preloaded.c")], check=True)
    return str(path)


def privacy(folder: Path, program: Path | str) -> str:
    watch = folder / "watch"
    environment = {**os.environ, "LD_PRELOAD": preloaded(folder, WATCH), "WATCH": str(watch)}
    subprocess.run(
        [program], stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=60, check=False
    )
    return watch.read_text()


@pytest.mark.parametrize("name", ["derive-key", "dmtable", "escrow", "tpm2"])
def test_nobody_looks_into_a_program_with_a_key(tmp_path: Path, name: str) -> None:
    """Seen at its end even where it does nothing: it comes before everything else."""
    assert privacy(tmp_path, helper(name)) == "0 0 0"


def test_any_other_program_may_be_looked_into(tmp_path: Path) -> None:
    assert privacy(tmp_path, require_tool("true")).startswith("1 ")


def loaded(folder: Path, table: str, key: bytes = KEY) -> str:
    """The parameters of the one target that dmtable loads."""
    (folder / "key").write_bytes(key)
    environment = {**os.environ, "LD_PRELOAD": preloaded(folder, MAPPER), "LOADED": str(folder / "loaded")}
    argv = ["sh", "-c", 'exec "$1" create test 3<"$2"', "sh", str(helper("dmtable")), str(folder / "key")]
    done = subprocess.run(argv, input=table.encode(), capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    data = (folder / "loaded").read_bytes()
    # Linux include/uapi/linux/dm-ioctl.h, struct dm_target_spec: 40 bytes, then the parameters.
    start, length, _, _, kind = struct.unpack_from("<QQiI16s", data)
    assert (start, length, kind.rstrip(b"\0")) == (0, 8, b"crypt")
    return data[40:].partition(b"\0")[0].decode()


def test_a_key_in_a_table(tmp_path: Path) -> None:
    assert loaded(tmp_path, "0 8 crypt a @KEY@ b\n") == f"a {KEY.hex()} b"
    assert loaded(tmp_path, "0 8 crypt a @KEY@@KEY@\n", b"\0\xff") == "a 00ff00ff"


@pytest.mark.parametrize("size", [16, 32, 64, 512])
def test_a_key_for_one_content_is_that_of_the_builder(tmp_path: Path, size: int) -> None:
    key = bytes(range(16)) * (size // 16)
    found = bytes.fromhex(loaded(tmp_path, f"0 8 crypt @KEY:{CONTENT.hex()}@\n", key))
    assert found == content_key(key, CONTENT)
    # RFC 5869, written down once more: the first digest.
    secret = hmac.digest(bytes(32), key, "sha256")
    info = b"goldsmith content key 1 " + CONTENT.hex().encode()
    first = hmac.digest(secret, info + b"\1", "sha256")
    assert found[:32] == first[: len(found)]
    assert len(found) == size


@pytest.mark.parametrize(
    "mark", ["@KEY:@", "@KEY:00@", f"@KEY:{'0' * 65}@", f"@KEY:{'F' * 64}@", "@KEYS@", "@KEY"]
)
def test_marks_that_are_none(mark: str) -> None:
    argv = [str(helper("dmtable", sanitized=True)), "create", "test"]
    done = subprocess.run(argv, input=f"0 8 crypt {mark}\n".encode(), capture_output=True, timeout=60)
    said = "a mark for the key is neither @KEY@ nor @KEY: with 64 hexadecimal digits and @"
    assert (done.returncode, done.stderr.decode()) == (1, f"dmtable: {said}\n")


# What stands around open_mapping in the driver.
FRAME = """\
set -u
volume=test device=/dev/vda4 device_sectors=4097 key={folder}/key words={folder}/words
RESERVED=1048576 FORMAT=never {content}
finish() {{ shift 2; echo "finish: $*"; exit 1; }}
{function}
open_mapping
"""


@pytest.mark.parametrize("shell", ["dash", "busybox"])
@pytest.mark.parametrize(("content", "mark"), [("", ""), ("CONTENT=''", ""), ("CONTENT=ab", ":ab")])
def test_what_the_driver_asks_for(tmp_path: Path, shell: str, content: str, mark: str) -> None:
    driver = (ROOT / "initrd" / "unlock").read_text()
    function = driver[driver.index("open_mapping() {") :].partition("\n}\n")[0] + "\n}"
    assert function.count("/usr/lib/goldsmith/dmtable create") == 1
    (tmp_path / "key").write_text("the key")
    (tmp_path / "dmtable").write_text('#!/bin/sh\necho "$*"; cat; cat <&3\n')
    (tmp_path / "dmtable").chmod(0o755)
    function = function.replace("/usr/lib/goldsmith/dmtable", str(tmp_path / "dmtable"))
    script = FRAME.format(folder=tmp_path, content=content, function=function)
    argv = [require_tool(shell), *(["sh"] if shell == "busybox" else []), "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    line = f"0 2048 crypt aes-xts-plain64 @KEY{mark}@ 0 /dev/vda4 2048 1 sector_size:4096"
    assert (done.stdout, done.stderr) == (f"create test\n{line}\nthe key", "")
