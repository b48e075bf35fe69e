"""Unlock providers of every temper, and what the driver has to make of them."""

from __future__ import annotations

from dataclasses import dataclass

from .luks_machine import Settings

# 64 bytes that nothing else on a console looks like.
KEY = "".join(f"nobody-may-see-{digit}" for digit in "abcd")
GIVE_KEY = f"printf %s '{KEY}' >&3\n"
PROVIDERS = {
    "gives": GIVE_KEY,
    "hesitates": "asked=/run/asked.$UNLOCK_VOLUME\necho . >>$asked\n"
    f'[ "$(cat $asked | tr -d "\\n")" = ... ] || exit 10\n{GIVE_KEY}',
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
    "types": f"printf '%s' '{KEY}' >&3\nexit 11\n",
    "wordy": "printf '\\033[31mred\\033[0m\\n' >&2\necho on standard output\nbusybox seq 50 >&2\nexit 30\n",
    "curious": "echo \"variables: $(env | sed 's/=.*//' | busybox sort | tr '\\n' ' ')\" >&2\n"
    'echo "nonce: $UNLOCK_NONCE purpose: $UNLOCK_PURPOSE kind: $UNLOCK_KIND attempt: $UNLOCK_ATTEMPT" >&2\n'
    "echo \"header: '$UNLOCK_HEADER' token: '$UNLOCK_TOKEN'\" >&2\n"
    'echo "input: $(cat | busybox wc -c)" >&2\n'
    # In a shell below: this one would hold the ends of a pipe, and what it puts aside for a redirection.
    "(busybox ls /proc/$$/fd >/run/descriptors)\nsed 's/^/descriptor: /' /run/descriptors >&2\n"
    "exit 30\n",
}


# What a recipe may name beside a provider of ours: it follows the contract itself.
PROGRAM = f"#!/bin/sh\n{GIVE_KEY}"


@dataclass(frozen=True)
class Case:
    """What a volume's providers are, and what the driver makes of them.

    Attributes:
        provider: the last one asked, as the record has it.
        format: ``never``: the volume is there already; ``always``: the providers are asked for a new one.
    """

    providers: tuple[str, ...]
    code: int
    result: str
    provider: str
    reason: str = ""
    provider_timeout: int = 20
    total_timeout: int = 60
    format: str = "never"


MISMATCH = "; this machine or image is not the one the key is for"
REPAIR = "; repair the provider"
LOG = "; see the kernel log"


def _malformed(provider: str, volume: str) -> str:
    return f"provider {provider} says that its configuration is malformed; see the recipe's volume {volume}"


def _unready(seconds: int, providers: str) -> str:
    return f"no key within {seconds} s, still not now: {providers}{LOG}"


CASES = {
    "gives": Case(("gives",), 0, "opened", "gives"),
    "types": Case(("types",), 0, "opened", "types"),
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
    "broken": Case(("broken", "gives"), 40, "malformed", "broken", _malformed("broken", "broken")),
    "busy": Case(("denies", "busy"), 10, "temporary", "busy", _unready(4, "busy"), total_timeout=4),
    "hangs": Case(
        ("hangs",), 10, "temporary", "hangs", _unready(3, "hangs"), provider_timeout=1, total_timeout=3
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
    # A new volume gets the key of the first that is applicable.
    "ephemeral": Case(("ephemeral",), 0, "formatted", "ephemeral", format="always"),
    "new-passes": Case(("passes", "gives", "broken"), 0, "formatted", "gives", format="always"),
    "new-hesitates": Case(("hesitates", "broken"), 0, "formatted", "hesitates", format="always"),
    # Who keeps that one from answering does not choose the key.
    "new-denied": Case(
        ("denies", "gives"), 20, "denied", "denies", f"denied by denies(20){MISMATCH}", format="always"
    ),
    "new-busy": Case(
        ("busy", "gives"), 10, "temporary", "busy", _unready(2, "busy"), total_timeout=2, format="always"
    ),
    "new-curious": Case(
        ("curious",),
        30,
        "not-applicable",
        "curious",
        f"no provider applies to this machine, asked: curious{LOG}",
        format="always",
    ),
    # Providers that ship.
    "exec": Case(("exec",), 0, "opened", "exec"),
    "exec-absent": Case(("exec",), 40, "malformed", "exec", _malformed("exec", "exec-absent")),
    "keyfile": Case(("keyfile",), 0, "opened", "keyfile"),
    "keyfile-absent": Case(("keyfile",), 40, "malformed", "keyfile", _malformed("keyfile", "keyfile-absent")),
    # Nobody is at the console.
    "passphrase": Case(
        ("passphrase",),
        10,
        "temporary",
        "passphrase",
        _unready(2, "passphrase"),
        provider_timeout=2,
        total_timeout=2,
    ),
    "new-recovery": Case(
        ("passes", "passphrase"),
        30,
        "not-applicable",
        "passphrase",
        f"no provider applies to this machine, asked: passes passphrase{LOG}",
        format="always",
    ),
}


def volumes() -> dict[str, Settings]:
    """A volume for every case, with the case's name."""
    return {
        name: Settings(
            providers=" ".join(case.providers),
            format=case.format,
            provider_timeout=case.provider_timeout,
            total_timeout=case.total_timeout,
            files={"keyfile": KEY.encode()} if name == "keyfile" else {},
            options={"EXEC_PROGRAM": "/test/program" if name == "exec" else "/test/nothing"},
        )
        for name, case in CASES.items()
    }
