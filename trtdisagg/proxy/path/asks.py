"""From a client's request to what routing asks: whose turn it is, how long the prompt is, which conversation."""

from __future__ import annotations

from collections import Counter

from trtdisagg.proxy.path.request import Incoming
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

    def session(self, incoming: Incoming, told: str | None) -> str | None:
        """The conversation that a request belongs to; None: to none, or no router asks.

        :param told: what the client calls it.
        """
        spec = self._view.model(incoming.model)
        if "session" not in (spec.context_router.type, spec.generation_router.type):
            return None
        return told or conversation(incoming.fields)

    def needs_tokens(self, incoming: Incoming, session: str | None) -> bool:
        """Whether a prompt that can be read makes a difference to where it goes."""
        return session is None or not self._view.model(incoming.model).goes_by_session

    def make(self, incoming: Incoming, *, session: str | None = None, reading: Reading | None = None) -> Ask:
        """
        :param session: of this class's making.
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
            session=session,
            chains={} if reading is None else reading.chains,
            needs_one_server=incoming.is_indivisible,
        )
