"""The digest of weights: of their float32 bytes, and ended with the run that asked for it."""

import hashlib
import threading

import pytest
import torch
from tiny_model import TinyModel

from unlearn_core.concept import Concept
from unlearn_core.errors import Cancelled
from unlearn_core.forgetting.unlearn import unlearn
from unlearn_core.lora.metadata import BASE_MODEL
from unlearn_core.models.lent_model import build_encoder
from unlearn_core.progress import SilentMonitor
from unlearn_core.settings import preset
from unlearn_core.text.text_encoder import AT_ONCE, Fingerprint, digest_of

HALF = torch.arange(6, dtype=torch.float16).reshape(2, 3)
LARGE = torch.arange(AT_ONCE + 1, dtype=torch.float32)


def threads() -> list[threading.Thread]:
    """Those that take a digest now."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("fingerprint")]


def test_a_digest_is_of_the_float32_bytes_in_order() -> None:
    wide = [HALF.T.contiguous().float(), LARGE]
    expected = hashlib.sha256(b"".join(part.numpy().tobytes() for part in wide)).hexdigest()
    assert digest_of([HALF.T, LARGE]) == expected
    assert digest_of([LARGE, HALF.T]) != expected


def test_a_thread_takes_the_same_digest_and_ends() -> None:
    fingerprint = Fingerprint([HALF, LARGE])
    assert fingerprint.result() == digest_of([HALF, LARGE])
    fingerprint.close()
    assert threads() == []


def test_what_a_thread_cannot_read_is_raised() -> None:
    fingerprint = Fingerprint([torch.empty(2, device="meta")])
    with pytest.raises(NotImplementedError, match="meta tensor"):
        fingerprint.result()
    fingerprint.close()


def test_a_closed_thread_reads_no_further() -> None:
    given_up = threading.Event()
    given_up.set()
    assert digest_of([LARGE], given_up) == ""


def test_a_run_notes_the_digest_of_its_model() -> None:
    lora = unlearn(TinyModel(), Concept("dog"), preset("quick", stand_in_pictures=0)).lora
    assert lora.metadata[BASE_MODEL].startswith(build_encoder(TinyModel()).fingerprint()[:16])
    assert threads() == []


def test_a_stopped_run_leaves_no_thread() -> None:
    class Stopping(SilentMonitor):
        def should_stop(self) -> bool:
            return True

    with pytest.raises(Cancelled):
        unlearn(TinyModel(), Concept("dog"), preset("quick"), Stopping())
    assert threads() == []
