"""Conversations of a dataset, in the order of the file: its turns are asked, its answers only say how long ours are."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import msgspec

from trtdisagg.bench.serve.asked import Message
from trtdisagg.bench.serve.load import Endpoint
from trtdisagg.bench.workloads.dataset import Dataset
from trtdisagg.bench.workloads.forms import Entry
from trtdisagg.bench.workloads.lengths import Lengths
from trtdisagg.bench.workloads.scripted import Prompt, Turn
from trtdisagg.bench.workloads.vocabulary import Vocabulary
from trtdisagg.errors import ConfigError

TOKENS_PER_WORD = 1.3
"""Of English, where no tokenizer can say; benchmark_core_model's figure."""
_DEFAULT_OUTPUT_LEN = 128
"""Where neither the file nor the user says any."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """
    :param vocabulary: counts prompts and recorded answers; None: the server counts, and answers are guessed by words.
    :param osl: in place of what the file says.
    :param num_turns: of each conversation, at most.
    :param max_input_len: in tokens; longer prompts are left out.
    """

    dataset: Dataset
    endpoint: Endpoint
    vocabulary: Vocabulary | None = None
    osl: Lengths | None = None
    seed: int = 0
    num_turns: int = 1
    max_input_len: int | None = None
    tokens_per_word: float = TOKENS_PER_WORD
    counts_answers: bool = True
    """With the vocabulary; otherwise `tokens_per_word` tells their length all the same."""

    def __post_init__(self) -> None:
        if self.max_input_len is not None and self.vocabulary is None:
            raise ConfigError("--max-input-len needs the model's tokenizer to count with: give --tokenizer")

    def scripts(self) -> Iterator[list[Turn]]:
        """The whole file, again and again.

        :raises ConfigError: when nothing of it can be asked.
        """
        while True:
            is_any = False
            for script in self.once():
                is_any = True
                yield script
            if not is_any:
                raise ConfigError(f"All prompts of {self.dataset.file} have more than {self.max_input_len} tokens")

    def once(self) -> Iterator[list[Turn]]:
        """The file from its beginning to its end.

        :raises ConfigError: when the endpoint does not take what is in it.
        """
        for number, entry in enumerate(self.dataset.entries):
            prompt = self._prompt(entry)
            num_tokens = self._count(prompt)
            if self.max_input_len is None or (num_tokens or 0) <= self.max_input_len:
                yield self._script(entry, prompt, num_tokens, Random(f"{self.seed}:{number}"))

    def _script(self, entry: Entry, prompt: Prompt, num_tokens: int | None, random: Random) -> list[Turn]:
        length = self._output_len(entry.answer, entry.num_output_tokens, random)
        first = Turn(prompt=prompt, num_input_tokens=num_tokens, max_tokens=length)
        later = entry.later[: self.num_turns - 1]
        return [first, *(Turn(prompt=t, max_tokens=self._output_len(answer, None, random)) for t, answer in later)]

    def _prompt(self, entry: Entry) -> Prompt:
        prompt = entry.prompt
        if isinstance(prompt, str):
            if entry.system is None:
                return prompt
            if self.endpoint == "completions":
                return f"{entry.system}\n\n{prompt}"
            return Message("system", entry.system), Message("user", prompt)
        fits = "completions" if isinstance(prompt[0], int) else "chat"
        if self.endpoint != fits:
            what = "token ids" if fits == "completions" else "chats"
            raise ConfigError(f"{self.dataset.file} has {what}: they are for --endpoint {fits}")
        return prompt

    def _count(self, prompt: Prompt) -> int | None:
        """Without what the template of a chat adds."""
        if not isinstance(prompt, str) and isinstance(prompt[0], int):
            return len(prompt)
        if self.vocabulary is None:
            return None
        if isinstance(prompt, str):
            return self.vocabulary.count(prompt, is_message=self.endpoint == "chat")
        contents = [m.content for m in prompt if isinstance(m, Message)]
        return sum(self.vocabulary.count(c, is_message=True) for c in contents)

    def _output_len(self, answer: str | None, said: int | None, random: Random) -> int:
        if self.osl is not None:
            return self.osl.draw(random)
        if said is not None:
            return said
        if answer is None:
            return _DEFAULT_OUTPUT_LEN
        if self.vocabulary is not None and self.counts_answers:
            return max(1, self.vocabulary.count(answer, is_message=True))
        return max(1, int(len(answer.split()) * self.tokens_per_word))
