"""Clients that ask a cluster all the time, each the next question when the last is answered, and check every answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence

import aiohttp
from fakes import words
from helpers.waiting import DEADLINE_S

NUM_TOKENS = 6


class Load:
    """
    :param prompts: asked in turn, over and over; None: each time another one.
    :param expected: the answer to a prompt; None: any that is not empty.
    :param num_tokens: of each answer.
    :ivar num_answered: streams that ended as they should.
    :ivar problems: what was wrong with the others; an error that was said is one, too.
    """

    def __init__(
        self,
        url: str,
        num_clients: int,
        model: str = "fake-model",
        expected: Callable[[str], str | None] | None = None,
        prompts: Sequence[str] | None = None,
        num_tokens: int = NUM_TOKENS,
    ) -> None:
        self.num_answered = 0
        self.problems: list[str] = []
        self._url = f"{url}/v1/completions"
        self.num_clients = num_clients
        self._model = model
        self._num_tokens = num_tokens
        self._expected = expected or (lambda prompt: words.answer(prompt, num_tokens))
        self._prompts = itertools.cycle(prompts) if prompts else (f"question {i}" for i in itertools.count())
        self._over = threading.Event()
        self._answered = threading.Condition()

    def until(self, num_answered: int) -> None:
        """Wait until so many more have been answered."""
        with self._answered:
            goal = self.num_answered + num_answered
            there = self._answered.wait_for(lambda: self.num_answered >= goal, DEADLINE_S)
            assert there, f"{self.num_answered} of {goal} answers, problems: {self.problems[:3]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        """Ask as long as the block runs; at its end every request is answered or has failed."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join(DEADLINE_S + 5)
            assert not thread.is_alive(), "a request hangs"

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(self.num_clients):
                tasks.create_task(self._client(session))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._over.is_set():
            prompt = next(self._prompts)
            try:
                problem = await self._ask(session, prompt)
            except (aiohttp.ClientError, TimeoutError, ValueError) as e:
                problem = f"{type(e).__name__}: {e}"
            with self._answered:
                if problem is None:
                    self.num_answered += 1
                else:
                    self.problems.append(f"{prompt}: {problem}")
                self._answered.notify_all()
            if problem is not None:
                await asyncio.sleep(0.05)  # a cluster that refuses is not to be asked a thousand times a second

    async def _ask(self, session: aiohttp.ClientSession, prompt: str) -> str | None:
        """
        :returns: what is wrong with the answer; None: nothing.
        """
        asked = {"model": self._model, "prompt": prompt, "max_tokens": self._num_tokens}
        body = {**asked, "temperature": 0, "stream": True}
        text, ended = "", False
        async with session.post(self._url, json=body) as answer:
            if answer.status != 200:
                return f"{answer.status} {(await answer.text())[:200]}"
            async for line in answer.content:
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    ended = True
                elif data:
                    event = json.loads(data)
                    if "error" in event:
                        return f"error event: {event['error']['message']}"
                    text += "".join(choice["text"] for choice in event["choices"])
        expected = self._expected(prompt)
        is_right = bool(text) if expected is None else text == expected
        return None if ended and is_right else f"ended: {ended}, text {text!r}"
