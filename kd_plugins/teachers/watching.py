"""Who watches a teacher as it looks at pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Watcher = tuple[Callable[..., None] | None, Callable[..., None] | None]


class Watchers(list[Watcher]):
    """Functions that are called around every look of a teacher; see ``Teacher.watch``."""

    def add(
        self, before: Callable[..., None] | None, after: Callable[..., None] | None
    ) -> Callable[[], None]:
        """Have two functions called; return what ends it."""
        watcher = before, after
        self.append(watcher)

        def remove() -> None:
            if watcher in self:
                self.remove(watcher)

        return remove

    @contextmanager
    def away(self) -> Iterator[None]:
        """Run a block in which nobody watches."""
        watchers = list(self)
        self.clear()
        try:
            yield
        finally:
            self.extend(watchers)

    def tell_before(self) -> None:
        """Say that the teacher is about to look."""
        for before, _ in list(self):
            if before is not None:
                before()

    def tell_after(self, outputs: Any, data_samples: Sequence[Any] | None) -> None:
        """Say what it has returned, and for which samples."""
        for _, after in list(self):
            if after is not None:
                after(outputs, data_samples)
