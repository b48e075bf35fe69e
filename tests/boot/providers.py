"""Unlock providers of every temper, and what the driver has to make of them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from recipes.sources.initramfs import VolumeSpec
from recipes.sources.providers import Provider, read_provider

HEADER = """\
#!/bin/sh
#: summary a provider of the tests
#: kind volume-key
#: modules dm-crypt xts
#: binaries usr/sbin/cryptsetup
#: network no
#: registers none
#: profile any

"""
# 64 bytes that nothing else on a console looks like.
KEY = "".join(f"nobody-may-see-{digit}" for digit in "abcd")
GIVE_KEY = f"printf %s '{KEY}' >&3\n"
PROVIDERS = {
    "gives": GIVE_KEY,
    "hesitates": f'echo . >>/run/asked\n[ "$(cat /run/asked | tr -d "\\n")" = ... ] || exit 10\n{GIVE_KEY}',
    "denies": "exit 20\n",
    "passes": "exit 30\n",
    "broken": "exit 40\n",
    "odd": "exit 7\n",
    "busy": "exit 10\n",
    "hangs": "sleep 1000 &\nsleep 1000\n",
    "tiny": "printf %.15s '" + KEY + "' >&3\n",
    "short": "printf %.63s '" + KEY + "' >&3\n",
    "long": f"printf %s '{KEY * 8}x' >&3\n",
    "floods": f"while :; do printf %s '{KEY}'; done >&3\n",
    "wordy": "printf '\\033[31mred\\033[0m\\n' >&2\necho on standard output\nbusybox seq 50 >&2\nexit 30\n",
    "curious": "echo \"variables: $(env | sed 's/=.*//' | busybox sort | tr '\\n' ' ')\" >&2\n"
    'echo "nonce: $UNLOCK_NONCE purpose: $UNLOCK_PURPOSE" >&2\n'
    'echo "input: $(cat | busybox wc -c)" >&2\n'
    "busybox ls /proc/$$/fd | sed 's/^/descriptor: /' >&2\n"
    "exit 30\n",
}


@dataclass(frozen=True)
class Case:
    """What a volume's providers are, and what the driver makes of them.

    Attributes:
        provider: the last one asked, as the record has it.
    """

    providers: tuple[str, ...]
    code: int
    result: str
    provider: str
    reason: str = ""
    provider_timeout: int = 20
    total_timeout: int = 60


MISMATCH = "; this machine or image is not the one the key is for"
REPAIR = "; repair the provider"
LOG = "; see the kernel log"
CASES = {
    "gives": Case(("gives",), 0, "opened", "gives"),
    "hesitates": Case(("hesitates",), 0, "opened", "hesitates"),
    # Whatever the others say, the first that has a key opens the volume.
    "last": Case(("passes", "denies", "odd", "gives", "broken"), 0, "opened", "gives"),
    "denied": Case(("passes", "denies"), 20, "denied", "denies", f"denied by denies(20){MISMATCH}"),
    "odd": Case(("odd", "denies"), 20, "denied", "denies", f"denied by odd(7) denies(20){MISMATCH}"),
    "passes": Case(
        ("passes", "wordy"),
        30,
        "not-applicable",
        "wordy",
        f"no provider applies to this machine, asked: passes wordy{LOG}",
    ),
    "broken": Case(
        ("broken", "gives"),
        40,
        "malformed",
        "broken",
        "provider broken says that its configuration is malformed; see the recipe's volume broken",
    ),
    "busy": Case(
        ("denies", "busy"),
        10,
        "temporary",
        "busy",
        f"no key within 4 s, still not now: busy{LOG}",
        total_timeout=4,
    ),
    "hangs": Case(
        ("hangs",),
        10,
        "temporary",
        "hangs",
        f"no key within 3 s, still not now: hangs{LOG}",
        provider_timeout=1,
        total_timeout=3,
    ),
    # Time is up for one provider, so the next is asked.
    "slow": Case(("hangs", "gives"), 0, "opened", "gives", provider_timeout=1),
    "tiny": Case(
        ("tiny",), 40, "malformed", "tiny", f"provider tiny gave a key of 15 bytes, not 16 to 512{REPAIR}"
    ),
    "short": Case(
        ("short",), 40, "malformed", "short", f"provider short gave a volume key of 63 bytes, not 64{REPAIR}"
    ),
    "long": Case(
        ("long",), 40, "malformed", "long", f"provider long gave a key of 513 bytes, not 16 to 512{REPAIR}"
    ),
    # 153 is SIGXFSZ: it wrote more than any key has.
    "floods": Case(("floods",), 20, "denied", "floods", f"denied by floods(153){MISMATCH}"),
    "curious": Case(
        ("curious",),
        30,
        "not-applicable",
        "curious",
        f"no provider applies to this machine, asked: curious{LOG}",
    ),
    "absent": Case(
        ("absent",),
        40,
        "malformed",
        "absent",
        "provider absent is not in the initramfs; build the image again",
    ),
}


def volumes() -> tuple[VolumeSpec, ...]:
    """A volume for every case, with the case's name."""
    return tuple(
        VolumeSpec(
            name=name,
            partition_uuid=UUID(int=1),
            providers=tuple(_provider(item) for item in case.providers),
            provider_timeout=case.provider_timeout,
            total_timeout=case.total_timeout,
        )
        for name, case in CASES.items()
    )


def _provider(name: str) -> Provider:
    """The provider of that name; the one that is ``absent`` is taken out of the initramfs later."""
    return read_provider(name, f"{HEADER}{PROVIDERS.get(name, '')}".encode())
