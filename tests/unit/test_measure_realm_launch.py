from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.machine import RecPolicy
from recipes.measure.granules import BytesBlob, GranuleHasher
from recipes.measure.realm_launch import (
    CreateRec,
    InitRipas,
    Operation,
    PopulateData,
    PopulateUnmeasured,
    RealmCreate,
    Replayer,
)
from recipes.measure.ripas import PAGES, block_sizes, split_blocks
from recipes.measure.rmm import REC_RUNNABLE, Realm, RealmParams, RecParams, RmmVersion
from recipes.measure.trace import HashAlgorithm

SHA256 = HashAlgorithm.SHA256
RAM = 0x8000_0000
MIB2 = 0x20_0000
PARAMS = RealmParams(s2sz=33)
CREATE = RealmCreate(params=PARAMS, source="--realm")
KERNEL = PopulateData(
    address=RAM, blob=BytesBlob("Image", b"kernel" * 1000), source="Image", description="kernel"
)
REC = CreateRec(rec=RecParams(flags=REC_RUNNABLE, pc=RAM), source="-c")


def operations() -> st.SearchStrategy[Operation]:
    address = st.integers(RAM, RAM + 0x4000)
    pages = st.integers(0, 8).map(lambda page: RAM + page * 4096)
    return st.one_of(
        st.builds(
            PopulateData,
            address=address,
            blob=st.builds(BytesBlob, st.just("blob"), st.binary(min_size=1, max_size=50)),
            source=st.sampled_from("ab"),
        ),
        st.builds(
            InitRipas,
            base=pages,
            top=st.integers(9, 600).map(lambda page: RAM + page * 4096),
            source=st.just("bss"),
            blocks=st.sampled_from([PAGES, block_sizes(33)]),
        ),
        st.builds(PopulateUnmeasured, address=pages, size=st.just(8192), source=st.just("log")),
        st.builds(
            CreateRec,
            rec=st.builds(RecParams, flags=st.integers(0, 1), pc=st.integers(0, 9)),
            source=st.just("-c"),
            policy=st.sampled_from(RecPolicy),
        ),
    )


@settings(max_examples=80)
@given(
    st.lists(st.lists(operations(), max_size=3), min_size=1, max_size=4),
    st.lists(operations(), max_size=3),
    st.sampled_from([(SHA256, RmmVersion.RMM_1_0), (HashAlgorithm.SHA384, RmmVersion.RMM_2_0)]),
)
def test_what_was_replayed_before_does_not_matter(
    tails: list[list[Operation]], head: list[Operation], rules: tuple[HashAlgorithm, RmmVersion]
) -> None:
    """Launches that begin alike, and the same operations in other places, by one replayer and by new ones."""
    shared = Replayer(*rules)
    for tail in tails:
        for launch in ((CREATE, *head, *tail), (CREATE, *tail)):
            assert shared.replay(launch) == Replayer(*rules).replay(launch)


def test_a_replay_is_its_calls() -> None:
    launch = (
        CREATE,
        InitRipas(base=RAM + 0x1F_F000, top=RAM + 0x40_1000, source="-k", blocks=block_sizes(33)),
        PopulateData(address=RAM + 8, blob=BytesBlob("initrd", b"x" * 4090), source="initrd"),
        PopulateUnmeasured(address=RAM + 0x10000, size=8192, source="log"),
        CreateRec(rec=RecParams(pc=5), source="-c"),
        CreateRec(rec=RecParams(pc=5), source="-c", policy=RecPolicy.ALL),
    )
    realm = Realm(SHA256)
    after = []
    realm.realm_create(PARAMS)
    after.append(realm.rim)
    realm.rtt_init_ripas(RAM + 0x1F_F000, RAM + MIB2)
    realm.rtt_init_ripas(RAM + MIB2, RAM + 2 * MIB2)
    realm.rtt_init_ripas(RAM + 2 * MIB2, RAM + 2 * MIB2 + 4096)
    after.append(realm.rim)
    region = bytes(8) + b"x" * 4090 + bytes(4094)
    realm.data_create(RAM, region[:4096])
    realm.data_create(RAM + 4096, region[4096:])
    after.append(realm.rim)
    realm.data_create_unmeasured(RAM + 0x10000)
    realm.data_create_unmeasured(RAM + 0x11000)
    after.append(realm.rim)
    realm.rec_create(RecParams(pc=5), RecPolicy.ALL)
    after.append(realm.rim)
    replay = Replayer(SHA256).replay(launch)
    assert [step.after for step in replay.trace.steps] == after
    assert replay.rim == after[-1]
    assert [(step.operation, step.address, step.size, step.count) for step in replay.trace.steps] == [
        ("REALM_CREATE", None, 4096, 1),
        ("RTT_INIT_RIPAS", RAM + 0x1F_F000, 0x20_2000, 3),
        ("DATA_CREATE", RAM, 8192, 2),
        ("DATA_CREATE", RAM + 0x10000, 8192, 2),
        ("REC_CREATE", None, 4096, 1),
    ]


