from __future__ import annotations

import pytest

from recipes.errors import SpecError
from recipes.formats.tree import FileTree
from recipes.sources.configure.presets import Rule, Verdict, parse_rules, verdict
from recipes.sources.configure.unit_files import (
    Install,
    is_unit_name,
    parse_install,
    sections,
    template_of,
)
from recipes.sources.configure.units import enable, mask, mask_generators, preset_all, set_default

from .debian13 import DEBIAN, UNITS, links, unit_tree

ETC = "etc/systemd/system"


def test_presets_are_what_systemctl_makes() -> None:
    tree = unit_tree()
    preset_all(tree)
    want = dict(line.split() for line in (DEBIAN / "preset-links.txt").read_text().splitlines())
    assert links(tree, ETC) == want


def test_first_rules_win() -> None:
    tree = unit_tree()
    preset_all(tree, (Rule("disable", "*"),))
    assert links(tree, ETC) == {}
    rules = parse_rules("; x\n# y\nenable a@.service b c\ndisable *\n", "p")
    assert verdict(rules, "a@.service") == Verdict(enable=True, instances=("b", "c"))
    assert verdict(rules, "a.service") == Verdict(enable=False)
    assert verdict((), "a.service") == Verdict(enable=True)
    with pytest.raises(SpecError, match=r"p:2: 'turn on' is not enable, disable or ignore and a pattern"):
        parse_rules("enable x\nturn on\n", "p")


def _tree(**units: str) -> FileTree:
    tree = FileTree()
    for name, text in units.items():
        tree.add_file(f"{UNITS}/{name.replace('_AT_', '@').replace('_DOT_', '.')}", text.encode())
    return tree


def test_enable() -> None:
    tree = _tree(
        a_DOT_service="[Install]\nWantedBy=x.target \\\n  y.target\nAlias=b.service\nAlso=c.socket gone.path",
        c_DOT_socket="[Install]\nRequiredBy=sockets.target\nWantedBy=lost.target\nWantedBy=\n",
        t_AT__DOT_service="[Install]\nWantedBy=%p-%i.target\nUpheldBy=u.target\n",
        s_DOT_service="[Service]\n",
    )
    enable(tree, ["a.service", "t@one.service"])
    assert links(tree, ETC) == {
        f"{ETC}/x.target.wants/a.service": f"/{UNITS}/a.service",
        f"{ETC}/y.target.wants/a.service": f"/{UNITS}/a.service",
        f"{ETC}/b.service": f"/{UNITS}/a.service",
        f"{ETC}/sockets.target.requires/c.socket": f"/{UNITS}/c.socket",
        f"{ETC}/t-one.target.wants/t@one.service": f"/{UNITS}/t@.service",
        f"{ETC}/u.target.upholds/t@one.service": f"/{UNITS}/t@.service",
    }
    with pytest.raises(SpecError) as caught:
        enable(tree, ["s.service", "t@.service", "aa.service", "zzz"])
    assert str(caught.value).splitlines() == [
        "units: 's.service' has no [Install] section; it starts when another unit wants it",
        "units: 't@.service' is a template; enable an instance, such as 't@NAME.service'",
        "units: there is no unit 'aa.service'; did you mean a.service, s.service, b.service?",
        "units: there is no unit 'zzz'; add the package or overlay that has it",
    ]


def test_drop_ins_and_precedence() -> None:
    tree = _tree(a_DOT_service="[Install]\nWantedBy=x.target\n")
    tree.add_file(f"{UNITS}/a.service.d/10.conf", b"[Install]\nWantedBy=y.target\n")
    tree.add_file(f"{UNITS}/a.service.d/20.conf", b"[Install]\nWantedBy=z.target\n")
    tree.add_file(f"{ETC}/a.service.d/20.conf", b"[Install]\nWantedBy=\nWantedBy=w.target\n")
    enable(tree, ["a.service"])
    assert list(links(tree, ETC)) == [f"{ETC}/w.target.wants/a.service"]


def test_mask() -> None:
    tree = _tree(
        a_DOT_service="[Install]\nWantedBy=x.target\n", t_AT__DOT_service="[Install]\nWantedBy=x.target\n"
    )
    enable(tree, ["a.service", "t@one.service"])
    mask(tree, ["a.service", "t@.service"])
    assert links(tree, ETC) == {f"{ETC}/a.service": "/dev/null", f"{ETC}/t@.service": "/dev/null"}
    with pytest.raises(SpecError, match=r"units: 'a.service' is masked and cannot be enabled; choose one"):
        enable(tree, ["a.service"])
    with pytest.raises(SpecError, match=r"units: 'a' is not the name of a unit; it ends in .service"):
        mask(tree, ["a"])
    tree.add_file(f"{ETC}/own.service", b"[Service]\n")
    with pytest.raises(
        SpecError, match=r"own.service is a file and 'own.service' is to be masked; choose one"
    ):
        mask(tree, ["own.service"])


def test_mask_generators() -> None:
    tree = FileTree()
    for name in ("a-generator", "b-generator"):
        tree.add_file(f"usr/lib/systemd/system-generators/{name}", b"", 0o755)
    own = "etc/systemd/system-generators"
    mask_generators(tree, ["a-generator", "gone-generator"])
    assert links(tree, own) == {f"{own}/a-generator": "/dev/null"}
    tree.add_file(f"{own}/b-generator", b"", 0o755)
    with pytest.raises(
        SpecError,
        match=r"^units: etc/systemd/system-generators/b-generator is a file and 'b-generator' is to be "
        r"masked; choose one$",
    ):
        mask_generators(tree, ["b-generator"])


def test_masked_and_linked_units_have_no_preset() -> None:
    tree = _tree(a_DOT_service="[Install]\nWantedBy=x.target\n", e_DOT_service="")
    tree.add_symlink(f"{UNITS}/other.service", "a.service")
    tree.add_symlink(f"{ETC}/a.service", "/dev/null")
    preset_all(tree)
    assert links(tree, ETC) == {f"{ETC}/a.service": "/dev/null"}


def test_set_default() -> None:
    tree = unit_tree()
    set_default(tree, "multi-user.target")
    assert tree[f"{ETC}/default.target"].target == f"/{UNITS}/multi-user.target"
    with pytest.raises(
        SpecError, match=r"there is no unit 'multiuser.target'; did you mean multi-user.target, "
    ):
        set_default(tree, "multiuser.target")
    with pytest.raises(SpecError, match=r"'a.service' cannot be started at boot; name a target"):
        set_default(tree, "a.service")


def test_syntax() -> None:
    text = "[A]\nx = 1\n# y=2\n;z=3\nq=a\\\n# inside\n  b\n[B]\nr=\n"
    assert sections(text) == [("A", "x", "1"), ("A", "q", "a b"), ("B", "r", "")]
    assert parse_install(
        ["[Install]\nWantedBy=%n %N %j %%\nDefaultInstance=i\n"], "a-b@.service", "w"
    ) == Install(wanted_by=("a-b@i.service", "a-b@i", "b", "%"), default_instance="i")
    with pytest.raises(SpecError, match=r"w: specifier %H in '%H.target' is not known at build time"):
        parse_install(["[Install]\nWantedBy=%H.target\n"], "a.service", "w")
    assert [is_unit_name(name) for name in ("a.service", "a@b.mount", "a.conf", "a", "a.service.d")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert [template_of(name) for name in ("a@b.socket", "a.socket", "a@.socket")] == [
        "a@.socket",
        "a.socket",
        "a@.socket",
    ]
