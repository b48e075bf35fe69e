from __future__ import annotations

import threading
from pathlib import Path

import pytest

from recipes.errors import FormatError
from recipes.sources import aptget


def test_one_works_in_a_folder_at_a_time(tmp_path: Path) -> None:
    """Steps of two images resolve the same suite side by side; apt-get itself would refuse the second."""
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with aptget.alone(tmp_path / "work"):
            order.append("first in")
            inside.set()
            leave.wait(10)
            order.append("first out")

    def second() -> None:
        with aptget.alone(tmp_path / "work"):
            order.append("second in")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first in", "first out", "second in"]


def dated(folder: Path, text: str) -> aptget.AptGet:
    own = aptget.AptGet(folder, "amd64", "")
    (folder / "state/lists/a_InRelease").write_bytes(text.encode("latin-1"))
    return own


@pytest.mark.parametrize("before", ["", " ", " \t "])
@pytest.mark.parametrize("after", ["", "\r", " ", "\t \t\r"])
def test_blanks_around_a_date_are_none_of_it(tmp_path: Path, before: str, after: str) -> None:
    own = dated(tmp_path, f"Origin: x\nDate:{before}Thu, 1 Jan 1970 00:01:00 UTC{after}\nSuite: y\n")
    assert own.newest_release() == 60


@pytest.mark.parametrize(
    "date",
    [
        "",
        " \t",
        # Hours of work where a pattern goes over the blanks once for each of them.
        " " * 60000 + "\x80",
        " \t" * 30000 + "x",
        "Sat, 12 Jul 99999999999999999999 09:12:11 UTC",
        "Sat, 12 Jul 2025 09:12:11 +99999999999999999999",
    ],
)
def test_dates_that_are_none(tmp_path: Path, date: str) -> None:
    own = dated(tmp_path, f"Date:{date}\n")
    with pytest.raises(FormatError, match=r"^a_InRelease: no date that can be read; "):
        own.newest_release()


def test_what_an_installation_takes_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third line is none, and looked at from each of its brackets only as far as the next."""
    output = (
        "Inst libc6 (2.36-9 Debian:12.1/stable, Debian-Security:12/stable [amd64]) []\n"
        "Inst tzdata [2024a-0] (2025b-0 Debian:12.1/stable [all])\n"
        f"Inst x (1 {'[' * 60000}\n"
    )
    own = aptget.AptGet(tmp_path, "amd64", "")
    monkeypatch.setattr(own, "run", lambda *_: aptget.Result(["apt-get"], 0, output, ""))
    assert own.simulate(["tzdata"]) == [("libc6", "2.36-9", "amd64"), ("tzdata", "2025b-0", "all")]
