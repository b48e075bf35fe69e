from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from recipes.errors import SpecError
from recipes.sources.workload import Workload, assemble, read_folder
from recipes.sources.workload_images import read_archive
from tests.unit.workload_samples import COMPOSE, config, docker_members, tar, write_folder

IMAGE = hashlib.sha256(config()).hexdigest()
MANY = """\
services:
  web:
    image: web:1.0
    network_mode: bridge
    entrypoint: [/bin/web, "a b"]
    command: [--level, "$$x"]
    environment: {A: "1 2", B: ""}
    ports: ["8080:80"]
    volumes: ["./config:/etc/web", "./secrets/key:/run/key", "cache:/var/cache"]
    tmpfs: [/run]
    user: "7"
    working_dir: /srv
    read_only: true
    cap_drop: [ALL]
    cap_add: [KILL]
    restart: unless-stopped
    depends_on: [db]
  db: {image: web:1.0, network_mode: none, restart: on-failure}
volumes: {cache: }
"""
FILES = {"config/a": b"1\n", "config/b/c": b"2\n", "secrets/key": b"hidden"}


def build(
    folder: Path,
    *,
    compose: str = COMPOSE,
    files: Mapping[str, bytes] | None = None,
    archives: Mapping[str, bytes] | None = None,
) -> Workload:
    found = read_folder(
        write_folder(folder / "site", compose=compose, files=files, archives=archives), "docker-compose.yml"
    )
    images = [read_archive(path, "amd64") for path in found.archives]
    return assemble("site", found, images, "site/docker-compose.yml")


def mistake(folder: Path, **given: object) -> str:
    with pytest.raises(SpecError) as caught:
        build(folder, **given)  # type: ignore[arg-type]  # those of build
    return str(caught.value)


def test_the_manifest_says_all_that_will_run(tmp_path: Path) -> None:
    workload = build(tmp_path, compose=MANY, files=FILES)
    document = json.loads(workload.manifest)
    archive = tar(docker_members("web:1.0"))
    web, db = document["services"]
    assert web["argv"] == [
        *("podman", "run", "--name=web", "--replace", "--rm", "--detach", "--pull=never"),
        *("--cgroups=split", "--sdnotify=conmon", "--log-driver=passthrough", "--network=bridge"),
        *("--read-only", "--read-only-tmpfs=false", "--user=7", "--workdir=/srv"),
        *("--cap-drop=ALL", "--cap-add=KILL", "--env=A=1 2", "--env=B=", "--publish=8080:80", "--tmpfs=/run"),
        *("--volume=/run/workload/config:/etc/web:ro", "--volume=/run/workload/secrets/key:/run/key:ro"),
        *("--volume=site_cache:/var/cache", '--entrypoint=["/bin/web", "a b"]', IMAGE, "--level", "$x"),
    ]
    assert (web["restart"], db["restart"]) == ("always", "on-failure")
    assert web["image"] == {"name": "web:1.0", "digest": f"sha256:{IMAGE}"}
    assert document["start"] == ["db", "web"]
    assert document["volumes"] == ["site_cache"]
    assert document["secrets"] == ["secrets/key"]
    assert document["config"] == [
        {"path": path, "sha256": hashlib.sha256(FILES[path]).hexdigest(), "executable": False}
        for path in ("config/a", "config/b/c")
    ]
    (saved,) = document["archives"]
    assert saved["sha256"] == hashlib.sha256(archive).hexdigest()
    assert (saved["file"], saved["size"]) == ("web.tar", len(archive))
    assert saved["images"] == [{"digest": f"sha256:{IMAGE}", "names": ["web:1.0"]}]
    assert (document["format"], document["version"], document["name"]) == ("goldsmith-workload", 1, "site")


def test_the_manifest_has_one_form(tmp_path: Path) -> None:
    text = build(tmp_path, compose=MANY, files=FILES).manifest.decode("ascii")
    assert json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" == text
    assert "hidden" not in text


def test_every_measured_file_is_in_the_list_and_the_list_in_the_manifest(tmp_path: Path) -> None:
    workload = build(tmp_path, compose=MANY, files=FILES)
    listed = workload.tree["files.sha256"].read()
    digest = hashlib.sha256(listed).hexdigest()
    assert workload.manifest.decode().splitlines().count(f' "list": "sha256:{digest}",') == 1
    rows = {path: value for value, _, path in (line.partition("  ") for line in listed.decode().splitlines())}
    files = {path for path, node in workload.tree.nodes.items() if node.payload is not None}
    assert files - rows.keys() == {"workload.json", "files.sha256", "secrets/key"}
    for path, value in rows.items():
        assert hashlib.sha256(workload.tree[path].read()).hexdigest() == value
    assert (
        workload.tree["services/web/arguments"].read()
        == "".join(f"{word}\0" for word in json.loads(workload.manifest)["services"][0]["argv"][1:]).encode()
    )
    assert workload.tree["start"].read() == b"db\nweb\n"
    assert workload.tree["archives"].read() == b"web.tar\n"
    assert workload.tree["secrets.list"].read() == b"secrets/key\n"


