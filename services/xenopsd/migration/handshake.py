# SPDX-License-Identifier: Apache-2.0
"""Who owns a machine while it migrates: one table an end. Pure.

    source       KEPT --begin--> OFFERING --accepted--> SENDING --suspended--> SENT --prepared--> GIVEN --owned--> GONE
                   ^----------------|---- refused, give up, restart ----|--------|

    destination  NONE --offer--> RECEIVING --memory--> PREPARED --commit--> OWNED
                   ^----------------|--------------------|
                     abort, give up, restart           abort

The source decides, by going from SENT to GIVEN, which it must not have done before it is durable. Until then its guest may
go on at any moment; from then on never again. A destination that is PREPARED may not give up by itself: it asks. What the source
does not know was given up (presumed abort), so that it need not remember what it has not decided.

A message that a state does not expect is late or a repetition, and changes nothing. What restart leads to says what is
durable. tests/xenopsd/migration/test_model.py walks all that can happen to these tables.
"""

from enum import Enum
from typing import Generic, NamedTuple, TypeVar


class Message(Enum):
    """What the ends tell each other."""

    OFFER = "offer"  # source: will you take this machine?
    ACCEPTED = "accepted"  # destination: send its memory
    REFUSED = "refused"  # destination: I have nothing of it
    MEMORY = "memory"  # source: the end of the stream; the guest is suspended
    QUERY = "query"  # source: are you prepared?
    PREPARED = "prepared"  # destination: I could run it at once, whatever happens to me
    ASK = "ask"  # destination: whose is it?
    COMMIT = "commit"  # source: yours
    ABORT = "abort"  # source: mine
    OWNED = "owned"  # destination: I know that it is mine


class Event(Enum):
    """What happens at an end by itself."""

    BEGIN = "begin"  # somebody asked for a migration
    SUSPENDED = "suspended"  # the guest stopped, and the rest of its memory is on its way
    GIVE_UP = "give up"  # a failure, a cancel, or out of patience
    AGAIN = "again"  # nothing was heard for a while
    RESTART = "restart"  # the process ended, and another one began with what is durable
    RECLAIM = "reclaim"  # an operator swears that the destination is dead


class Source(Enum):
    """The end that has the machine."""

    KEPT = "kept"
    OFFERING = "offering"
    SENDING = "sending"
    SENT = "sent"
    GIVEN = "given"
    GONE = "gone"


class Destination(Enum):
    """The end that will have it."""

    NONE = "none"
    RECEIVING = "receiving"
    PREPARED = "prepared"
    OWNED = "owned"


S = TypeVar("S", Source, Destination)


class Turn(NamedTuple, Generic[S]):
    """What follows; a state that outlives a restart is durable before anything is sent."""

    then: S
    sends: tuple[Message, ...] = ()


Table = dict[tuple[S, Message | Event], Turn[S]]

_KEPT, _KEPT_AND_TOLD = Turn(Source.KEPT), Turn(Source.KEPT, (Message.ABORT,))
SOURCE: Table[Source] = {
    (Source.KEPT, Event.BEGIN): Turn(Source.OFFERING, (Message.OFFER,)),
    (Source.KEPT, Message.ASK): _KEPT_AND_TOLD,
    (Source.KEPT, Event.RESTART): _KEPT,
    (Source.OFFERING, Message.ACCEPTED): Turn(Source.SENDING),
    (Source.OFFERING, Message.REFUSED): _KEPT,
    (Source.OFFERING, Event.AGAIN): Turn(Source.OFFERING, (Message.OFFER,)),
    (Source.OFFERING, Event.GIVE_UP): _KEPT_AND_TOLD,
    (Source.OFFERING, Event.RESTART): _KEPT,
    (Source.SENDING, Event.SUSPENDED): Turn(Source.SENT, (Message.MEMORY,)),
    (Source.SENDING, Message.REFUSED): _KEPT,
    (Source.SENDING, Event.GIVE_UP): _KEPT_AND_TOLD,
    (Source.SENDING, Event.RESTART): _KEPT,
    (Source.SENT, Message.PREPARED): Turn(Source.GIVEN, (Message.COMMIT,)),
    (Source.SENT, Message.REFUSED): _KEPT,
    (Source.SENT, Event.AGAIN): Turn(Source.SENT, (Message.QUERY,)),
    (Source.SENT, Event.GIVE_UP): _KEPT_AND_TOLD,
    (Source.SENT, Event.RESTART): _KEPT,
    (Source.GIVEN, Message.ASK): Turn(Source.GIVEN, (Message.COMMIT,)),
    (Source.GIVEN, Message.OWNED): Turn(Source.GONE),
    (Source.GIVEN, Event.AGAIN): Turn(Source.GIVEN, (Message.COMMIT,)),
    (Source.GIVEN, Event.RECLAIM): _KEPT_AND_TOLD,
    (Source.GIVEN, Event.RESTART): Turn(Source.GIVEN),
    (Source.GONE, Message.ASK): Turn(Source.GONE, (Message.ABORT,)),  # forgotten: as good as never heard of
    (Source.GONE, Event.RESTART): Turn(Source.GONE),
}

_NONE, _NONE_AND_TOLD = Turn(Destination.NONE), Turn(Destination.NONE, (Message.REFUSED,))
DESTINATION: Table[Destination] = {
    (Destination.NONE, Message.OFFER): Turn(Destination.RECEIVING, (Message.ACCEPTED,)),
    (Destination.NONE, Message.MEMORY): _NONE_AND_TOLD,
    (Destination.NONE, Message.QUERY): _NONE_AND_TOLD,
    (Destination.NONE, Event.RESTART): _NONE,
    (Destination.RECEIVING, Message.OFFER): Turn(Destination.RECEIVING, (Message.ACCEPTED,)),
    (Destination.RECEIVING, Message.MEMORY): Turn(Destination.PREPARED, (Message.PREPARED,)),
    (Destination.RECEIVING, Message.ABORT): _NONE,
    (Destination.RECEIVING, Event.AGAIN): Turn(Destination.RECEIVING, (Message.ASK,)),
    (Destination.RECEIVING, Event.GIVE_UP): _NONE_AND_TOLD,
    (Destination.RECEIVING, Event.RESTART): _NONE,
    (Destination.PREPARED, Message.QUERY): Turn(Destination.PREPARED, (Message.PREPARED,)),
    (Destination.PREPARED, Message.COMMIT): Turn(Destination.OWNED, (Message.OWNED,)),
    (Destination.PREPARED, Message.ABORT): _NONE,
    (Destination.PREPARED, Event.AGAIN): Turn(Destination.PREPARED, (Message.ASK,)),
    (Destination.PREPARED, Event.RESTART): Turn(Destination.PREPARED),
    (Destination.OWNED, Message.COMMIT): Turn(Destination.OWNED, (Message.OWNED,)),
    (Destination.OWNED, Event.RESTART): Turn(Destination.OWNED),
}

MAY_RUN = frozenset({Source.KEPT, Source.OFFERING, Source.SENDING, Destination.OWNED})  # the guest, at that end


class End(Generic[S]):
    """One end of one migration, as far as it has come."""

    def __init__(self, table: Table[S], state: S) -> None:
        self._table: Table[S] = table
        self.state: S = state

    def would(self, what: Message | Event) -> Turn[S] | None:
        """What is to follow, for who must write it down first; None when that changes nothing here."""
        turn: Turn[S] | None = self._table.get((self.state, what))
        return turn

    def on(self, what: Message | Event) -> Turn[S] | None:
        """That has happened; None when it changes nothing here."""
        turn = self.would(what)
        if turn is not None:
            self.state = turn.then
        return turn
