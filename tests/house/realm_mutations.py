"""Rules of a realm's measurement and provisioning, each with a way to break it and the test that notices.

As in ``mutations``: a rule that could be broken without a failing test would be a rule that nobody checks.
The device tree has its own list in ``tree_mutations``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from recipes.formats import islet_metadata
from recipes.formats.arm64_image import Arm64Image
from recipes.machine import HostFeatures, KvmtoolMachine, KvmtoolProfile
from recipes.measure import (
    granules,
    islet,
    kvmtool,
    kvmtool_layout,
    kvmtool_params,
    realm_launch,
    ripas,
    rmm,
    rmm_params,
)
from recipes.measure.realm_launch import Operation
from recipes.measure.rmm_params import RealmParams
from recipes.measure.trace import HashAlgorithm
from tests.house.realm_breaking import (
    Check,
    RealmMutation,
    broken,
    calls,
    check_runnable_rim,
    check_shared,
    edited,
    kernel_at,
    noticed,
    other,
    parameters,
    placed,
    rim,
    signing,
    unit,
)
from tests.house.tree_mutations import TREE_MUTATIONS
from tests.unit import (
    test_measure_granules,
    test_measure_islet,
    test_measure_kvmtool,
    test_measure_kvmtool_layout,
    test_measure_realm_edges,
    test_measure_realm_launch,
)
from tests.unit.test_measure_kvmtool import MACHINE, REL0, REL0_TF_RMM, Fold
from tests.vectors import test_islet, test_rmm
from tests.vectors.test_kvmtool_rim import TF_RMM


def reordered(rule: str, order: Callable[[tuple[Operation, ...]], Any], killed_by: Check) -> RealmMutation:
    """The operations of a launch in another order."""
    original = kvmtool._operations

    def operations(*arguments: Any) -> Any:
        return order(original(*arguments))

    return other(kvmtool, "_operations", operations, rule, killed_by)


def measured_personalization(machine: KvmtoolMachine, profile: KvmtoolProfile) -> RealmParams:
    """As the first RMMs had it: the personalization value counts."""
    counted = len(machine.personalization)
    return replace(kvmtool_params.realm_params(machine, profile), pmu_num_ctrs=counted)


DATA, REC, RIPAS = (
    "rmm-1.0 sha256 data-measured",
    "rmm-1.0 sha256 rec-runnable",
    "rmm-1.0 sha256 ripas-blocks",
)
UNMEASURED = "rmm-1.0 sha256 data-unmeasured-content-ignored"
LOG = "rmm-1.0 sha256 full-rmm1-ripas-data-rec-log"
REMS = "rmm-1.0 sha256 rem-extend-sizes"
PMU = "rmm-1.0 sha256 create-pmu-only"
BPS = "rmm-1.0 sha256 create-wide-bps"
TWO_BREAKPOINTS = {"num_bps": 2, "num_wps": 2}
MIB = 1 << 20


def descriptors() -> Iterator[RealmMutation]:
    """What each call hashes."""
    yield other(rmm, "_TYPE_DATA", 3, "DATA with another type", calls(DATA))
    yield other(rmm, "_TYPE_REC", 2, "REC with another type", calls(REC))
    yield other(rmm, "_TYPE_RIPAS", 1, "RIPAS with another type", calls(RIPAS))
    yield other(rmm, "_MEASURE_CONTENT", 0, "content not flagged as measured", calls(DATA))
    yield from broken(
        rmm.Realm.data_create_many,
        ("DATA with the length of its fields", "_DATA.size", "0xa0", calls(DATA)),
        (
            "RIM at the end of its field",
            "_DATA.size, rim,",
            '_DATA.size, rim.rjust(64, b"\\0"),',
            calls(DATA),
        ),
        ("every granule at the first address", "rim, address,", "rim, ipa,", rim("demo-islet")),
        ("granules counted from 0", "range(ipa, top,", "range(0, top - ipa,", rim("demo-islet")),
        ("every granule as the first", ", digest)).digest()", ", digests[:size])).digest()", rim("cpus-1")),
        ("old RIM not part of the new", "_DATA.size, rim,", '_DATA.size, b"",', calls(DATA)),
    )
    yield from broken(
        rmm.Realm.data_create,
        (
            "content itself in place of its hash",
            "self._hash(granule).digest()",
            "granule[:32]",
            calls(DATA),
        ),
    )
    yield from broken(
        rmm.Realm.data_create_unmeasured,
        ("flag of measured content without it", "ipa, 0,", "ipa, 1,", calls(UNMEASURED)),
        ("hash of nothing as content", 'b"")', 'self._hash(b"").digest())', calls(UNMEASURED)),
    )
    yield from broken(
        rmm.Realm.rec_create,
        ("REC with the length of its fields", "_REC.size", "0x90", calls(REC)),
        ("REC page hashed without the RIM", "_REC.size, self.rim,", '_REC.size, b"",', calls(REC)),
        ("REC page in place of its hash", "_hash(rec.page()).digest()\n", "rim\n", calls(REC)),
        ("every REC measured", "rec.runnable or", "True or", partial(check_runnable_rim, "cpus-4")),
    )
    yield from broken(
        rmm.Realm.rtt_init_ripas_many,
        ("RIPAS with the length of its fields", "_RIPAS.size", "0x60", calls(RIPAS)),
        ("RIPAS with its size for its end", "start, start + block", "start, block", calls(RIPAS)),
        ("RIPAS with the end of the range", "start, start + block", "start, top", rim("demo-islet")),
        ("RIPAS not chained", "_RIPAS.size, rim,", "_RIPAS.size, self.rim,", rim("demo-islet")),
        (
            "RIPAS measured by RMM 2.0",
            "self.version is RmmVersion.RMM_2_0",
            "False",
            unit(test_measure_realm_launch.test_rmm_2_has_no_step_for_ripas),
        ),
    )
    yield from broken(
        rmm.Realm.rem_extend,
        ("REM value filled to 64 bytes", "+ value)", '+ value.ljust(64, b"\\0"))', calls(REMS)),
        (
            "REM value before the register",
            "self.rems[index - 1] + value",
            "value + self.rems[index - 1]",
            calls(REMS),
        ),
        (
            "REM register filled to 64 bytes",
            "self.rems[index - 1] +",
            'self.rems[index - 1].ljust(64, b"\\0") +',
            calls(REMS),
        ),
        ("one REM for all", "new, *self.rems[index:]", "new, *(new,) * (REM_COUNT - index)", calls(REMS)),
    )


def pages() -> Iterator[RealmMutation]:
    """The parameters of a realm and of a REC."""
    yield from broken(
        RealmParams.page,
        ("flags not measured", "self.flags", "0", calls(PMU)),
        ("s2sz not measured", "self.s2sz", "33", calls(PMU)),
        ("vector length not measured", "self.sve_vl", "0", calls("rmm-1.0 sha256 create-pmu-sve-lpa2")),
        ("breakpoints for watchpoints", "self.num_wps", "self.num_bps", calls(BPS)),
        ("watchpoints for breakpoints", "self.num_bps", "self.num_wps", calls(BPS)),
        ("counters not measured", "self.pmu_num_ctrs", "0", calls(PMU)),
        ("hash not measured", "_ALGORITHM_IDS[algorithm]", "0", calls("rmm-1.0 sha512 create-s2sz33")),
        (
            "hash numbered as Islet's metadata",
            "_ALGORITHM_IDS[algorithm]",
            "1 + _ALGORITHM_IDS[algorithm]",
            calls(PMU),
        ),
    )
    ids = {**rmm_params._ALGORITHM_IDS, HashAlgorithm.SHA384: 1}
    yield other(rmm_params, "_ALGORITHM_IDS", ids, "SHA-384 numbered 1", calls("rmm-2.0 sha384 create-min"))
    yield from broken(
        rmm_params.RecParams.page,
        ("runnable flag not measured", "self.flags", "0", calls(REC)),
        ("pc not measured", "self.pc", "0", calls(REC)),
        ("x0 not measured", "*self.gprs", "0, *self.gprs[1:]", calls(REC)),
        ("registers in another order", "*self.gprs", "*self.gprs[::-1]", calls("rmm-1.0 sha512 rec-allgprs")),
    )


def blocks() -> Iterator[RealmMutation]:
    """RTT entries of a range."""
    cases = {(case["base"], case["size"], case["s2sz"]): case for case in test_rmm.BLOCKS}
    level = unit(test_rmm.check_blocks, cases["0x80000000", "0x40000000", 34])
    odd = unit(test_rmm.check_blocks, cases["0x80001000", "0x600000", 33])
    yield other(ripas, "_STRIDE", 8, "tables of 256 entries", level)
    yield other(ripas, "_CONCATENATED_BITS", 0, "no concatenated tables", level)
    yield from broken(
        ripas.split_blocks,
        ("blocks that are not aligned", "base % size == 0 and ", "", odd),
        ("small blocks up to the end", "end = min(end, aligned)", "pass", odd),
    )


def content() -> Iterator[RealmMutation]:
    """Files in granules, and what a replayer remembers."""
    yield from broken(
        granules._pieces,
        (
            "last page not zero padded",
            'rest.ljust(GRANULE_SIZE, b"\\0")',
            'rest.ljust(GRANULE_SIZE, b"\\xff")',
            rim("initrd-4091"),
        ),
        (
            "first page not zero padded",
            "rest = bytearray(lead)",
            'rest = bytearray(b"\\xff" * lead)',
            rim("initrd-4091"),
        ),
    )
    yield from broken(
        realm_launch.Replayer._data,
        (
            "granules hashed at any offset as at 0",
            "granules(operation.blob, lead,",
            "granules(operation.blob, 0,",
            rim("demo-islet"),
        ),
    )
    yield from broken(
        realm_launch.Replayer._apply,
        (
            "remembered whatever the register was",
            "(realm.rim, extension.call,",
            '(b"", extension.call,',
            partial(check_shared, "demo-islet", "demo-tfrmm"),
        ),
        (
            "remembered whatever the address is",
            "extension.address,",
            "None,",
            partial(check_shared, "mem-64", "mem-128"),
        ),
        (
            "remembered whatever the content is",
            ", extension.content)",
            ")",
            partial(check_shared, "disks-0", "disks-2"),
        ),
    )
    yield from broken(
        realm_launch.Replayer._unmeasured,
        (
            "one granule of the log",
            "address + size, GRANULE_SIZE",
            "address + 1, GRANULE_SIZE",
            unit(test_measure_kvmtool.test_newer_tf_rmm),
        ),
    )
    yield from broken(
        granules.GranuleHasher.granules,
        (
            "known whatever the offset",
            "key = (lead, algorithm)",
            "key = (0, algorithm)",
            unit(test_measure_granules.test_a_blob_is_read_once),
        ),
        (
            "known whatever the algorithm",
            "key = (lead, algorithm)",
            "key = (lead, HashAlgorithm.SHA256)",
            unit(test_measure_granules.test_a_blob_is_read_once),
        ),
        (
            "read again for every launch",
            "if key not in known:",
            "if True:",
            unit(test_measure_granules.test_a_blob_is_read_once),
        ),
    )


def order() -> Iterator[RealmMutation]:
    """Which operations a launch makes, and in which order: parameters, kernel, bss, initramfs, tree, RECs."""
    demo = rim("demo-islet")
    yield reordered("bss before the kernel", lambda ops: (ops[0], ops[2], ops[1], *ops[3:]), demo)
    yield reordered("initramfs before the bss", lambda ops: (*ops[:2], ops[3], ops[2], *ops[4:]), demo)
    yield reordered("tree before the initramfs", lambda ops: (*ops[:3], ops[4], ops[3], *ops[5:]), demo)
    yield reordered("REC before the tree", lambda ops: (*ops[:4], ops[5], ops[4]), demo)
    yield reordered("secondary REC first", lambda ops: (*ops[:5], *ops[:4:-1]), rim("cpus-4"))
    yield reordered("one REC more", lambda ops: (*ops, ops[-1]), demo)
    yield reordered("no bss", lambda ops: (*ops[:2], *ops[3:]), demo)
    yield from broken(
        kvmtool._operations,
        (
            "blocks in the measurer's bss",
            "PAGES if profile.ripas is RipasPolicy.TAIL_PAGES else",
            "",
            rim("kernel-f-large-bss-6M"),
        ),
        (
            "granules in TF-RMM's bss",
            "PAGES if profile.ripas is RipasPolicy.TAIL_PAGES else block_sizes(params.s2sz)",
            "PAGES",
            unit(test_measure_kvmtool.test_tf_rmm_measures_blocks_and_one_rec),
        ),
        (
            "RAM not set by the newer kvmtool",
            "if profile.ripas is RipasPolicy.RAM_BLOCKS:",
            "if False:",
            unit(test_measure_kvmtool.test_newer_measurer_takes_all_of_ram_first),
        ),
        (
            "bss set again by the newer kvmtool",
            "profile.ripas is not RipasPolicy.RAM_BLOCKS and",
            "",
            unit(test_measure_kvmtool.test_newer_measurer_takes_all_of_ram_first),
        ),
        (
            "empty bss set",
            "and start < end:",
            "or True:\n        end = max(end, start + 4096)",
            rim("kernel-b-no-bss"),
        ),
    )
    yield from broken(
        kvmtool._create_rec,
        ("later RECs not measured", "profile.rec_policy", "type(profile.rec_policy).RUNNABLE", rim("cpus-4")),
        (
            "later RECs measured by TF-RMM",
            "profile.rec_policy",
            "type(profile.rec_policy).ALL",
            partial(check_runnable_rim, "sha512-tfrmm-cpus2"),
        ),
        ("later RECs runnable", "else RecParams()", "else first", rim("cpus-4")),
        ("no REC runnable", "flags=REC_RUNNABLE, ", "", demo),
        (
            "first instruction at the start of RAM",
            "pc=layout.kernel",
            "pc=layout.ram",
            unit(test_measure_kvmtool.test_text_offset_enters_the_realm_behind_it),
        ),
        ("x0 without the tree", "gprs=(layout.dtb, 0,", "gprs=(0, 0,", demo),
        ("tree in x1", "gprs=(layout.dtb, 0,", "gprs=(0, layout.dtb,", demo),
    )


def realm_parameters() -> Iterator[RealmMutation]:
    """What becomes of the command line in the parameters."""
    three = replace(MACHINE, memory=3072 * MIB)
    tf_rmm = replace(MACHINE, profile=TF_RMM)
    yield other(
        kvmtool, "realm_params", measured_personalization, "personalization measured", rim("realm-pv")
    )
    yield from broken(
        kvmtool_params.ipa_width,
        (
            "the measurer's s2sz follows memory",
            "or profile.s2sz ",
            "",
            parameters(three, Fold(**TWO_BREAKPOINTS)),
        ),
        (
            "s2sz counts the end, not the last byte",
            "machine.memory - 1",
            "machine.memory",
            parameters(replace(tf_rmm, memory=2048 * MIB), Fold(**TWO_BREAKPOINTS)),
        ),
        (
            "s2sz without the shared half",
            ") + 1",
            ")",
            parameters(replace(tf_rmm, memory=3072 * MIB), Fold(**TWO_BREAKPOINTS, s2sz=34)),
        ),
        (
            "s2sz never above 33",
            "last.bit_length()",
            "0",
            parameters(replace(tf_rmm, memory=3072 * MIB), Fold(**TWO_BREAKPOINTS, s2sz=34)),
        ),
        (
            "--ipa-size ignored",
            "machine.ipa_bits or ",
            "",
            parameters(replace(REL0, ipa_bits=40), Fold(flags=2, sve_vl=3, s2sz=40)),
        ),
    )
    yield from broken(
        kvmtool_params.realm_params,
        ("vector length not less one", "bits // _SVE_STEP - 1", "bits // _SVE_STEP", rim("sve-vl-256")),
        ("vector length in bits", "bits // _SVE_STEP - 1", "bits - 1 & 0xFF", rim("sve-vl-256")),
        ("no flag for SVE", "RealmFlags.SVE if bits else 0", "RealmFlags(0)", rim("sve-vl-128")),
        (
            "no flag for counters",
            "RealmFlags.PMU if machine.pmu_counters else 0",
            "0",
            rim("pmu-and-counters"),
        ),
        ("counters left out", "pmu_num_ctrs=machine.pmu_counters", "pmu_num_ctrs=0", rim("pmu-and-counters")),
        (
            "--pmu alone sets the flag",
            "if machine.pmu_counters else",
            "if machine.pmu else",
            rim("irqchip-gicv2-cpus9-pmu"),
        ),
        (
            "--host lpa2 sets no flag",
            "RealmFlags.LPA2 if machine.host.lpa2 else 0",
            "0",
            unit(
                noticed,
                parameters(
                    replace(REL0, host=HostFeatures(lpa2=True), ipa_bits=52), Fold(flags=3, sve_vl=3, s2sz=52)
                ),
            ),
        ),
    )
    yield from broken(
        kvmtool_params.sve_bits,
        (
            "--disable-sve ignored",
            "if machine.disable_sve:",
            "if False:",
            parameters(replace(REL0, disable_sve=True), Fold()),
        ),
        (
            "--sve-vl ignored",
            "if machine.sve_vl:\n        bits",
            "if False:\n        bits",
            parameters(replace(REL0, sve_vl=256), Fold(flags=2, sve_vl=1)),
        ),
    )
    host = unit(test_measure_realm_edges.test_the_hosts_vectors_are_not_the_realms, MACHINE.profile)
    yield from broken(
        kvmtool_params._sve_is_hosts,
        ("the host's SVE without asking", " and profile.sve_vl != 0", "", host),
    )
    limit = unit(noticed, test_measure_realm_edges.test_a_host_of_just_enough_ipa_bits)
    yield from broken(
        kvmtool_params.ipa_width,
        ("one IPA bit fewer than the host's", "width > limit", "width >= limit", limit),
        ("more IPA bits than the host's", "width > limit", "False", limit),
    )
    yield from broken(
        kvmtool_params._breakpoints,
        ("breakpoints with --islet", "if machine.islet:", "if False:", rim("demo-islet")),
        (
            "no breakpoints without --islet",
            "return profile.breakpoints\n",
            "return 0\n",
            rim("demo-tfrmm"),
        ),
        (
            "breakpoints not less one in 1.0-rel0",
            "return given - profile.breakpoints_encoding",
            "return given",
            parameters(REL0_TF_RMM, Fold(num_bps=15, num_wps=3)),
        ),
    )


def layout() -> Iterator[RealmMutation]:
    """Where everything lies."""
    where = kvmtool_layout
    raw, header = (
        unit(test_measure_kvmtool_layout.test_kernel, None, 150_000, (0x8008_0000, None)),
        Arm64Image,
    )
    odd = header(text_offset=524_800, image_size=180_000, flags=10), 100_001
    unmeasured = header(text_offset=0, image_size=0, flags=10), 200_000, (0x8008_0000, None)
    short = header(text_offset=0x80000, image_size=299_000, flags=10), 300_001, (0x8008_0000, None)
    bss = (*odd, (0x8008_0200, (0x8009_9000, 0x800A_D000)))
    yield other(where, "RAW_TEXT_OFFSET", 0, "raw kernel at the start of RAM", raw)
    yield other(where, "LOW_MEMORY", 512 * MIB, "tree below 512 MiB", rim("mem-1G"))
    yield other(where, "_DTB_ALIGNMENT", MIB, "tree at any MiB", rim("mem-256"))
    yield other(where, "_INITRD_ALIGNMENT", 8, "initramfs at multiples of 8", rim("cpus-1"))
    yield other(kvmtool, "DTB_REGION", 32 << 10, "half of the tree's memory measured", rim("cpus-1"))
    yield from broken(
        where._kernel_extent,
        ("offset of a kernel without size taken", "or not header.image_size", "", kernel_at(*unmeasured)),
        ("text_offset ignored", "return header.text_offset,", "return 0,", kernel_at(*bss)),
        ("bss ignored", "header.image_size\n", "kernel.size\n", rim("demo-islet")),
    )
    yield from broken(
        where.place,
        (
            "limit behind the last byte",
            "if log is None else log) - 1",
            "if log is None else log)",
            placed(0x0101_0001, 0x80E0_0000),
        ),
        (
            "end of bss not a whole page",
            "align_up(start + memory_size, PAGE_SIZE)",
            "start + memory_size",
            kernel_at(*bss),
        ),
        (
            "bss counted from the start of RAM",
            "align_up(start + memory_size, PAGE_SIZE)",
            "align_up(base + memory_size, PAGE_SIZE)",
            kernel_at(*bss),
        ),
        (
            "log does not move the tree",
            "if log is None else log) - 1",
            ") - 1",
            unit(test_measure_kvmtool_layout.test_measurement_log),
        ),
        (
            "bss counted by the older kvmtool",
            'options == "rel0"',
            'options != ""',
            unit(noticed, test_measure_kvmtool_layout.test_initramfs_over_bss),
        ),
    )
    edges = test_measure_realm_edges
    kernel, memory = edges.test_a_kernel_that_ends_where_the_tree_begins, edges.test_a_bss_that_ends_with_ram
    yield from broken(
        where._check_kernel,
        (
            "kernel up to the tree refused",
            "occupied > layout.dtb",
            "occupied >= layout.dtb",
            unit(noticed, kernel),
        ),
        ("kernel over the tree", "occupied > layout.dtb", "False", unit(noticed, kernel)),
        (
            "bss up to the end refused",
            "kernel_memory_end > layout.ram_end",
            "kernel_memory_end >= layout.ram_end",
            unit(noticed, memory),
        ),
        ("bss beyond the end", "layout.kernel_memory_end > layout.ram_end", "False", unit(noticed, memory)),
    )
    initrd = unit(noticed, edges.test_an_initramfs_that_begins_where_the_kernel_ends)
    yield from broken(
        where._with_initrd,
        ("initramfs behind the kernel refused", "start < occupied", "start <= occupied", initrd),
        ("initramfs over the kernel", "start < occupied", "False", initrd),
        ("initramfs in the next page refused", "if start < align_up(", "if start <= align_up(", initrd),
    )
    yield from broken(
        vars(where.Layout)["initrd_is_in_bss"].fget,
        (
            "initramfs behind the bss in it",
            "self.initrd <",
            "self.initrd <=",
            unit(edges.test_an_initramfs_that_begins_where_the_bss_ends, MIB, False),
        ),
    )
    yield from broken(
        where._place_dtb,
        (
            "no room kept for the tree",
            "limit - (DTB_REGION + _DTB_ALIGNMENT)",
            "limit - _DTB_ALIGNMENT",
            placed(0x0101_0001, 0x80E0_0000),
        ),
        (
            "no room kept for rounding",
            "limit - (DTB_REGION + _DTB_ALIGNMENT)",
            "limit - DTB_REGION",
            rim("mem-256"),
        ),
        (
            "tree rounded down",
            "return align_up(lowest, _DTB_ALIGNMENT)",
            "return lowest - lowest % _DTB_ALIGNMENT",
            rim("mem-256"),
        ),
        (
            "tree not rounded",
            "return align_up(lowest, _DTB_ALIGNMENT)",
            "return align_up(lowest, 4096)",
            rim("mem-256"),
        ),
    )
    yield from broken(
        where._with_initrd,
        ("no gap below the tree", "initrd.size + _INITRD_ALIGNMENT", "initrd.size", rim("initrd-4092")),
        (
            "gap of a page below the tree",
            "initrd.size + _INITRD_ALIGNMENT",
            "initrd.size + 4096",
            rim("cpus-1"),
        ),
        (
            "initramfs in whole pages",
            "+ _INITRD_ALIGNMENT), _INITRD_ALIGNMENT)",
            "+ 4096), 4096)",
            rim("cpus-1"),
        ),
    )
    yield from broken(
        vars(where.Layout)["tail"].fget,
        (
            "bss from the page of the file's end",
            "align_up(self.kernel_end, PAGE_SIZE)",
            "(self.kernel_end - self.kernel_end % PAGE_SIZE)",
            rim("demo-islet"),
        ),
        (
            "bss that ends before the file",
            "max(start, self.kernel_memory_end)",
            "self.kernel_memory_end",
            kernel_at(*short),
        ),
    )


def provisioning() -> Iterator[RealmMutation]:
    """REMs of applications, and signed metadata."""
    rem, sets = unit(test_islet.test_rem0), test_islet.test_rem_sets
    yield other(islet, "MAX_REM_VALUE", 32, "REM extended by 32 bytes at a time", rem)
    yield from broken(
        islet._chunks,
        (
            "last part of a REM filled to 64 bytes",
            "for _, content in application.parts)\n",
            "for _, content in application.parts)\n    data += bytes(-len(data) % MAX_REM_VALUE)\n",
            rem,
        ),
    )
    parts = vars(islet.ProvisionedApplication)["parts"].fget
    for name, first, second in (
        ("signature before the key", "self.public_key)", "self.public_key_signature)"),
        ("digest before the signature", "self.public_key_signature)", "self.config_digest)"),
    ):
        edit = edited(parts, (first, "X)"), (second, first), ("X)", second))
        yield RealmMutation(name, edit, rem)
    yield from broken(
        islet.rem_after,
        ("registers counted as RSI does", "rem + 1, chunk", "rem or 1, chunk", unit(sets, 1)),
        (
            "one application alone",
            "for application in applications:",
            "for application in applications[:1]:",
            unit(test_measure_islet.test_trace),
        ),
    )
    each = unit(test_measure_islet.test_one_set_for_zeros_and_one_for_each_order, 3, 7)
    yield from broken(
        islet.rem_sets,
        ("one order of the applications", "permutations(applications)", "[applications]", each),
        ("no set of zeros", "values = [rem_after((), algorithm, rem).value]", "values = []", unit(sets, 0)),
        (
            "first half of the applications",
            "permutations(applications)",
            "permutations(applications, 2)",
            each,
        ),
    )
    yield from broken(
        islet._rem_set,
        ("same value in all registers", "value if index == rem else zero", "value", unit(sets, 0)),
        ("always the first register", "index == rem", "index == 0", unit(sets, 1)),
    )
    yield from broken(
        islet.ProvisionedApplication.of_config,
        ("configuration by SHA-512", "SHA384.digest(config)", "SHA512.digest(config)[:48]", rem),
    )
    yield from metadata()


def metadata() -> Iterator[RealmMutation]:
    """Signed metadata."""
    where, demo, sha512 = islet_metadata, signing("demo"), signing("sha512")
    old_order = edited(
        where.sign,
        ("svn=manifest.svn", "svn=major"),
        ("version_major=major", "version_major=minor"),
        ("version_minor=minor", "version_minor=patch"),
        ("version_patch=patch", "version_patch=manifest.svn"),
    )
    yield RealmMutation("version before the svn", old_order, sha512)
    yield other(where, "FMT_VERSION", 2, "another format number", demo)
    yield from broken(
        where.sign,
        ("public key not signed", "key.sign(header)", "key.sign(header[:-96])", demo),
        ("signature in DER", ".raw", ".der", demo),
        ("RIM at the end of the metadata's field", "manifest.rim.ljust(", "manifest.rim.rjust(", demo),
        ("realm id filled with blanks", 'REALM_ID_SIZE, b"\\0"', 'REALM_ID_SIZE, b" "', demo),
        ("hash numbered as in the RMI", "manifest.algorithm.code", "manifest.algorithm.code - 1", demo),
    )
    read = unit(test_islet.test_reading_gives_the_manifest, "demo", False)
    yield from broken(
        vars(where.SignedManifest)["signed"].fget,
        (
            "public key not verified",
            "self.header, self.signature",
            "self.header[:-96], self.signature",
            unit(noticed, read),
        ),
    )
    yield from broken(
        where.read,
        (
            "svn behind the version",
            "svn=header.svn",
            "svn=header.version_patch",
            unit(test_islet.test_reading_gives_the_manifest, "sha512", False),
        ),
    )


REALM_MUTATIONS = (
    *descriptors(),
    *pages(),
    *blocks(),
    *content(),
    *order(),
    *realm_parameters(),
    *layout(),
    *TREE_MUTATIONS,
    *provisioning(),
)
