from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import SpecError
from recipes.sources.compose import Compose, Mount, Network, Restart, image_name, read_compose

WHOLE = """\
services:
  web:
    image: registry.example:5000/site/web
    entrypoint: [/bin/web, --listen]
    command: ["a b", "x$$y"]
    environment: {LEVEL: debug, "EMPTY": ""}
    ports: ["8080:80", "127.0.0.1:53:53/udp"]
    volumes: ["./config/web:/etc/web", "cache:/var/cache", "cache:/srv:ro"]
    tmpfs: /run:size=16m
    user: "1000:1000"
    working_dir: /srv
    read_only: true
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    restart: unless-stopped
    depends_on: [db]
    network_mode: bridge
  db:
    image: docker.io/library/db:2
    network_mode: none
    volumes: ["./secrets/password:/run/password:ro"]
volumes:
  cache:
"""
FILES = ("config/web/a", "config/web/b", "secrets/password")
IMAGES = ("registry.example:5000/site/web:latest", "db:2")
SMALL = "services: {web: {image: db:2, network_mode: none}}\n"


def load(text: str, files: tuple[str, ...] = (), images: tuple[str, ...] = IMAGES) -> Compose:
    return read_compose(text, "c.yml", files=files, images=images)


def mistakes(text: str, files: tuple[str, ...] = ()) -> str:
    with pytest.raises(SpecError) as caught:
        load(text, files)
    return str(caught.value)


def service(line: str) -> str:
    """The small file with one more key."""
    return f"services:\n  web:\n    image: db:2\n    network_mode: none\n    {line}\n"


def test_every_key_is_read() -> None:
    compose = load(WHOLE, FILES)
    web, db = compose.services
    assert (web.name, web.image, db.image) == ("web", "registry.example:5000/site/web:latest", "db:2")
    assert web.entrypoint == ("/bin/web", "--listen")
    assert web.command == ("a b", "x$y")
    assert db.command is None
    assert web.environment == (("LEVEL", "debug"), ("EMPTY", ""))
    assert web.ports == ("8080:80", "127.0.0.1:53:53/udp")
    assert web.mounts == (
        Mount(source="config/web", target="/etc/web", is_volume=False, read_only=True),
        Mount(source="cache", target="/var/cache", is_volume=True, read_only=False),
        Mount(source="cache", target="/srv", is_volume=True, read_only=True),
    )
    assert web.tmpfs == ("/run:size=16m",)
    assert (web.user, web.working_dir, web.read_only) == ("1000:1000", "/srv", True)
    assert (web.cap_drop, web.cap_add) == (("ALL",), ("NET_BIND_SERVICE",))
    assert (web.restart, db.restart) == (Restart.UNLESS_STOPPED, Restart.NO)
    assert (web.network, db.network) == (Network.BRIDGE, Network.NONE)
    assert compose.volumes == ("cache",)


def test_services_start_behind_those_they_need() -> None:
    compose = load(WHOLE, FILES)
    assert [each.name for each in compose.services] == ["web", "db"]
    assert [each.name for each in compose.starting_order()] == ["db", "web"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hello", "hello:latest"),
        ("hello:1", "hello:1"),
        ("docker.io/library/hello", "hello:latest"),
        ("docker.io/site/hello:2", "site/hello:2"),
        ("localhost/hello:1", "hello:1"),
        ("registry:5000/hello", "registry:5000/hello:latest"),
    ],
)
def test_names_of_images_are_compared_whole(name: str, expected: str) -> None:
    assert image_name(name) == expected


