"""What a build says on the terminal: a line per product, a message per failure, nothing for what is done."""

from __future__ import annotations

from typing import Any

from doit.exceptions import BaseFail, UnmetDependency
from doit.reporter import ConsoleReporter

Task = Any


class Reporter(ConsoleReporter):  # type: ignore[misc]
    """doit's console reporter without its noise: steps print their own line when they are finished."""

    desc = "a line per product"

    def execute_task(self, task: Task) -> None:
        """Says nothing: the step does."""

    def skip_uptodate(self, task: Task) -> None:
        """Says nothing: what is done is done."""

    def _write_failure(self, result: dict[str, Any], write_exception: bool = True) -> None:
        failure: BaseFail = result["exception"]
        if isinstance(failure, UnmetDependency):
            needed = ", ".join(failure.message.split())
            self.write(f"\n{result['task'].name} was not made; it needs {needed}\n")
            return
        message = failure.get_msg().strip() if write_exception else ""
        self.write(f"\n{result['task'].name} failed:\n{message}\n")

    def complete_run(self) -> None:
        """Failures have been written as they came; only errors of doit itself are left."""
        for message in self.runtime_errors:
            self.write(f"{message}\n")
