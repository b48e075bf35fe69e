"""What a confidential VM with a verified read-only root leaves out of a stock Debian, each with its reason.

At run time / and /etc are read-only, /var is an ext4 file system that is empty at first boot, /run and /tmp
are in memory. A unit that writes to /etc would fail; one that takes input from the host, or code from /var,
would undo what the measurement says. Found by booting: the state of the system is ``running`` with these and
``degraded`` without. Spec: the unit files of Debian 13 (systemd 257).
"""

from __future__ import annotations

from .presets import Rule

# Units that their package, or a default preset, would enable.
PRESETS: tuple[Rule, ...] = (
    # Nobody can log in (every account is locked), so a login prompt is only something to attack.
    Rule("disable", "getty@.service"),
    # These write a policy for TPM registers to /var; the golden values come from the build.
    Rule("disable", "systemd-pcrlock-*.service"),
    # These lay images from /var over /usr and /etc: code that no measurement covers.
    Rule("disable", "systemd-sysext.*"),
    Rule("disable", "systemd-confext.service"),
    # Crash records from EFI variables, which belong to the host.
    Rule("disable", "systemd-pstore.service"),
    # Discarding tells the host which blocks of the encrypted partition are in use.
    Rule("disable", "fstrim.timer"),
    # Package management, boot loader updates and file-system checks of LVM: nothing to do on an immutable
    # image.
    Rule("disable", "apt-daily*"),
    Rule("disable", "dpkg-db-backup.timer"),
    Rule("disable", "unattended-upgrades.service"),
    Rule("disable", "man-db.timer"),
    Rule("disable", "systemd-boot-update.service"),
    Rule("disable", "e2scrub_*"),
)

# Units that others in /usr/lib want, which only a mask keeps from starting.
MASKED: tuple[str, ...] = (
    # Write to /etc. ldconfig.service starts whenever /etc/ld.so.cache is missing, and fails; the cache only
    # makes start-up of programs quicker, the linker searches the default directories without it (ld.so(8)).
    "ldconfig.service",
    "systemd-firstboot.service",  # would also ask on the console, and take a root password from the host
    "systemd-sysusers.service",  # the accounts are in the image; it would take more from the host
    "systemd-udev-load-credentials.service",  # udev rules from the host; a rule can run any program
    "systemd-hwdb-update.service",  # hwdb.bin names devices for people; no rule of a VM needs it
    "systemd-machine-id-commit.service",  # the machine id is a new one at each boot, see system_files
    "systemd-update-done.service",  # records in /etc and /var that the units above have run
    # Rebuilds an index of explanations for log messages in /var, at every boot with a fresh /var.
    "systemd-journal-catalog-update.service",
    # Extends PCR 15 with the machine id, which is random: the register could not be predicted.
    "systemd-pcrmachine.service",
    # Make a storage key in the TPM for systemd-cryptenroll and systemd-creds; unlocking makes its own.
    "systemd-tpm2-setup-early.service",
    "systemd-tpm2-setup.service",
    "systemd-pcrlock.socket",
    "systemd-sysext.socket",
    "systemd-sysext.service",
    "systemd-confext.service",
    # Login prompts: on the console of `console=`, on virtual terminals, and without D-Bus.
    "serial-getty@.service",
    "getty@.service",
    "autovt@.service",
    "container-getty@.service",
    "console-getty.service",
    "getty-static.service",
    # Shells without a login. Words on the command line, credentials and an EFI variable of the host can ask
    # for them (systemd-debug-generator(8), kernel-command-line(7)); a boot that works needs none of them.
    "debug-shell.service",
    "emergency.service",
    "emergency.target",
    "rescue.service",
    "rescue.target",
    # Hibernation would write the memory out; its record is an EFI variable of the host.
    "systemd-hibernate-clear.service",
    # Programs of other architectures; the automount wants a kernel module that images do not carry.
    "proc-sys-fs-binfmt_misc.automount",
    "proc-sys-fs-binfmt_misc.mount",
    "systemd-binfmt.service",
)

# Generators, which make units at each boot out of what the host says.
MASKED_GENERATORS: tuple[str, ...] = (
    # A shell, units to mask or to start, whole units and drop-ins: from words and credentials.
    "systemd-debug-generator",
    # A unit that runs any command of the command line (systemd.run=).
    "systemd-run-generator",
)
