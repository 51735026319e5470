"""The inside of a process that works on texts: takes jobs from a socket, answers them in any order, ends with it.

A job runs on a thread; there is one for each that the proxy may give at once, so that a short text does not wait for a
long one (tokenizing leaves the interpreter to others).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec

from trtdisagg.errors import ModelNotFoundError, TrtdisaggError
from trtdisagg.protocol.frames import LENGTH_BYTES, frame, read_length
from trtdisagg.protocol.texts import Answer, Begin, Job
from trtdisagg.proxy.texts.work import unreadable, work
from trtdisagg.text.model_files import files_at
from trtdisagg.text.tokenizer import Tokenizer, load_tokenizer

MAX_AT_ONCE = 2
"""Jobs: one long, one short."""
MAX_JOB_BYTES = 2**32 - 1
"""The proxy has bounded its clients' bodies."""

NICENESS = 5
"""Streams that are relayed go first where cores are short: a token is late sooner than a prompt."""

logger = logging.getLogger(__name__)


def serve(sock: socket.socket) -> None:
    """Work until the proxy closes its end."""
    # Whoever asks the proxy to end may ask its whole group: it still has answers to give then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    decode = msgspec.msgpack.Decoder(Job).decode
    if (first := _receive(sock)) is not None:
        child = _Child(sock, msgspec.msgpack.decode(first, type=Begin))
        while (message := _receive(sock)) is not None:
            child.begin(decode(message))
    os._exit(0)  # nobody waits for what still runs


class _Child:
    def __init__(self, sock: socket.socket, begin: Begin) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._tokenizers = _Tokenizers(begin.models)
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE)
        for model in begin.warm:
            self._threads.submit(self._warm, model)

    def begin(self, job: Job) -> None:
        self._threads.submit(self._do, job)

    def _do(self, job: Job) -> None:
        with contextlib.suppress(OSError):  # the proxy is gone, and so are we in a moment
            self._send(self._answer(job))

    def _answer(self, job: Job) -> Answer:
        try:
            return work(job, self._tokenizers.get(job.model))
        except TrtdisaggError as e:
            return unreadable(job, e)
        except Exception:  # the proxy waits for an answer to each job
            logger.exception("a bug in the work on texts")
            return unreadable(job, TrtdisaggError("Internal error; the proxy's log has more"))

    def _send(self, answer: Answer) -> None:
        message = frame(msgspec.msgpack.encode(answer))
        with self._sending:
            self._sock.sendall(message)

    def _warm(self, model: str) -> None:
        try:
            self._tokenizers.get(model)
        except TrtdisaggError as e:
            logger.warning("prompts for %s are not read: %s", model, e)


class _Tokenizers:
    """One of each model, loaded when it is first needed."""

    def __init__(self, paths: dict[str, str]) -> None:
        self._paths = paths
        self._loaded: dict[str, Tokenizer | TrtdisaggError] = {}
        self._loading = threading.Lock()

    def get(self, model: str) -> Tokenizer:
        """
        :raises TrtdisaggError: when there is none.
        """
        found = self._loaded.get(model)
        if found is None:
            with self._loading:
                found = self._loaded.get(model) or self._load(model)
                self._loaded[model] = found
        if isinstance(found, TrtdisaggError):
            raise found.with_traceback(None)
        return found

    def _load(self, model: str) -> Tokenizer | TrtdisaggError:
        try:
            if model not in self._paths:
                return ModelNotFoundError(f"The tokenizer of `{model}` is not here", param="model")
            return load_tokenizer(files_at(self._paths[model], served_name=model))
        except TrtdisaggError as e:
            return e


def _receive(sock: socket.socket) -> bytes | None:
    """The next message; None: there will be none."""
    head = _exactly(sock, LENGTH_BYTES)
    return None if head is None else _exactly(sock, read_length(head, MAX_JOB_BYTES))


def _exactly(sock: socket.socket, num_bytes: int) -> bytes | None:
    buffer = bytearray(num_bytes)
    view = memoryview(buffer)
    while view:
        try:
            num_read = sock.recv_into(view)
        except OSError:
            return None
        if not num_read:
            return None
        view = view[num_read:]
    return bytes(buffer)
