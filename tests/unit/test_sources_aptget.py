from __future__ import annotations

import threading
from pathlib import Path

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
