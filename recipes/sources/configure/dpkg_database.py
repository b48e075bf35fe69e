"""The database of dpkg: what is installed, for scanners and bills of materials.

Spec: dpkg 1.22, dpkg-query(1), deb-conffiles(5), lib/dpkg/parse.c ``fieldinfos`` (the order of fields); the
files below info/ that tools read are the lists of paths and of MD5 sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ...formats.control import Paragraph
from ...formats.tree import FileTree, NodeType
from ..debs import InstalledPackage
from .paths import real_path, resolve

ROOT = "var/lib/dpkg"
_ORDER = (  # lib/dpkg/parse.c: fieldinfos; every other field follows in the order of the package
    *("Package", "Essential", "Protected", "Status", "Priority", "Section", "Installed-Size", "Origin"),
    *("Maintainer", "Bugs", "Architecture", "Multi-Arch", "Source", "Version", "Config-Version", "Replaces"),
    *("Provides", "Depends", "Pre-Depends", "Recommends", "Suggests", "Breaks", "Conflicts", "Enhances"),
    *("Conffiles", "Description"),
)


def _conffiles(tree: FileTree, package: InstalledPackage) -> str:
    """The value of the field: a line with path and MD5 sum for each file that is still the package's own."""
    lines = []
    for conffile in package.conffiles:
        path = resolve(tree, conffile)
        node = tree[path] if path else None
        if node is not None and node.type is NodeType.FILE and node.source == package.name:
            digest = hashlib.md5(node.read(), usedforsecurity=False).hexdigest()
            lines.append(f"\n {conffile} {digest}")
    return "".join(lines)


def status_paragraph(tree: FileTree, package: InstalledPackage) -> Paragraph:
    """What the status file says about one package."""
    fields = {name.lower(): (name, value) for name, value in package.paragraph.fields}
    fields["status"] = ("Status", "install ok installed")
    if conffiles := _conffiles(tree, package):
        fields["conffiles"] = ("Conffiles", conffiles)
    ordered = [fields.pop(name.lower()) for name in _ORDER if name.lower() in fields]
    return Paragraph((*ordered, *fields.values()))


def _info_name(package: InstalledPackage) -> str:
    """The name of a package's files; with the architecture where several can be installed."""
    if package.paragraph.get("Multi-Arch") == "same":
        return f"{package.name}:{package.architecture}"
    return package.name


def _listed(tree: FileTree) -> dict[str, list[str]]:
    """For each package the absolute paths it has in the tree, with the directories above, parents first.

    A directory that several packages ship, with nothing in it, is listed for the first of them only.
    """
    found: dict[str, dict[str, None]] = {}
    for path, node in tree.sorted():
        if not path or not node.source:
            continue
        paths = found.setdefault(node.source, {"/.": None})
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            paths["/" + "/".join(parts[:depth])] = None
    return {name: list(paths) for name, paths in found.items()}


def _sums(tree: FileTree, package: InstalledPackage) -> bytes:
    """The package's MD5 sums of files that are in the image."""
    kept = []
    for line in package.md5sums.splitlines(keepends=True):
        path = line[34:].rstrip(b"\n").decode("utf-8", "surrogateescape")
        node = tree.nodes.get(real_path(tree, path))
        if node is not None and node.source == package.name:
            kept.append(line)
    return b"".join(kept)


def write_database(tree: FileTree, packages: Sequence[InstalledPackage]) -> None:
    """Writes the status file, and for each package its list and its sums; packages by name."""
    listed = _listed(tree)
    ordered = sorted(packages, key=lambda package: (package.name, package.architecture))
    status = "\n".join(status_paragraph(tree, package).render() for package in ordered)
    for package in ordered:
        name = f"{ROOT}/info/{_info_name(package)}"
        paths = listed.get(package.name, ["/."])
        tree.add_file(
            f"{name}.list", "".join(f"{path}\n" for path in paths).encode("utf-8", "surrogateescape")
        )
        if sums := _sums(tree, package):
            tree.add_file(f"{name}.md5sums", sums)
    tree.add_file(f"{ROOT}/info/format", b"1\n")
    tree.add_file(f"{ROOT}/status", status.encode("utf-8", "surrogateescape"))