def test_steps_say_what_they_are_of() -> None:
    ripas = InitRipas(base=RAM + 0x2000, top=RAM + 0x4000, source="Image", description="bss")
    steps = Replayer(SHA256).replay((CREATE, KERNEL, ripas, REC)).trace.steps
    pages = [(b"kernel" * 1000)[:4096], (b"kernel" * 1000)[4096:].ljust(4096, b"\0")]
    joined = b"".join(hashlib.sha256(page).digest() for page in pages)
    assert [(step.register, step.source, step.description) for step in steps] == [
        ("RIM", "--realm", ""),
        ("RIM", "Image", "kernel"),
        ("RIM", "Image", "bss: 2 x 4 KiB"),
        ("RIM", "-c", ""),
    ]
    assert [step.digests[SHA256] for step in steps] == [
        hashlib.sha256(PARAMS.page(SHA256)).digest(),
        hashlib.sha256(joined).digest(),
        hashlib.sha256(struct.pack("<4Q", RAM + 0x2000, RAM + 0x4000, 4096, 2)).digest(),
        hashlib.sha256(REC.rec.page()).digest(),
    ]
    assert [step.spec for step in steps] == [
        f"TF-RMM tf-rmm-v0.8.0, rim.c, measurement_{name}_measure"
        for name in ("realm_params", "data_granule", "init_ripas", "rec_params")
    ]


def test_the_content_of_a_step_does_not_depend_on_what_came_before() -> None:
    plain = Replayer(SHA256).replay((CREATE, KERNEL)).trace.steps[1]
    other = replace(CREATE, params=replace(PARAMS, num_bps=2))
    moved = Replayer(SHA256).replay((other, KERNEL)).trace.steps[1]
    assert plain.digests == moved.digests
    assert plain.after != moved.after


def test_what_launches_share_is_folded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[int] = []
    original = Realm.data_create_many

    def counted(self: Realm, ipa: int, digests: bytes) -> None:
        folded.append(ipa)
        original(self, ipa, digests)

    monkeypatch.setattr(Realm, "data_create_many", counted)
    replayer = Replayer(SHA256)
    trees = [BytesBlob("tree", bytes([number])) for number in range(5)]
    launches = [
        (CREATE, KERNEL, PopulateData(address=RAM + MIB2, blob=tree, source="tree")) for tree in trees
    ]
    assert len({replayer.replay(launch).rim for launch in launches}) == 5
    assert folded == [RAM, *[RAM + MIB2] * 5]
    # Equal bytes at the same place are the same content, whatever they are called.
    renamed = replace(KERNEL, blob=BytesBlob("vmlinuz", b"kernel" * 1000), source="vmlinuz")
    assert replayer.replay((CREATE, renamed)).trace.steps[-1].source == "vmlinuz"
    assert len(folded) == 6
    replayer.replay((CREATE, replace(KERNEL, address=RAM + 8)))
    assert len(folded) == 7


def test_algorithms_can_share_a_hasher() -> None:
    hasher = GranuleHasher()
    for algorithm in (SHA256, HashAlgorithm.SHA512):
        shared = Replayer(algorithm, hasher=hasher).replay((CREATE, KERNEL, REC))
        assert shared == Replayer(algorithm).replay((CREATE, KERNEL, REC))
        assert len(shared.rim) == algorithm.size


def test_rmm_2_has_no_step_for_ripas() -> None:
    ripas = InitRipas(base=RAM, top=RAM + 4096, source="-m")
    replayer = Replayer(SHA256, RmmVersion.RMM_2_0)
    assert replayer.replay((CREATE, ripas, KERNEL)) == replayer.replay((CREATE, KERNEL))


def outside(where: str) -> str:
    return (
        f"{where} is not inside the protected half of the IPA space, which ends at 0x100000000 with s2sz 33; "
        "give the realm less memory or more IPA bits"
    )


