"""Which units start: the links of ``systemctl preset-all``, ``enable``, ``mask``, ``set-default``.

Spec: systemd 257, systemctl(1) and its source file install.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...errors import SpecError
from ...formats.tree import FileTree, NodeType
from .presets import Rule, read_rules, verdict
from .unit_files import ETC, Install, UnitFiles, is_template, is_unit_name, template_of, with_instance

GENERATORS, ETC_GENERATORS = "usr/lib/systemd/system-generators", "etc/systemd/system-generators"


def _links(name: str, path: str, install: Install) -> list[tuple[str, str]]:
    """Link and target for one unit that is enabled; nothing for a template without an instance."""
    shown = name
    if is_template(name):
        if not install.default_instance:
            return []
        shown = with_instance(name, install.default_instance)
    target = f"/{path}"
    found = [
        (f"{ETC}/{unit}.{kind}/{shown}", target)
        for kind, units in (
            ("wants", install.wanted_by),
            ("requires", install.required_by),
            ("upholds", install.upheld_by),
        )
        for unit in units
    ]
    own = (name, path.rpartition("/")[2])
    found.extend((f"{ETC}/{alias}", target) for alias in install.aliases if alias not in own)
    return found


def enable(tree: FileTree, names: Iterable[str], files: UnitFiles | None = None) -> None:
    """Makes the links of these units, and of those that their ``Also=`` names.

    Raises:
        SpecError: a unit does not exist, is masked, or has nothing in [Install] that could enable it. All
            problems
            are in one message.
    """
    files = files or UnitFiles(tree)
    pending = list(names)
    asked, done = set(pending), set[str]()
    problems: list[str] = []
    while pending:
        name = pending.pop(0)
        if name in done:
            continue
        done.add(name)
        try:
            links, also = _enabled(files, name)
        except SpecError as error:
            if name in asked:
                problems.append(str(error))
            continue
        for link, target in links:
            tree.add_symlink(link, target)
        pending.extend(also)
    if problems:
        raise SpecError("\n".join(problems))


def _enabled(files: UnitFiles, name: str) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """The links of one unit, and what else is to be enabled with it."""
    if files.is_masked(name) or files.is_masked(template_of(name)):
        raise SpecError(f"units: {name!r} is masked and cannot be enabled; choose one")
    base, path = files.real(name)
    install = files.install(name)
    if not install:
        raise SpecError(f"units: {name!r} has no [Install] section; it starts when another unit wants it")
    links = _links(base, path, install)
    if not links and not install.also:
        raise SpecError(
            f"units: {name!r} is a template; enable an instance, such as {with_instance(name, 'NAME')!r}"
        )
    return links, install.also


def preset_all(tree: FileTree, first: Sequence[Rule] = ()) -> None:
    """Enables every unit that the presets enable; ``first`` is tried before the tree's own preset files.

    Raises:
        SpecError: a preset file or a unit is malformed.
    """
    files = UnitFiles(tree)
    rules = (*first, *read_rules(tree))
    chosen: list[str] = []
    for name, path in sorted(files.paths.items()):
        if tree[path].type is not NodeType.FILE or files.is_masked(name):
            continue  # a link is another name of a unit, which comes under its own
        said = verdict(rules, name)
        install = files.install(name)
        if not said.enable or not install:
            continue
        if is_template(name) and said.instances:
            chosen.extend(with_instance(name, instance) for instance in said.instances)
        elif not is_template(name) or install.default_instance:
            chosen.append(name)
    enable(tree, chosen, files)


def mask(tree: FileTree, names: Iterable[str]) -> None:
    """Switches units off for good: a link to /dev/null under /etc, and no link that would want them.

    Raises:
        SpecError: a name is not that of a unit, or /etc has a unit file of that name that the link would
            replace.
    """
    wants = []
    for path in tree.nodes:
        directory, _, base = path.rpartition("/")
        if directory.startswith(f"{ETC}/") and directory.endswith((".wants", ".requires", ".upholds")):
            wants.append((path, base))
    for name in names:
        if not is_unit_name(name):
            raise SpecError(f"units: {name!r} is not the name of a unit; it ends in .service, .socket, ...")
        path = f"{ETC}/{name}"
        _refuse_file(tree, path)
        for link, base in wants:
            if name in (base, template_of(base)):
                tree.nodes.pop(link, None)
        tree.add_symlink(path, "/dev/null")


def mask_generators(tree: FileTree, names: Iterable[str]) -> None:
    """Switches generators off that the tree has, with a link to /dev/null under /etc.

    Spec: systemd.generator(7), "Description" (a link to /dev/null of the same name masks a generator).

    Raises:
        SpecError: /etc has a generator of that name that the link would replace.
    """
    for name in names:
        if f"{GENERATORS}/{name}" in tree:
            path = f"{ETC_GENERATORS}/{name}"
            _refuse_file(tree, path)
            tree.add_symlink(path, "/dev/null")


def _refuse_file(tree: FileTree, path: str) -> None:
    """A link is a decision that a mask may replace; a file is somebody's own and is not lost unseen."""
    if path in tree and tree[path].type is not NodeType.SYMLINK:
        raise SpecError(
            f"units: {path} is a file and {path.rpartition('/')[2]!r} is to be masked; choose one"
        )


def set_default(tree: FileTree, target: str) -> None:
    """Makes a target the one that is started at boot.

    Raises:
        SpecError: the target does not exist, or is not a target.
    """
    if not target.endswith(".target"):
        raise SpecError(
            f"units: {target!r} cannot be started at boot; name a target such as multi-user.target"
        )
    _, path = UnitFiles(tree).real(target)
    tree.add_symlink(f"{ETC}/default.target", f"/{path}")
