"""An IGVM file as a guest with SEV-SNP sees it: what QEMU launches of it, in which order.

QEMU gathers pages that follow each other and launches them when the next page does not, or at the end of the
file; a parameter area is launched at once, and so before pages that are still gathered. A page without data
is a NORMAL page of zeros.

Spec: QEMU 10.1 backends/igvm.c qigvm_process_file(), qigvm_process_mem_page(), qigvm_directive_*();
target/i386/sev.c cgs_set_guest_state().
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import FormatError, MeasureError
from ..formats.igvm import (
    DirectiveType,
    GuestPolicy,
    IgvmFile,
    IgvmHeader,
    InitializationType,
    PageData,
    ParameterArea,
    ParameterInsert,
    PlatformType,
    SnpIdBlock,
    VpContext,
)
from ..formats.igvm_headers import PageDataType
from ..units import KIB, PAGE_SIZE
from .gctx import VMSA_ADDRESS, PageType, page_digests
from .igvm_vmsa import check_vmsa, sev_features
from .sev_pages import Pages

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

Read = Callable[[int, int], bytes]
"""Gives bytes of the file: offset, size."""

# Ours: 4 GiB of pages.
MAX_PAGES = 1 << 20
_WINDOW = 256 * KIB
# Directives that QEMU knows. Spec: QEMU 10.1 backends/igvm.c handlers; MADT: QEMU 11.0.
_KNOWN = frozenset(
    [
        *(DirectiveType.PARAMETER_AREA, DirectiveType.PAGE_DATA, DirectiveType.PARAMETER_INSERT),
        *(DirectiveType.VP_CONTEXT, DirectiveType.REQUIRED_MEMORY, DirectiveType.VP_COUNT_PARAMETER),
        *(DirectiveType.MADT, DirectiveType.SNP_ID_BLOCK, DirectiveType.MEMORY_MAP),
        DirectiveType.ENVIRONMENT_INFO_PARAMETER,
    ]
)
_SPECIAL = {
    PageDataType.SECRETS: PageType.SECRETS,
    PageDataType.CPUID_DATA: PageType.CPUID,
    PageDataType.CPUID_XF: PageType.CPUID,
}


@dataclass(frozen=True)
class VcpuContext:
    """What a file says of a virtual CPU.

    Attributes:
        page: its VMSA page.
        directive: number of the directive.
    """

    page: bytes
    directive: int


@dataclass(frozen=True, eq=False, kw_only=True)
class IgvmImage:
    """An IGVM file as a guest with SEV-SNP sees it; made by ``of``.

    Attributes:
        name: what people call it.
        size: bytes of the file.
        sha256: of the file.
        pages: everything before the virtual CPUs, in the order of the launch.
        first_directives: for each of ``pages``, the number of its first directive.
        contexts: by number of the virtual CPU.
        policy: guest policy; None where the file has none.
        id_block: what the firmware holds against the digest; None where the file has none.
        doubts: rules of QEMU's loader behind these pages that no other program shows.
    """

    name: str
    size: int
    sha256: Hash
    pages: tuple[Pages, ...]
    first_directives: tuple[int, ...]
    contexts: Mapping[int, VcpuContext]
    policy: int | None
    id_block: SnpIdBlock | None
    doubts: tuple[str, ...]

    @classmethod
    def of(cls, name: str, file: IgvmFile, *, sha256: Hash, read: Read) -> IgvmImage:
        """The file's pages, each read and hashed once.

        Raises:
            FormatError: the file is shorter than it says.
            MeasureError: it is not for SEV-SNP, or QEMU does not load it, or how is not modelled.
        """
        mask = _mask(file, name)
        _check_known(file, name)
        runs = tuple(_in_launch_order(file, mask, name))
        if sum(run.size for run in runs) > MAX_PAGES * PAGE_SIZE:
            raise MeasureError(f"{name}: more than {MAX_PAGES} pages are launched; give the file of a guest")
        _check_apart(runs, name)
        reader = _checked(read, name)
        return cls(
            name=name,
            size=file.size,
            sha256=sha256,
            pages=tuple(_pages(run, name, reader) for run in runs),
            first_directives=tuple(run.first for run in runs),
            contexts=_contexts(file, mask, name, reader),
            policy=_policy(file, mask),
            id_block=_id_block(file, mask, name),
            doubts=tuple(_doubts(runs)),
        )

    @property
    def features(self) -> int | None:
        """SEV_FEATURES of all virtual CPUs: those of the first; None where the file does not say them."""
        first = self.contexts.get(0)
        return sev_features(first.page) if first else None

    def directive_of(self, index: int, page: int) -> int:
        """Number of the directive that ``page`` of ``pages[index]`` comes from."""
        whole = self.pages[index].description == "parameter area"
        return self.first_directives[index] + (0 if whole else page)


@dataclass(frozen=True)
class _Run:
    """Pages that QEMU launches at once.

    Attributes:
        first: number of the first directive.
        pages: the directives, or none for a parameter area.
        waiting: pages were still gathered when it was launched, which stand before it in the file.
    """

    first: int
    address: int
    size: int
    pages: tuple[PageData, ...]
    waiting: bool = False


def _in_launch_order(file: IgvmFile, mask: int, name: str) -> Iterator[_Run]:
    """What is launched before the virtual CPUs, in the order of the launch."""
    areas: dict[int, int] = {}
    gathered: list[tuple[int, PageData]] = []
    for header in file.directives:
        value = header.value
        if isinstance(value, ParameterArea):
            areas[value.parameter_area_index] = value.number_of_bytes
        elif isinstance(value, ParameterInsert) and value.compatibility_mask & mask:
            size = areas.pop(value.parameter_area_index, None)
            if size is None:
                what = f"directive {header.number} inserts a parameter area again"
                raise MeasureError(f"{name}: {what}; make the file with another area")
            yield _Run(header.number, value.gpa, size, (), waiting=bool(gathered))
        elif isinstance(value, PageData) and value.compatibility_mask & mask:
            if gathered and not _goes_on(*gathered[-1], header.number, value):
                yield _run(gathered)
                gathered = []
            gathered.append((header.number, value))
    if gathered:
        yield _run(gathered)


def _check_apart(runs: Sequence[_Run], name: str) -> None:
    """Checks that no page is launched twice.

    Spec: AMD SEV-SNP ABI 56860, SNP_LAUNCH_UPDATE: a page that is the guest's already is refused.
    """
    for one, other in pairwise(sorted(runs, key=lambda run: (run.address, run.first))):
        end = one.address + one.size
        if end > other.address:
            inside = (other.address - one.address) // PAGE_SIZE if one.pages else 0
            numbers = sorted([one.first + inside, other.first])
            what = f"directives {numbers[0]} and {numbers[1]} both fill the page at {other.address:#x}"
            raise MeasureError(f"{name}: {what}, and no guest starts so; make the file with each page once")


def _goes_on(number: int, last: PageData, following: int, page: PageData) -> bool:
    """Whether QEMU gathers a page with the one before it. Spec: qigvm_page_attrs_equal()."""
    return (
        following == number + 1
        and page.gpa == last.gpa + PAGE_SIZE
        and page.flags == last.flags
        and page.data_type == last.data_type
        and page.compatibility_mask == last.compatibility_mask
        and bool(page.file_offset) == bool(last.file_offset)
    )


def _run(gathered: Sequence[tuple[int, PageData]]) -> _Run:
    pages = tuple(page for _, page in gathered)
    return _Run(gathered[0][0], pages[0].gpa, len(pages) * PAGE_SIZE, pages)


def _pages(run: _Run, name: str, read: Read) -> Pages:
    """The pages of a run. Spec: qigvm_type_to_cgs_type(), cgs_set_guest_state()."""
    count = run.size // PAGE_SIZE
    last = run.first + len(run.pages) - 1
    where = f"directive {run.first}" if last <= run.first else f"directives {run.first} to {last}"
    kind, description, digests = PageType.UNMEASURED, "parameter area", b""
    if run.pages:
        first = run.pages[0]
        data_type = PageDataType(first.data_type)
        description = data_type.name
        if data_type in _SPECIAL:
            kind = _SPECIAL[data_type]
        elif first.unmeasured:
            description = "unmeasured data"
        else:
            kind = PageType.NORMAL
            description = "page data" if first.file_offset else "pages of zeros"
            digests = _digests(run.pages, read) if first.file_offset else _zero_digest() * count
    return Pages(
        type=kind,
        address=run.address,
        count=count,
        digests=digests,
        source=f"{name} {where}",
        description=description,
    )


@cache
def _zero_digest() -> bytes:
    return page_digests(bytes(PAGE_SIZE))


def _digests(pages: Sequence[PageData], read: Read) -> bytes:
    """SHA-384 of each page, one behind the other; pages that are neighbours in the file are read at once."""
    found, at = [], 0
    while at < len(pages):
        start, count = pages[at].file_offset, 1
        while (
            at + count < len(pages)
            and count * PAGE_SIZE < _WINDOW
            and pages[at + count].file_offset == start + count * PAGE_SIZE
        ):
            count += 1
        found.append(page_digests(read(start, count * PAGE_SIZE)))
        at += count
    return b"".join(found)


def _checked(read: Read, name: str) -> Read:
    """``read``, with a check that it gives as much as was asked for."""

    def reader(offset: int, size: int) -> bytes:
        data = read(offset, size)
        if len(data) != size:
            what = (
                f"{size} bytes were asked for and {len(data)} are there; leave it alone while it is measured"
            )
            raise FormatError(name, what, offset=offset)
        return data

    return reader


def _mask(file: IgvmFile, name: str) -> int:
    """The mask of headers for SEV-SNP; of several platforms QEMU takes the last."""
    masks = [
        platform.compatibility_mask
        for platform in file.platforms
        if platform.platform_type == PlatformType.SEV_SNP
    ]
    if not masks:
        found = ", ".join(sorted({_platform_name(platform.platform_type) for platform in file.platforms}))
        what = f"is for {found or 'no platform'}, not for SEV_SNP"
        raise MeasureError(f"{name}: {what}; give a file that is")
    return masks[-1]


def _platform_name(number: int) -> str:
    return PlatformType(number).name if number in list(PlatformType) else f"platform {number}"


def _check_known(file: IgvmFile, name: str) -> None:
    """Checks that QEMU knows every header; it looks at their types before it looks at their masks."""
    for header in file.initialization:
        if header.type != InitializationType.GUEST_POLICY and not header.optional:
            what = f"header {InitializationType(header.type).name} is none that QEMU loads"
            raise MeasureError(f"{name}: {what}; make the file for QEMU")
    for header in file.directives:
        kind = DirectiveType(header.type).name
        if header.type not in _KNOWN and not header.optional:
            what = f"directive {header.number} is {kind}, which QEMU does not load"
            raise MeasureError(f"{name}: {what}; make the file for QEMU")
        if header.optional and header.type in _KNOWN:
            what = f"directive {header.number} ({kind}) may be left out by a loader"
            raise MeasureError(f"{name}: {what}, and versions of QEMU differ; make the file without that bit")
        if isinstance(header.value, PageData) and header.value.is_2mb:
            what = f"directive {header.number} is a page of 2 MiB, which is not modelled"
            raise MeasureError(f"{name}: {what}; make the file of pages of {PAGE_SIZE} bytes")


def _contexts(file: IgvmFile, mask: int, name: str, read: Read) -> dict[int, VcpuContext]:
    """The virtual CPUs of the file; of two for the same QEMU takes the last."""
    found: dict[int, VcpuContext] = {}
    for header in file.directives:
        value = header.value
        if not isinstance(value, VpContext) or not value.compatibility_mask & mask:
            continue
        where = f"{name}: directive {header.number} (vCPU {value.vp_index})"
        if value.gpa != VMSA_ADDRESS:
            what = f"its VMSA is at {value.gpa:#x}, and KVM has it at {VMSA_ADDRESS:#x}"
            raise MeasureError(f"{where}: {what}; QEMU does not start so, make the file for KVM")
        page = read(value.file_offset, PAGE_SIZE)
        check_vmsa(page, where)
        found[value.vp_index] = VcpuContext(page, header.number)
    return found


def _policy(file: IgvmFile, mask: int) -> int | None:
    policies = [
        header.value.policy
        for header in file.initialization
        if isinstance(header.value, GuestPolicy) and header.value.compatibility_mask & mask
    ]
    return policies[-1] if policies else None


def _id_block(file: IgvmFile, mask: int, name: str) -> SnpIdBlock | None:
    blocks = [header for header in file.directives if _is_id_block(header, mask)]
    if len(blocks) > 1:
        what = f"directives {blocks[0].number} and {blocks[1].number} are both an ID block"
        raise MeasureError(f"{name}: {what}, and QEMU does not start so; make the file with one")
    value = blocks[0].value if blocks else None
    return value if isinstance(value, SnpIdBlock) else None


def _is_id_block(header: IgvmHeader, mask: int) -> bool:
    return isinstance(header.value, SnpIdBlock) and bool(header.value.compatibility_mask & mask)


def _doubts(runs: Sequence[_Run]) -> Iterator[str]:
    """Rules of QEMU's loader that play a part in the order and the types of pages."""
    if any(run.waiting for run in runs):
        yield "parameter areas come before pages that QEMU still gathers"
    if any(not run.pages for run in runs):
        yield "parameter areas are UNMEASURED pages"
    if any(page.unmeasured for run in runs for page in run.pages[:1]):
        yield "pages marked as unmeasured are UNMEASURED pages"
    if any(not page.file_offset and not page.data_type for run in runs for page in run.pages[:1]):
        yield "pages without data are NORMAL pages of zeros"
    if any(page.shared for run in runs for page in run.pages[:1]):
        yield "pages marked as shared are launched as all others"
