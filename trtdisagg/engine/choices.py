"""The choices of a request: one computes the prompt, the others are born when that is done."""

from __future__ import annotations

from trtdisagg.engine.interfaces import Guide
from trtdisagg.engine.readings import PromptReadings
from trtdisagg.engine.request import Request
from trtdisagg.engine.sequence import Sequence, State


def make_choices(request: Request, guides: list[Guide], eos_token_ids: frozenset[int], arrival: int) -> list[Sequence]:
    """A sequence for each choice; the first is the leader of the others.

    :param guides: one for each, or none.
    :param arrival: grows from request to request.
    """
    ends = request.sampling.stop_token_ids
    stop_ids = ends if request.sampling.ignore_eos else ends | eos_token_ids
    leader, *siblings = choices = [
        Sequence(
            request,
            stop_ids,
            choice=i,
            rank=(-request.priority, arrival, i),
            guide=guides[i] if guides else None,
            state=State.UNBORN if i else State.WAITING,
        )
        for i in range(request.num_choices)
    ]
    leader.siblings = siblings
    for sibling in siblings:
        sibling.leader = leader
    if PromptReadings.wanted_by(request):
        leader.readings = PromptReadings(request)
    return choices


def give_place(leader: Sequence) -> Sequence:
    """Whoever computes the prompt for others does not end before them: it goes on as another choice.

    :return: the one to end in its place.
    """
    heir = leader.siblings[0]
    leader.choice, heir.choice = heir.choice, leader.choice
    leader.guide, heir.guide = heir.guide, leader.guide
    return heir
