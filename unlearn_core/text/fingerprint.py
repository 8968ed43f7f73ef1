"""SHA-256 of a text encoder's weights, in one go or beside other work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from torch import Tensor

AT_ONCE = 1 << 22
"""Numbers that are converted to float32 at once."""


def digest_of(weights: Iterable[Tensor], given_up: Event | None = None) -> str:
    """Of the weights' float32 values, one tensor after the other; "" once it is given up."""
    digest = hashlib.sha256()
    for weight in weights:
        for part in weight.detach().flatten().split(AT_ONCE):
            if given_up is not None and given_up.is_set():
                return ""
            digest.update(part.cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


class Fingerprint:
    """A digest that a thread takes: hashlib lets other threads run meanwhile."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        """Begin; nobody may write to the weights before `result` or `close`."""
        self._given_up = Event()
        self._thread = ThreadPoolExecutor(1, "fingerprint")
        self._digest = self._thread.submit(digest_of, list(weights), self._given_up)

    def result(self) -> str:
        """The digest, as soon as it is there."""
        return self._digest.result()

    def close(self) -> None:
        """End the thread, whether it is done or not."""
        self._given_up.set()
        self._thread.shutdown()
