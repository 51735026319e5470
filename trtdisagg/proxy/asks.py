"""From a client's request to what routing asks: whose turn it is, how long the prompt is, which conversation."""

from __future__ import annotations

from collections import Counter

from trtdisagg.proxy.request import Incoming
from trtdisagg.proxy.routing.ask import Ask, View
from trtdisagg.proxy.routing.session import conversation
from trtdisagg.proxy.texts.texts import Reading
from trtdisagg.registry.members import Roster


class Asks:
    """Makes them, and counts the requests of each model.

    :param view: what routers are asked to look at.
    """

    def __init__(self, roster: Roster, view: View) -> None:
        self._roster = roster
        self._view = view
        self._turns: Counter[str] = Counter()

    def make(
        self,
        incoming: Incoming,
        *,
        session: str | None = None,
        reading: Reading | None = None,
    ) -> Ask:
        """
        :param session: what the client called it.
        :param reading: where the prompt was read.
        """
        model, size = incoming.model, incoming.size
        if model in self._roster.snapshot.pools:  # clients could make up any number of others
            self._turns[model] += 1
        return Ask(
            model=model,
            turn=self._turns[model],
            num_prompt_tokens=size.num_prompt_tokens if reading is None else reading.num_tokens,
            is_exact=size.is_counted or (reading is not None and reading.token_ids is not None),
            max_tokens=size.max_tokens,
            num_answers=size.num_answers,
            session=session or self._conversation(incoming),
            chains={} if reading is None else reading.chains,
            needs_one_server=incoming.is_indivisible,
        )

    def _conversation(self, incoming: Incoming) -> str | None:
        spec = self._view.model(incoming.model)
        if "session" in (spec.context_router.type, spec.generation_router.type):
            return conversation(incoming.fields)
        return None
