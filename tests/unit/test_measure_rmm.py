from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import MeasureError
from recipes.machine import RecPolicy
from recipes.measure.rmm import (
    GRANULE_SIZE,
    REC_RUNNABLE,
    Realm,
    RealmFlags,
    RealmParams,
    RecParams,
    RmmVersion,
)
from recipes.measure.trace import HashAlgorithm

SHA256, SHA384, SHA512 = HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512
RMM_1_0, RMM_2_0 = RmmVersion.RMM_1_0, RmmVersion.RMM_2_0
RAM = 0x8000_0000
END = 1 << 32  # of the protected half with s2sz 33
FLAGS_1_0 = RealmParams(s2sz=33, flags=0x80)


def realm(version: RmmVersion = RMM_1_0, algorithm: HashAlgorithm = SHA256) -> Realm:
    made = Realm(algorithm, version)
    made.realm_create(RealmParams(s2sz=33))
    return made


def outside(where: str) -> str:
    return (
        f"data_create: {where} is not inside the protected half of the IPA space, which ends at 0x100000000 "
        "with s2sz 33; give the realm less memory or more IPA bits"
    )


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "sha1": (
        lambda: Realm(HashAlgorithm.SHA1),
        "realm: no RMM measures with sha1; use one of sha256, sha384, sha512",
    ),
    "sha384 with 1.0": (
        lambda: Realm(SHA384, RMM_1_0),
        "realm: rmm-1.0 does not measure with sha384; use one of sha256, sha512",
    ),
    "sha1 page": (
        lambda: RealmParams(s2sz=33).page(HashAlgorithm.SHA1),
        "realm: no RMM measures with sha1; use one of sha256, sha384, sha512",
    ),
    "s2sz 31": (
        lambda: RealmParams(s2sz=31),
        "realm: s2sz 31 is no width of an IPA space; use 32 to 48, or up to 52 with LPA2",
    ),
    "s2sz 49": (
        lambda: RealmParams(s2sz=49),
        "realm: s2sz 49 is no width of an IPA space; use 32 to 48, or up to 52 with LPA2",
    ),
    "s2sz 53": (
        lambda: RealmParams(s2sz=53, flags=RealmFlags.LPA2),
        "realm: s2sz 53 is no width of an IPA space; use 32 to 52",
    ),
    "s2sz 289": (lambda: RealmParams(s2sz=289), "realm: s2sz 0x121 does not fit 8 bits"),
    "flags": (lambda: RealmParams(s2sz=33, flags=1 << 64), f"realm: flags {1 << 64:#x} does not fit 64 bits"),
    "negative flags": (lambda: RealmParams(s2sz=33, flags=-1), "realm: flags -0x1 does not fit 64 bits"),
    "sve_vl": (lambda: RealmParams(s2sz=33, sve_vl=256), "realm: sve_vl 0x100 does not fit 8 bits"),
    "num_bps": (lambda: RealmParams(s2sz=33, num_bps=-1), "realm: num_bps -0x1 does not fit 8 bits"),
    "num_wps": (lambda: RealmParams(s2sz=33, num_wps=256), "realm: num_wps 0x100 does not fit 8 bits"),
    "pmu": (lambda: RealmParams(s2sz=33, pmu_num_ctrs=256), "realm: pmu_num_ctrs 0x100 does not fit 8 bits"),
    "flag of 2.0": (
        lambda: Realm(SHA256).realm_create(FLAGS_1_0),
        "realm: flags 0x80 are none of rmm-1.0; clear them",
    ),
    "flag of none": (
        lambda: Realm(SHA256, RMM_2_0).realm_create(RealmParams(s2sz=33, flags=0x19F)),
        "realm: flags 0x10 are none of rmm-2.0; clear them",
    ),
    "created twice": (
        lambda: realm().realm_create(RealmParams(s2sz=33)),
        "realm: exists already; realm_create comes first, and once",
    ),
    "rec flags": (lambda: RecParams(flags=2), "rec: flags 0x2 are not modelled; use 0, or 1 for runnable"),
    "pc": (lambda: RecParams(pc=-1), "rec: pc -0x1 does not fit 64 bits"),
    "seven registers": (lambda: RecParams(gprs=(0,) * 7), "rec: gprs has 7 values; give 8, x0 to x7"),
    "x7": (
        lambda: RecParams(gprs=(*(0,) * 7, 1 << 64)),
        f"rec: x7 {1 << 64:#x} does not fit 64 bits",
    ),
    "rec before realm": (
        lambda: Realm(SHA256).rec_create(RecParams()),
        "rec_create: there is no realm yet; call realm_create first",
    ),
    "data before realm": (
        lambda: Realm(SHA256).data_create(RAM, bytes(4096)),
        "data_create: there is no realm yet; call realm_create first",
    ),
    "unmeasured before realm": (
        lambda: Realm(SHA256).data_create_unmeasured(RAM),
        "data_create: there is no realm yet; call realm_create first",
    ),
    "ripas before realm": (
        lambda: Realm(SHA256).rtt_init_ripas(RAM, RAM + 4096),
        "rtt_init_ripas: there is no realm yet; call realm_create first",
    ),
    "short granule": (
        lambda: realm().data_create(RAM, bytes(4095)),
        "data_create: a granule has 4096 bytes, this has 4095",
    ),
    "unaligned data": (
        lambda: realm().data_create(RAM + 8, bytes(4096)),
        "data_create: address 0x80000008 is not a multiple of 4096",
    ),
    "unaligned unmeasured data": (
        lambda: realm().data_create_unmeasured(RAM + 8),
        "data_create: address 0x80000008 is not a multiple of 4096",
    ),
    "data in the shared half": (
        lambda: realm().data_create(END, bytes(4096)),
        outside("0x100000000..0x100001000"),
    ),
    "data below zero": (
        lambda: realm().data_create(-4096, bytes(4096)),
        outside("-0x1000..0x0"),
    ),
    "no digests": (
        lambda: realm().data_create_many(RAM, b""),
        "data_create: 0 bytes are not hashes of 32 bytes each",
    ),
    "half a digest": (
        lambda: realm().data_create_many(RAM, bytes(48)),
        "data_create: 48 bytes are not hashes of 32 bytes each",
    ),
    "last granule outside": (
        lambda: realm().data_create_many(END - 4096, bytes(64)),
        outside("0xfffff000..0x100001000"),
    ),
    "unaligned base": (
        lambda: realm().rtt_init_ripas(RAM + 1, RAM + 4096),
        "rtt_init_ripas: address 0x80000001 is not a multiple of 4096",
    ),
    "unaligned top": (
        lambda: realm().rtt_init_ripas(RAM, RAM + 4097),
        "rtt_init_ripas: address 0x80001001 is not a multiple of 4096",
    ),
    "no range": (
        lambda: realm().rtt_init_ripas(RAM, RAM),
        "rtt_init_ripas: the range 0x80000000..0x80000000 is empty",
    ),
    "backwards": (
        lambda: realm().rtt_init_ripas(RAM, RAM - 4096),
        "rtt_init_ripas: the range 0x80000000..0x7ffff000 is empty",
    ),
    "backwards in 2.0": (
        lambda: realm(RMM_2_0).rtt_init_ripas(RAM, RAM - 4096),
        "rtt_init_ripas: the range 0x80000000..0x7ffff000 is empty",
    ),
    "blocks of nothing": (
        lambda: realm().rtt_init_ripas_many(RAM, RAM + 4096, 0),
        "rtt_init_ripas: 0x80000000..0x80001000 is no row of blocks of 0x0 bytes",
    ),
    "odd blocks": (
        lambda: realm().rtt_init_ripas_many(RAM, RAM + 4096, 2048),
        "rtt_init_ripas: 0x80000000..0x80001000 is no row of blocks of 0x800 bytes",
    ),
    "half a block": (
        lambda: realm().rtt_init_ripas_many(RAM, RAM + 0x3000, 0x2000),
        "rtt_init_ripas: 0x80000000..0x80003000 is no row of blocks of 0x2000 bytes",
    ),
    "REM 0": (lambda: realm().rem_extend(0, b""), "rem_extend: there is no REM 0 to extend; use 1 to 4"),
    "REM 5": (lambda: realm().rem_extend(5, b""), "rem_extend: there is no REM 5 to extend; use 1 to 4"),
    "long value": (
        lambda: realm().rem_extend(1, bytes(65)),
        "rem_extend: a value has at most 64 bytes, not 65",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(MeasureError) as caught:
        call()
    assert str(caught.value) == message


def test_a_refused_call_changes_nothing() -> None:
    made = realm()
    before = made.rim, made.rems
    calls: tuple[Callable[[], None], ...] = (
        lambda: made.data_create_many(END - 4096, bytes(64)),
        lambda: made.rtt_init_ripas_many(RAM, RAM + 0x3000, 0x2000),
        lambda: made.rem_extend(1, bytes(65)),
    )
    for call in calls:
        with pytest.raises(MeasureError):
            call()
        assert (made.rim, made.rems) == before


@settings(max_examples=60)
@given(
    st.sampled_from([(SHA256, RMM_1_0), (SHA512, RMM_1_0), (SHA384, RMM_2_0)]),
    st.lists(st.binary(max_size=40), min_size=1, max_size=12),
    st.integers(0, END // GRANULE_SIZE - 12),
)
def test_many_granules_are_one_after_the_other(
    rules: tuple[HashAlgorithm, RmmVersion], contents: list[bytes], first: int
) -> None:
    algorithm, version = rules
    one, many = realm(version, algorithm), realm(version, algorithm)
    granules = [content.ljust(GRANULE_SIZE, b"\0") for content in contents]
    for index, granule in enumerate(granules):
        one.data_create((first + index) * GRANULE_SIZE, granule)
    many.data_create_many(first * GRANULE_SIZE, b"".join(map(algorithm.digest, granules)))
    assert one.rim == many.rim


@settings(max_examples=40)
@given(st.integers(1, 20), st.sampled_from([0x1000, 0x20_0000]))
def test_many_ripas_entries_are_one_after_the_other(count: int, block: int) -> None:
    one, many = realm(), realm()
    for index in range(count):
        one.rtt_init_ripas(RAM + index * block, RAM + (index + 1) * block)
    many.rtt_init_ripas_many(RAM, RAM + count * block, block)
    assert one.rim == many.rim != realm().rim


def test_ripas_is_not_measured_by_rmm_2() -> None:
    made = realm(RMM_2_0)
    before = made.rim
    made.rtt_init_ripas(RAM, RAM + 4096)
    assert made.rim == before


def test_whole_protected_half_can_be_used() -> None:
    made = realm()
    made.rtt_init_ripas(0, END)
    made.data_create_unmeasured(END - 4096)
    assert made.rim != realm().rim


def test_only_islet_measures_a_rec_that_does_not_run() -> None:
    waiting, running = RecParams(), RecParams(flags=REC_RUNNABLE)
    tf_rmm, islet, run = realm(), realm(), realm()
    tf_rmm.rec_create(waiting)
    islet.rec_create(waiting, RecPolicy.ALL)
    run.rec_create(running)
    assert tf_rmm.rim == realm().rim
    assert len({tf_rmm.rim, islet.rim, run.rim}) == 3
    again = realm()
    again.rec_create(running, RecPolicy.ALL)
    assert again.rim == run.rim


def test_registers_before_anything() -> None:
    made = Realm(SHA512)
    assert made.rim == bytes(64)
    assert made.rems == (bytes(64),) * 4


@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_a_rem_is_extended_alone(index: int) -> None:
    made = realm()
    before = made.rim
    made.rem_extend(index, b"abc")
    assert made.rim == before
    assert [number for number, value in enumerate(made.rems, 1) if value != bytes(32)] == [index]