BAD: dict[str, tuple[tuple[Operation, ...], str]] = {
    "nothing": ((), "realm: a launch has no operations; begin with the one that creates the realm"),
    "no realm": ((KERNEL,), "data_create: there is no realm yet; call realm_create first"),
    "rec without effect": (
        (CreateRec(rec=RecParams(), source="-c"),),
        "rec_create: there is no realm yet; call realm_create first",
    ),
    "realm again": ((CREATE, CREATE), "realm: exists already; realm_create comes first, and once"),
    "empty initrd": (
        (CREATE, PopulateData(address=RAM, blob=BytesBlob("initrd", b""), source="initrd")),
        "initrd: is empty; there is nothing to populate",
    ),
    "empty range": (
        (CREATE, InitRipas(base=RAM, top=RAM, source="-m")),
        "rtt_init_ripas: the range 0x80000000..0x80000000 is empty",
    ),
    "unaligned range": (
        (CREATE, InitRipas(base=RAM, top=RAM + 1, source="-m")),
        "ripas: 0x80000000..0x80000001 is not made of blocks of 0x1000 bytes",
    ),
    "bss without end": (
        (CREATE, InitRipas(base=RAM, top=1 << 62, source="Image")),
        "rtt_init_ripas: " + outside("0x80000000..0x4000000000000000"),
    ),
    "unmeasured without end": (
        (CREATE, PopulateUnmeasured(address=RAM, size=1 << 62, source="log")),
        "data_create: " + outside("0x80000000..0x4000000080000000"),
    ),
    "nothing unmeasured": (
        (CREATE, PopulateUnmeasured(address=RAM, size=0, source="log")),
        "data_create: the range 0x80000000..0x80000000 is empty",
    ),
    "half a granule unmeasured": (
        (CREATE, PopulateUnmeasured(address=RAM, size=2048, source="log")),
        "data_create: address 0x80000800 is not a multiple of 4096",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("version", RmmVersion)
def test_refused(name: str, version: RmmVersion) -> None:
    launch, message = BAD[name]
    replayer = Replayer(SHA256, version)
    replayer.replay((CREATE, KERNEL, REC))
    with pytest.raises(MeasureError) as caught:
        replayer.replay(launch)
    assert str(caught.value) == message


SIZES: dict[str, tuple[Callable[[], Any], str]] = {
    "replayer": (
        lambda: Replayer(HashAlgorithm.SHA384),
        "realm: rmm-1.0 does not measure with sha384; use one of sha256, sha512",
    ),
    "narrow": (lambda: block_sizes(31), "ripas: s2sz 31 is no width of an IPA space; use 32 to 52"),
    "wide": (lambda: block_sizes(53), "ripas: s2sz 53 is no width of an IPA space; use 32 to 52"),
    "no sizes": (
        lambda: split_blocks(RAM, RAM + 4096, ()),
        "ripas: blocks of  bytes are no levels of a table; use block_sizes()",
    ),
    "the same size twice": (
        lambda: split_blocks(RAM, RAM + 4096, (4096, 4096)),
        "ripas: blocks of 0x1000, 0x1000 bytes are no levels of a table; use block_sizes()",
    ),
    "sizes that do not nest": (
        lambda: split_blocks(RAM, RAM + 4096, (0x2000, 0x3000)),
        "ripas: blocks of 0x2000, 0x3000 bytes are no levels of a table; use block_sizes()",
    ),
    "zero size": (
        lambda: split_blocks(RAM, RAM + 4096, (0,)),
        "ripas: blocks of 0x0 bytes are no levels of a table; use block_sizes()",
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_refused_sizes(name: str) -> None:
    call, message = SIZES[name]
    with pytest.raises(MeasureError) as caught:
        call()
    assert str(caught.value) == message


@settings(max_examples=150)
@given(st.integers(0, 2000), st.integers(1, 3000), st.integers(0, 2))
def test_blocks_one_by_one(first: int, pages: int, large: int) -> None:
    """Against the rule written as it stands: the largest block that is aligned and fits, again and again."""
    sizes = tuple(4096 << 3 * level for level in range(large + 2))
    base = first * 4096
    top = base + pages * 4096
    slow = []
    at = base
    while at < top:
        block = max(size for size in sizes if at % size == 0 and at + size <= top)
        slow.append((at, block))
        at += block
    runs = split_blocks(base, top, sizes)
    assert [(run.base + run.block * index, run.block) for run in runs for index in range(run.count)] == slow
    assert all(one.block != other.block for one, other in pairwise(runs))


def test_a_huge_range_is_a_few_runs() -> None:
    assert [(run.block, run.count) for run in split_blocks(4096, 1 << 62, PAGES)] == [(4096, (1 << 50) - 1)]
    runs = split_blocks(4096, 1 << 62, block_sizes(48))
    assert sum(run.block * run.count for run in runs) == (1 << 62) - 4096