NOT_KNOWN = (
    "cap_add, cap_drop, command, depends_on, entrypoint, environment, image, network_mode, ports, read_only, "
    "restart, tmpfs, user, volumes, working_dir"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.yml:1:1: the file is empty"),
        ("services: {}", "c.yml:1:11: there is no service; a workload runs at least one"),
        ("version: '3'\n" + SMALL, "c.yml:1:1: unknown key 'version'; known: services, volumes"),
        (service("privileged: true"), f"c.yml:5:5: unknown key 'privileged'; known: {NOT_KNOWN}"),
        (
            service("enviroment: {A: b}"),
            "c.yml:5:5: unknown key 'enviroment'; did you mean 'environment'?",
        ),
        (
            "services: {web: {image: db:2}}",
            "c.yml:1:17: services.web: key 'network_mode' is missing",
        ),
        (service("network_mode: host"), "c.yml:5:5: key 'network_mode' is written twice"),
        (
            service("command: run it"),
            "c.yml:5:14: command is a text; write it as a list, [run, it]",
        ),
        (service("command: []"), "c.yml:5:14: command is an empty list; leave it out"),
        (
            service("environment: [A=b]"),
            "c.yml:5:18: services.web.environment: expected keys and values, found a list",
        ),
        (
            service("environment: {PORT: 80}"),
            (
                "c.yml:5:25: services.web.environment.PORT: expected text, found a number ('80'); "
                "write '80' in quotes"
            ),
        ),
        (
            service("environment: {A-B: x}"),
            "c.yml:5:19: services.web.environment.: 'A-B' is not allowed; write for example LOG_LEVEL",
        ),
        (
            service('command: [sh, "${HOME}/x"]'),
            (
                "c.yml:5:19: '${HOME}' would be taken from the environment of whoever builds; "
                "write the value itself, or $$ for a dollar sign"
            ),
        ),
        (
            service('environment: {A: "$B"}'),
            (
                "c.yml:5:22: '$B' would be taken from the environment of whoever builds; "
                "write the value itself, or $$ for a dollar sign"
            ),
        ),
        (
            service('user: "0\\0"'),
            "c.yml:5:11: services.web.user: '0\\x00' is not allowed; write for example \"1000:1000\"",
        ),
        (
            service('ports: ["80:80"]'),
            "c.yml:5:12: ports are for network_mode bridge, this is none; leave them out",
        ),
        (
            service('volumes: ["./config/x:/x"]'),
            "c.yml:5:15: there is no file config/x; put it there, or remove the line",
        ),
        (
            service('volumes: ["./data/x:/x"]'),
            "c.yml:5:15: ./data/x is not below ./config or ./secrets; put the file there",
        ),
        (
            service('volumes: ["./config/../x:/x"]'),
            "c.yml:5:15: ./config/../x is not below ./config or ./secrets; put the file there",
        ),
        (
            service('volumes: ["data:/x"]'),
            "c.yml:5:15: volume data is not declared; list it under volumes at the end of the file",
        ),
        (
            service('volumes: ["/etc:/x"]'),
            (
                "c.yml:5:15: services.web.volumes[0]: '/etc:/x' is not allowed; write for example "
                "./config/app.toml:/etc/app.toml:ro"
            ),
        ),
        (service("depends_on: [db]"), "c.yml:5:18: there is no service db; known: web"),
        (
            service("depends_on: [web]"),
            "c.yml:5:17: web waits for itself through web; break the circle",
        ),
        (
            "services: {web: {image: dd:2, network_mode: none}}",
            (
                "c.yml:1:25: no image archive of the workload has dd:2; did you mean 'db:2'?; "
                "save the image to a file *.tar beside this one"
            ),
        ),
        (
            SMALL + "volumes: {data: }",
            "c.yml:2:17: no service uses the volume data; remove it",
        ),
        (
            SMALL + "volumes: {data: {driver: local}}",
            "c.yml:2:18: unknown key 'driver'",
        ),
        (
            service("tmpfs: [run]"),
            "c.yml:5:13: services.web.tmpfs[0]: 'run' is not allowed; write for example /run:size=16m",
        ),
        (
            "services: {Web: {image: db:2, network_mode: none}}",
            "c.yml:1:12: services.: 'Web' is not allowed; write for example web",
        ),
    ],
)
def test_everything_else_is_an_error_with_its_place(text: str, message: str) -> None:
    assert mistakes(text).splitlines()[0] == message


def test_all_mistakes_are_shown_at_once() -> None:
    text = service('ports: ["80:80"]') + '    volumes: ["data:/x"]\n'
    assert len(mistakes(text, ("config/a",)).splitlines()) == 3


def test_a_file_that_nothing_uses_is_an_error() -> None:
    what = "c.yml:1:1: no service uses the file config/web/c"
    assert mistakes(SMALL, ("config/web/c",)) == f"{what}; mount it with volumes, or remove it"
    load(WHOLE, FILES)


def test_a_bind_of_something_writable_is_refused() -> None:
    text = service('volumes: ["./config/x:/x:rw"]')
    what = "the workload's partition is read-only; leave :rw out, or use a named volume"
    assert mistakes(text, ("config/x",)) == f"c.yml:5:15: {what}"


def only_spec_errors(text: str) -> None:
    with contextlib.suppress(SpecError):
        load(text, FILES)


@settings(max_examples=150)
@given(st.text(max_size=200))
def test_nothing_but_a_spec_error_comes_out_of_text(text: str) -> None:
    only_spec_errors(text)


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_nothing_but_a_spec_error_comes_out_of_changed_files(seed: int) -> None:
    chance = random.Random(seed)
    text = list(WHOLE)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(text))
        match chance.randrange(3):
            case 0:
                text[place] = chance.choice("\0:{}[]-\"'\n $&*!|>%@`#,?x\u2028")
            case 1:
                del text[place : place + chance.randint(1, 10)]
            case _:
                text[place:place] = text[place : place + chance.randint(1, 30)]
    only_spec_errors("".join(text))
