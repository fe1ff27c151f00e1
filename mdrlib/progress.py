"""Progress of long work: a bar for people, plain lines for logs."""

import os
import time
from collections.abc import Callable

from tqdm.auto import tqdm

from mdrlib import distributed

LINE_SECONDS = 10  # between two lines
BAR_SECONDS = 0.5  # between two readings of the loss, each of which makes a GPU finish its queue


class Progress:
    """A tqdm bar in a terminal or notebook; with MDR_PROGRESS=lines a line on stdout every 10 s.

    MDR_PROGRESS=off shows nothing, nor does any process but the first. total and done count iterations.
    """

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        self.name, self.total = name, total
        self.style = "off" if distributed.rank() else os.environ.get("MDR_PROGRESS", "bar")
        self.began = self.shown = time.perf_counter()
        self.bar = tqdm(total=total, initial=done, desc=name, unit="it") if self.style == "bar" else None

    def update(self, done: int, loss: Callable[[], float]) -> None:
        """Say that `done` iterations are done; `loss` is read only when something is shown."""
        now = time.perf_counter()
        last = done == self.total
        if self.bar is not None and (last or now - self.shown > BAR_SECONDS):
            self.bar.set_postfix(loss=f"{loss():.4f}", refresh=False)
            self.bar.update(done - self.bar.n)
            self.shown = now
        elif self.style == "lines" and (last or now - self.shown > LINE_SECONDS):
            elapsed = now - self.began
            print(
                f"{self.name}  iteration {done}/{self.total}  loss {loss():.4f}  {elapsed:.0f} s", flush=True
            )
            self.shown = now

    def close(self) -> None:
        """End the bar's line."""
        if self.bar is not None:
            self.bar.close()