def test_modes_are_the_builds_and_programs_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "site")
    (tmp_path / "site/config/app.toml").chmod(0o750)
    found = read_folder(tmp_path / "site", "docker-compose.yml")
    workload = assemble("site", found, [read_archive(path, "amd64") for path in found.archives], "c")
    assert workload.tree["config/app.toml"].mode == 0o555
    assert workload.tree["executables"].read() == b"config/app.toml\n"
    assert workload.tree[""].mode == 0o700
    assert json.loads(workload.manifest)["config"][0]["executable"] is True


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ({"compose": "# a comment\n" + COMPOSE}, False),
        ({"compose": COMPOSE.replace("none", "host")}, True),
        ({"files": {"config/app.toml": b"port = 81\n"}}, True),
        ({"archives": {"web.tar": tar(docker_members("web:1.0", "web:1.1"))}}, True),
    ],
)
def test_what_moves_the_measurement(tmp_path: Path, change: dict[str, object], moves: bool) -> None:
    plain = build(tmp_path / "a").manifest
    assert (build(tmp_path / "b", **change).manifest != plain) is moves  # type: ignore[arg-type]  # as above


def test_contents_of_secrets_do_not_move_it(tmp_path: Path) -> None:
    other = {**FILES, "secrets/key": b"another"}
    first = build(tmp_path / "a", compose=MANY, files=FILES).manifest
    assert build(tmp_path / "b", compose=MANY, files=other).manifest == first


def test_files_without_a_place(tmp_path: Path) -> None:
    (tmp_path / "a/site").mkdir(parents=True)
    (tmp_path / "a/site/docker-compose.yaml").write_text("")
    what = "workload site: docker-compose.yaml is no part of a workload; did you mean 'docker-compose.yml'?"
    advice = "images are files *.tar beside docker-compose.yml"
    assert mistake(tmp_path / "a") == f"{what}; {advice}"
    (tmp_path / "b/site/config").mkdir(parents=True)
    (tmp_path / "b/site/config/link").symlink_to("app.toml")
    what = "workload site: config/link is a symlink; a workload has files only, put the file there"
    assert mistake(tmp_path / "b") == what
    (tmp_path / "c/site/config").mkdir(parents=True)
    (tmp_path / "c/site/config/a b").touch()
    what = "'workload site: config/a b' has characters other than letters, digits and ._@+-; rename it"
    assert mistake(tmp_path / "c") == what


def test_archives_that_nothing_uses_or_that_disagree(tmp_path: Path) -> None:
    good = tar(docker_members("web:1.0"))
    archives = {"web.tar": good, "z.tar": tar(docker_members("other:1"))}
    what = "site/docker-compose.yml: no service uses z.tar, which has other:1; remove it"
    assert mistake(tmp_path / "a", archives=archives) == what
    other = tar(docker_members("web:1.0", data=config() + b" "))
    what = "web.tar and z.tar have different images called web:1.0; keep one of them"
    assert mistake(tmp_path / "b", archives={"web.tar": good, "z.tar": other}) == what


def together(*archives: dict[str, bytes]) -> bytes:
    """One archive with the images of several."""
    items = [item for members in archives for item in json.loads(members["manifest.json"])]
    files = {path: data for members in archives for path, data in members.items()}
    return tar({**files, "manifest.json": json.dumps(items).encode()})


def test_images_that_nothing_uses_beside_one_that_is(tmp_path: Path) -> None:
    web, data = docker_members("web:1.0"), config() + b" "
    where = "site/docker-compose.yml"
    archives = {"two.tar": together(web, docker_members("other:1", "db:2", data=data))}
    what = f"{where}: no service uses db:2, other:1, which two.tar has; save it without"
    assert mistake(tmp_path / "a", archives=archives) == what
    archives = {"two.tar": together(web, docker_members(data=data))}
    what = f"two.tar has an image without a name, sha256:{hashlib.sha256(data).hexdigest()}"
    advice = "no service can use it, tag it or save the others without it"
    assert mistake(tmp_path / "b", archives=archives) == f"{where}: {what}; {advice}"
    archives = {"none.tar": tar(docker_members()), "web.tar": tar(web)}
    what = f"{where}: no service uses none.tar, which has images without a name; remove it"
    assert mistake(tmp_path / "c", archives=archives) == what


TWO_IMAGES = COMPOSE + "  db: {image: db:2, network_mode: none}\n"


def test_an_archive_with_nothing_that_others_have_not(tmp_path: Path) -> None:
    web, db = docker_members("web:1.0"), docker_members("db:2", data=config() + b" ")
    where = "site/docker-compose.yml"
    archives = {"a.tar": tar(web), "b.tar": tar(docker_members("web:1.0", "web:1.1"))}
    what = f"{where}: a.tar already has web:1.0; remove b.tar"
    assert mistake(tmp_path / "a", archives=archives) == what
    archives = {"a.tar": tar(web), "b.tar": tar(db), "c.tar": together(web, db)}
    what = f"{where}: a.tar and b.tar already have db:2, web:1.0; remove c.tar"
    assert mistake(tmp_path / "b", compose=TWO_IMAGES, archives=archives) == what
    archives = {"a.tar": tar(web), "b.tar": together(web, db)}
    assert build(tmp_path / "c", compose=TWO_IMAGES, archives=archives).manifest


def test_a_command_line_that_is_too_long(tmp_path: Path) -> None:
    text = COMPOSE.replace("network_mode", f"command: [{'x' * 70000}]\n    network_mode")
    what = r"site/docker-compose.yml: service web: its command line has 68.6 KiB, at most 64 KiB are run; "
    assert mistake(tmp_path, compose=text) == f"{what}put some of it into a file below config"
