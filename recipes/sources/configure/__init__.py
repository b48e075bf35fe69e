"""What the installation scripts of packages would have done, worked out from declared data instead.

No script runs: every account, link and file of a configured system is a function of the tree, the packages
and a few values of the recipe. Each module has one subject and its own tables; this one puts them in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import SpecError
from ...formats.tree import FileTree
from ..debs import InstalledPackage
from .accounts import collect_accounts, write_accounts
from .alternatives import link_alternatives
from .certificates import write_certificates
from .clashes import check_clashes
from .dpkg_database import write_database
from .leftovers import check_leftovers, remove_leftovers
from .ownership import apply_ownership
from .pam import write_pam
from .policy import MASKED, MASKED_GENERATORS, PRESETS
from .system_files import (
    extend_os_release,
    write_copies,
    write_machine_id,
    write_names,
    write_place,
    write_shells,
)
from .tmpfiles import apply_tmpfiles, write_var_skeleton
from .unit_files import UnitFiles, template_of
from .units import enable, mask, mask_generators, preset_all, set_default

__all__ = ["SystemSpec", "check_leftovers", "configure"]

PRESET_FILE = "usr/lib/systemd/system-preset/00-goldsmith.preset"


@dataclass(frozen=True, kw_only=True)
class SystemSpec:
    """What a recipe says about the system in the image.

    Attributes:
        enable: units to start, besides those of the presets; one of the masked ones is unmasked by it.
        mask: units never to start, besides those of the policy.
        default_target: what is started at boot.
        os_release: more fields of os-release, such as IMAGE_ID and IMAGE_VERSION.
        epoch: the time of every file that is made here, in seconds since 1970.
        locale: the value of LANG.
        timezone: a name below usr/share/zoneinfo.
    """

    hostname: str
    enable: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    default_target: str = "multi-user.target"
    os_release: tuple[tuple[str, str], ...] = ()
    epoch: int = 0
    locale: str = "C.UTF-8"
    timezone: str = "UTC"


def configure(tree: FileTree, packages: Sequence[InstalledPackage], system: SystemSpec) -> None:
    """Turns unpacked packages (with overlays laid over them) into a configured system; changes ``tree``.

    Nothing is read but the tree and the arguments, so the result is the same everywhere.

    Raises:
        SpecError: the recipe and the tree do not fit together: an unknown unit, a missing package, a
        malformed file, a file of an overlay where one is generated. FormatError: a certificate is damaged.
    """
    before = dict(tree.nodes)
    remove_leftovers(tree)
    accounts = collect_accounts(tree, {package.name for package in packages})
    write_accounts(tree, accounts)
    write_copies(tree)
    write_shells(tree)
    write_names(tree, system.hostname)
    write_place(tree, system.locale, system.timezone)
    write_machine_id(tree)
    extend_os_release(tree, system.os_release)
    write_pam(tree)
    link_alternatives(tree)
    write_certificates(tree)
    apply_ownership(tree, accounts)
    _start_units(tree, system)
    apply_tmpfiles(tree, accounts)
    write_database(tree, packages)
    write_var_skeleton(tree)
    check_clashes(tree, before)
    check_leftovers(tree)
    for path, node in tree.nodes.items():
        if before.get(path) is not node and node.mtime == 0:
            tree.nodes[path] = replace(node, mtime=system.epoch)


def _start_units(tree: FileTree, system: SystemSpec) -> None:
    """Presets, then what the recipe enables and masks; without systemd in the tree there is nothing to do."""
    if "usr/lib/systemd/system" not in tree:
        if system.enable or system.mask:
            raise SpecError("units: the tree has no systemd; add systemd-sysv to rootfs.packages")
        return
    wanted = {unit for name in system.enable for unit in (name, template_of(name))}
    both = sorted(wanted & set(system.mask))
    if both:
        raise SpecError(f"units: {', '.join(both)} cannot be enabled and masked at once; remove one")
    files = UnitFiles(tree)
    rules = "".join(f"{rule.action} {rule.pattern}\n" for rule in PRESETS)
    tree.add_file(PRESET_FILE, ("# Read before the presets of packages.\n" + rules).encode("ascii"))
    preset_all(tree)
    # A unit of the policy's list that has no [Install] section starts by not being masked.
    enable(tree, [name for name in system.enable if name not in MASKED or files.install(name)])
    present = (name for name in MASKED if name in files.paths and name not in wanted)
    mask(tree, (*present, *system.mask))
    mask_generators(tree, MASKED_GENERATORS)
    set_default(tree, system.default_target)
