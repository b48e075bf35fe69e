"""Copies of the project, with an environment of their own, to build in and to be cruel to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from recipes import bootstrap
from recipes.formats.deb import read_control
from recipes.formats.relations import relations
from recipes.sources import lock as locks
from tests.support import ROOT

IMAGE = "debian-cvm"
PACKAGES = ("base-files", "base-passwd", "mawk")  # a system needs the first two, and these an awk
# What the default image is made of: its own packages, and firmware that has a recipe of its own.
LOCKS = (f"images/{IMAGE}", "firmware/ovmf-amdsev")
NOBODY = 65534
NOT_SOURCES = {".git", ".venv", "out", "keys", "__pycache__"}
# Variables of whoever runs the tests must not decide what a build does.
PASSED_ON = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True, kw_only=True)
class Project:
    """One copy, and how commands are run in it.

    Attributes:
        image: folder below ``out/`` that is looked at; name of the recipe.
        plain: run doit itself; ``python3 dodo.py`` otherwise.
        prefix: words before the command: another user, another namespace.
    """

    root: Path
    image: str = IMAGE
    plain: bool = True
    prefix: tuple[str, ...] = ()
    umask: int = 0o022
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """The folder with the image's products."""
        return self.root / "out" / self.image

    @property
    def recipe(self) -> Path:
        """The image's recipe."""
        return self.root / "recipes" / "images" / f"{self.image}.yaml"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that leads a process group of its own."""
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        program = ("-m", "doit") if self.plain else ("dodo.py",)
        # No package may come from a network: what a test builds from is in its cache.
        offline = {"GOLDSMITH_MIRROR": "file:/nonexistent", "GOLDSMITH_SECURITY_MIRROR": "none"}
        return subprocess.Popen(
            [*self.prefix, sys.executable, *program, *arguments],
            cwd=self.root,
            env={**passed, **offline, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            umask=self.umask,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command, run to its end."""
        return finish(self.start(*arguments))

    def build(self, *arguments: str) -> str:
        """What a command that must succeed printed."""
        result = self.run(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def products(self) -> dict[str, str]:
        """SHA-256 of every file among the image's products, by path."""
        return {path.relative_to(self.out).as_posix(): sha256(path) for path in files(self.out)}

    def sources(self) -> dict[str, str]:
        """SHA-256 of every file that no build may write."""
        found = (
            path for path in files(self.root) if not NOT_SOURCES & set(path.relative_to(self.root).parts)
        )
        return {path.relative_to(self.root).as_posix(): sha256(path) for path in found}

    def unsound(self) -> list[str]:
        """Products whose sidecar says that they are finished, and which are not what it says."""
        found = []
        for path in files(self.out):
            if not path.name.endswith(".digest.json"):
                continue
            product = path.with_name(path.name.removesuffix(".digest.json"))
            facts = json.loads(path.read_text())
            if not product.exists() or content(product) != facts["sha256"]:
                found.append(product.name)
        return found

    def leftovers(self) -> list[str]:
        """Files and folders of steps that did not finish."""
        return sorted(path.name for path in self.out.rglob(".*"))

    def as_nobody(self) -> Project:
        """The same copy, given to another user; only root can do that."""
        prefix = nobody()
        for path in (self.root, *self.root.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        return replace(self, prefix=prefix)


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Waits for a command; a command that hangs is ended with all that it started."""
    try:
        stdout, stderr = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        pytest.fail(f"no end after 300 s\n{stdout}\n{stderr}")
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(path: Path) -> str:
    """Hex digest of a file; of a folder, that of a line for each of its files as `sha256sum` writes them."""
    if path.is_file():
        return sha256(path)
    lines = [f"{sha256(item)}  {item.relative_to(path).as_posix()}\n" for item in files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def files(folder: Path) -> list[Path]:
    """All files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def nobody() -> tuple[str, ...]:
    """Words that run a command as another user, who may read what root can and write only what is his."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    identity = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    # Python or the project may lie below a folder that only root may enter.
    capability = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search")
    for prefix in ((*identity, *capability), identity):
        command = [*prefix, sys.executable, "-c", "import doit"]
        if shutil.which("setpriv") and subprocess.run(command, capture_output=True).returncode == 0:
            return prefix
    return unavailable("no way to run Python as another user")


def unavailable(reason: str) -> tuple[str, ...]:
    """Skips the test at home, and fails it in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def sources() -> list[Path]:
    """Every file that git keeps or would keep; without git all that is not made by a build."""
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if listed.returncode == 0:
            return [ROOT / name for name in sorted(set(listed.stdout.split("\0"))) if (ROOT / name).is_file()]
    return [path for path in files(ROOT) if not NOT_SOURCES & set(path.relative_to(ROOT).parts)]


def checkout(
    root: Path, *, umask: int = 0o022, mtime: int | None = None, locks: Sequence[str] = LOCKS
) -> Project:
    """A copy as git would make it under a umask, with the locks and packages of the last build here.

    Args:
        locks: below ``recipes/``.
        mtime: time of every source file; that of the copying otherwise.
    """
    used = {ROOT / "recipes" / f"{name}.lock": _resolved_lock(name) for name in locks}
    for source in sources():
        target = root / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(used.get(source, source).read_bytes())
        target.chmod((0o777 if os.access(source, os.X_OK) else 0o666) & ~umask)
        if mtime is not None:
            os.utime(target, (mtime, mtime))
    _give_packages(root, used.values())
    _give_environment(root)
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o777 & ~umask)
    return Project(root=root, umask=umask)


def copy_keys(source: Project, target: Project) -> None:
    """Gives a copy the keys of another."""
    (target.root / "keys").mkdir(exist_ok=True)
    for path in (source.root / "keys").iterdir():
        shutil.copy(path, target.root / "keys" / path.name)


def make_small(project: Project) -> None:
    """Makes the image small, so that all its steps take seconds: few packages and two machines."""
    recipe = yaml.safe_load(project.recipe.read_text())
    recipe["rootfs"] = {"packages": [*PACKAGES], "hostname": "small"}
    recipe["data"]["size"] = "16MiB"
    # One format beside raw, of another size: with more, the order in which they are made would be chance.
    recipe["disk"] = {"esp_size": "40MiB", "formats": ["raw", "gce"]}
    recipe["publish"] = {"gcp": {}}
    recipe["machines"] = [
        {**machine, "vcpus": [1], "memory": ["512MiB"], "tpm": ["crb"]}
        for machine in recipe["machines"]
        if machine["accel"] == "tcg"
    ]
    project.recipe.write_text(yaml.safe_dump(recipe))
    path = project.recipe.with_suffix(".lock")
    lock = locks.load(path)
    kept = _needed(project, lock)
    groups = {item: tuple(name for name in item.groups if name != "rootfs") for item in lock.packages}
    groups |= {item: (*groups[item], "rootfs") for item in lock.packages if item.name in kept}
    packages = tuple(replace(item, groups=names) for item, names in groups.items() if names)
    asked = [replace(item, packages=PACKAGES) if item.group == "rootfs" else item for item in lock.request]
    lock = replace(lock, packages=packages, request=tuple(asked))
    path.write_text(locks.dump(lock, image=IMAGE))


def _needed(project: Project, lock: locks.Lock) -> set[str]:
    """The packages of the small image with all that they depend on."""
    locked = {item.name: item for item in lock.group("rootfs")}
    found: set[str] = set()
    wanted = [*PACKAGES]
    while wanted:
        name = wanted.pop()
        if name in locked and name not in found:
            found.add(name)
            path = project.root / "out" / "cache" / "packages" / f"{locked[name].sha256.hex()}.deb"
            about = read_control(path)
            for field in ("Pre-Depends", "Depends"):
                wanted += [item.name for group in relations(about.get(field), name) for item in group]
    return found


def _resolved_lock(name: str) -> Path:
    """The lock that the last build here used: other than the committed one where the mirror has moved on."""
    path = ROOT / "out" / name.removeprefix("images/") / "resolved.lock"
    if not path.is_file():
        unavailable(f"{path.relative_to(ROOT)} is not there; build the image first")
    return path


def _give_packages(root: Path, used: Iterable[Path]) -> None:
    cache = ROOT / "out" / "cache" / "packages"
    target = root / "out" / "cache" / "packages"
    target.mkdir(parents=True)
    locked = [locks.load(path).packages for path in used]
    for package in {item.sha256: item for items in locked for item in items}.values():
        name = f"{package.sha256.hex()}.deb"
        if not (cache / name).is_file():
            unavailable(f"{package.name} is not in the package cache; build the image first")
        try:
            (target / name).hardlink_to(cache / name)
        except OSError:
            shutil.copy(cache / name, target / name)


def _give_environment(root: Path) -> None:
    """A ``.venv`` that ``dodo.py`` takes for made, with the packages of the Python that runs the tests."""
    folder = root / ".venv"
    venv.EnvBuilder(symlinks=True).create(folder)
    library = next((folder / "lib").glob("python*")) / "site-packages"
    paths = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    (library / "tests.pth").write_text("\n".join(paths) + "\n")
    for name in (bootstrap.RUNTIME, bootstrap.TESTING):
        path, stamp = bootstrap._stamp(root, name)
        path.write_text(stamp)
