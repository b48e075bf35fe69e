"""The stacks that realms run on under kvmtool, by name.

A value that no program other than ours computed is ``spec-only``.
"""

from __future__ import annotations

from ..errors import MeasureError
from .kvmtool import KvmtoolProfile, RecPolicy, RipasPolicy

DEFAULT_PROFILE = "kvmtool-eac5"

PROFILES = (
    KvmtoolProfile(
        name="kvmtool-eac5",
        summary="Islet's lkvm-rim-measurer for the EAC5 stack, with --islet for Islet's RMM",
        rec_policy=RecPolicy.ALL,
        ripas=RipasPolicy.TAIL_PAGES,
        # Spec: TF-RMM v0.5.0: feature register 0 advertises 2 and 2 as raw numbers.
        breakpoints=2,
        breakpoints_encoding=0,
        options="eac5",
        device_tree=True,
        established="oracle",
        why="islet-project/3rd-kvmtool 3cac6a9 computed the same values; no realm on hardware was compared",
        # Spec: 3cac6a9, arm/aarch64/rim-measure.c: a constant of its realm parameters.
        s2sz=33,
    ),
    KvmtoolProfile(
        name="kvmtool-eac5-tf-rmm",
        summary="the same kvmtool on TF-RMM v0.5.0, which measures the first REC only",
        rec_policy=RecPolicy.RUNNABLE,
        ripas=RipasPolicy.TAIL_BLOCKS,
        breakpoints=2,
        breakpoints_encoding=0,
        options="eac5",
        device_tree=True,
        established="oracle",
        why="the measurer without the extends of later RECs; 2 MiB blocks are read from TF-RMM's source",
    ),
    KvmtoolProfile(
        name="kvmtool-rel0-islet",
        summary="Islet's newer measurer for the RMM 1.0-rel0 stack (--restricted_mem)",
        rec_policy=RecPolicy.ALL,
        ripas=RipasPolicy.RAM_BLOCKS,
        breakpoints=0,
        breakpoints_encoding=0,
        options="rel0",
        device_tree=False,
        established="spec-only",
        why="read from islet-project/3rd-kvmtool 61403e79; its program was not run",
        # Spec: 61403e79, arm/aarch64/rim-measure.c: SVE is on, of 512 bits, as QEMU with RME has it.
        sve_vl=512,
    ),
    KvmtoolProfile(
        name="kvmtool-rel0-tf-rmm",
        summary="kvmtool for RMM 1.0-rel0 on TF-RMM v0.6.0 and later of the 1.x line",
        rec_policy=RecPolicy.RUNNABLE,
        ripas=RipasPolicy.RAM_BLOCKS,
        breakpoints=None,
        breakpoints_encoding=1,
        options="rel0",
        device_tree=False,
        established="spec-only",
        why="read from TF-RMM v0.6.0; no program computed these values",
        sve_vl=None,
    ),
)


def find_profile(name: str) -> KvmtoolProfile:
    """The profile of that name.

    Raises:
        MeasureError: there is none.
    """
    for profile in PROFILES:
        if profile.name == name:
            return profile
    known = ", ".join(profile.name for profile in PROFILES)
    raise MeasureError(f"profile {name!r} is not known; use one of {known}")
