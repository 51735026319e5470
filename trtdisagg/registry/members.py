"""Who may be routed to: whole sets of members from their sources, less those that are in doubt.

A source (an agent, the poller of fixed addresses) always tells its whole set, so a message that was lost does no harm.
Between two messages the proxy may see for itself that a server is gone: it is then in doubt, and not routed to until a
probe succeeds or its source replaces it. Nothing here waits, and time is told from outside; whoever waits is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from trtdisagg.protocol.control import Member, Need


class Pools(msgspec.Struct, frozen=True):
    """The servers of one model that may be routed to, by what they can do; one of role `both` is in both."""

    context: tuple[Member, ...] = ()
    generation: tuple[Member, ...] = ()


class Snapshot(msgspec.Struct, frozen=True):
    """Everything routing looks at, as a value."""

    pools: Mapping[str, Pools] = {}
    """By model. A model that was served once stays, so that asking for it is 503 and not 404, until whoever needed
    servers of it does not any more."""
    needs: Mapping[str, tuple[Need, ...]] = {}
    coming: Mapping[str, frozenset[Need]] = {}
    """Roles of which a server is about to be back, by model."""
    doubted: Mapping[str, frozenset[Need]] = {}
    """Roles of which a server is in doubt: soon it is either trusted again or gone."""

    def missing(self) -> list[str]:
        """What is not there of what each model needs, for people; empty: all is well."""
        if not self.pools:
            return ["no server"]
        return [
            f"no {need} server for {model}"
            for model, pools in self.pools.items()
            for need in self.needs.get(model, ("generation",))
            if not getattr(pools, need)
        ]

    def can_serve(self) -> bool:
        """Whether each model can be answered, if only by one server alone."""
        return bool(self.pools) and all(pools.generation for pools in self.pools.values())


class Roster:
    """The sets of all sources and the doubts about them; `snapshot` is what follows."""

    def __init__(self) -> None:
        self._sets: dict[str, tuple[Member, ...]] = {}
        self._needs: dict[str, dict[str, tuple[Need, ...]]] = {}
        self._coming: dict[str, dict[str, tuple[Need, ...]]] = {}
        self._until: dict[str, float] = {}
        self._doubted: set[Member] = set()
        self._known: frozenset[Member] = frozenset()
        self._models: set[str] = set()
        self._taken_away: set[str] = set()
        """Models of which nobody needs a server any more."""
        self._watchers: list[Callable[[], None]] = []
        self.snapshot = Snapshot()
        self.was_complete = False
        """Every model had what it needs, at least once."""

    @property
    def members(self) -> list[Member]:
        """All members of all sources, in doubt or not."""
        return [m for members in self._sets.values() for m in members]

    def apart_from(self, source: str) -> list[Member]:
        """All members of all other sources."""
        return [m for name, members in self._sets.items() if name != source for m in members]

    @property
    def doubted(self) -> list[Member]:
        """Members to probe."""
        return [m for m in self.members if m in self._doubted]

    def replace(
        self,
        source: str,
        members: Iterable[Member],
        *,
        needs: Mapping[str, Iterable[Need]] | None = None,
        coming: Mapping[str, Iterable[Need]] | None = None,
        until: float | None = None,
    ) -> None:
        """Take a source's set in place of its last one.

        :param needs: which roles each of its models needs.
        :param coming: of which roles a server is about to be back.
        :param until: when the set counts as stale; None: never.
        """
        is_new = source not in self._sets
        taken_away = self._needs.get(source, {}).keys() - (needs or {}).keys()
        self._sets[source] = tuple(members)
        self._needs[source] = _frozen(needs)
        self._coming[source] = _frozen(coming)
        self._until.pop(source, None)
        if until is not None:
            self._until[source] = until
        self._doubted &= set(self.members)
        self._note_models(taken_away)
        self._change(is_new=is_new)

    def has_heard_of(self, sources: Iterable[str]) -> bool:
        """Whether each of these has told a set, if an empty one."""
        return self._sets.keys() >= set(sources)

    def watch(self, on_change: Callable[[], None]) -> None:
        """Have a function called after each change of the members or of what may be routed to, and a source's first."""
        self._watchers.append(on_change)

    def doubt(self, member: Member) -> None:
        """Do not route to a member until it is trusted again or replaced by its source."""
        if member in self.members:
            self._doubted.add(member)
            self._change()

    def trust(self, member: Member) -> None:
        """A probe succeeded."""
        self._doubted.discard(member)
        self._change()

    def is_stale(self, now: float) -> bool:
        """Whether a source has not been heard of for longer than it said; what is known goes on all the same."""
        return any(until < now for until in self._until.values())

    def is_listed(self, member: Member) -> bool:
        """Whether a source still stands by this member, and no doubt has come up."""
        return member in self.members and member not in self._doubted

    def _note_models(self, taken_away: Collection[str]) -> None:
        """:param taken_away: models that a source needs no server of any more; they stay while somebody has one."""
        told = {m.model for m in self.members}.union(*self._needs.values(), *self._coming.values())
        self._taken_away = (self._taken_away | set(taken_away)) - set().union(*self._needs.values())
        self._models = (self._models | told) - (self._taken_away - told)

    def _change(self, *, is_new: bool = False) -> None:
        snapshot, members = self._build(), frozenset(self.members)
        if (snapshot, members) == (self.snapshot, self._known) and not is_new:
            return  # renewed, and all is as it was
        self.snapshot, self._known = snapshot, members
        self.was_complete = self.was_complete or not snapshot.missing()
        for on_change in self._watchers:
            on_change()

    def _build(self) -> Snapshot:
        usable = [m for m in self.members if m not in self._doubted]
        pools = {
            model: Pools(
                context=tuple(m for m in usable if m.model == model and m.role != "generation"),
                generation=tuple(m for m in usable if m.model == model and m.role != "context"),
            )
            for model in sorted(self._models)
        }
        needs = {model: roles for told in self._needs.values() for model, roles in told.items()}
        coming = _united((model, roles) for told in self._coming.values() for model, roles in told.items())
        doubted = _united((member.model, needs_met_by(member)) for member in self.doubted)
        return Snapshot(pools=pools, needs=needs, coming=coming, doubted=doubted)


def needs_met_by(member: Member) -> tuple[Need, ...]:
    """The roles it can take in a request."""
    return ("context", "generation") if member.role == "both" else (member.role,)


def _frozen(roles: Mapping[str, Iterable[Need]] | None) -> dict[str, tuple[Need, ...]]:
    return {model: tuple(of) for model, of in (roles or {}).items()}


def _united(pairs: Iterable[tuple[str, Iterable[Need]]]) -> dict[str, frozenset[Need]]:
    united: dict[str, frozenset[Need]] = {}
    for model, roles in pairs:
        united[model] = united.get(model, frozenset()) | frozenset(roles)
    return united
