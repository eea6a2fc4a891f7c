# SPDX-License-Identifier: Apache-2.0
"""Exchanges: from a routing key to the queues that want it, by way of other exchanges where they are bound to each other."""

from collections.abc import Collection, Iterable
from typing import TypeAlias, cast

from message_switch.model import records
from message_switch.model.faults import ChannelFault, Code, ConnectionFault
from message_switch.model.names import equivalent, not_default, not_reserved
from message_switch.model.queue import Queue

Destination: TypeAlias = "Queue | Exchange"
_MEMORY = 4096


class Exchange:
    """What all kinds have in common: a name, a table of bindings, and who gets what nobody is bound for (`alternate`)."""

    kind = ""

    def __init__(
        self,
        name: str,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        alternate: str | None = None,
    ) -> None:
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.alternate = alternate
        self.leads_on = 0  # how many of the bindings are to exchanges
        # Dictionaries serve as sets that keep their order, so that a test and a person see the same one every time.
        self.bindings: dict[str, dict[Destination, None]] = {}

    @property
    def kept(self) -> bool:
        """Whether it survives a restart."""
        return self.durable

    def bind(self, destination: Destination, key: str) -> bool:
        """Whether that is new."""
        bound = self.bindings.setdefault(key, {})
        if destination in bound:
            return False
        bound[destination] = None
        self.leads_on += isinstance(destination, Exchange)
        self._changed()
        return True

    def has(self, destination: Destination, key: str) -> bool:
        """Whether there is such a binding."""
        return destination in self.bindings.get(key, ())

    def unbind(self, destination: Destination, key: str) -> bool:
        """Whether there was such a binding."""
        bound = self.bindings.get(key, {})
        if destination not in bound:
            return False
        del bound[destination]
        if not bound:
            del self.bindings[key]
        self.leads_on -= isinstance(destination, Exchange)
        self._changed()
        return True

    def forget(self, destination: Destination) -> bool:
        """Remove every binding of what is going; whether there was one."""
        return any([self.unbind(destination, key) for key in list(self.bindings)])

    def route(self, key: str) -> Collection[Destination]:
        """Who gets a message published with this key, each once."""
        raise NotImplementedError

    def _changed(self) -> None:
        pass


class Direct(Exchange):
    """The key is the binding's key."""

    kind = "direct"

    def route(self, key: str) -> Collection[Destination]:
        return self.bindings.get(key, ())


class Fanout(Exchange):
    """Everybody who is bound."""

    kind = "fanout"

    def route(self, key: str) -> Collection[Destination]:
        return {each: None for bound in self.bindings.values() for each in bound}


class Topic(Exchange):
    """Words divided by dots; in a binding `*` is one word and `#` any number of them."""

    kind = "topic"

    def __init__(
        self,
        name: str,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        alternate: str | None = None,
    ) -> None:
        super().__init__(name, durable=durable, auto_delete=auto_delete, internal=internal, alternate=alternate)
        self._routes: dict[str, dict[Destination, None]] = {}

    def route(self, key: str) -> Collection[Destination]:
        found = self._routes.get(key)
        if found is None:
            found = {each: None for pattern, bound in self.bindings.items() if matches(pattern, key) for each in bound}
            if len(self._routes) >= _MEMORY:
                self._routes.clear()
            self._routes[key] = found
        return found

    def _changed(self) -> None:
        self._routes.clear()


KINDS: dict[str, type[Exchange]] = {kind.kind: kind for kind in (Direct, Fanout, Topic)}


class Exchanges(dict[str, Exchange]):
    """All of them, by name."""

    def __init__(self, ledger: records.Ledger, first: Iterable[Exchange]) -> None:
        super().__init__((exchange.name, exchange) for exchange in first)
        self._ledger = ledger

    def known(self, name: str) -> Exchange:
        """The exchange of that name, or 404."""
        if (found := self.get(name)) is None:
            raise ChannelFault(Code.NOT_FOUND, f"no exchange '{name}' in vhost '/'")
        return found

    def declare(
        self, name: str, kind: str, *, durable: bool, auto_delete: bool, internal: bool, alternate: str | None = None
    ) -> None:
        """Make it, or check that what is there is the same."""
        if kind == "headers":
            raise ConnectionFault(Code.NOT_IMPLEMENTED, "exchange type 'headers' is not for this switch: use 'topic'")
        if kind not in KINDS:
            raise ConnectionFault(Code.COMMAND_INVALID, f"unknown exchange type '{kind}'")
        not_default(name)
        if (old := self.get(name)) is not None:
            wanted = {"type": kind, "durable": durable, "auto_delete": auto_delete, "internal": internal}
            current = {"type": old.kind} | {key: getattr(old, key) for key in ("durable", "auto_delete", "internal")}
            wanted["alternate-exchange"], current["alternate-exchange"] = alternate, old.alternate
            equivalent("exchange", name, wanted, current)
            return
        not_reserved("exchange", name)
        self[name] = KINDS[kind](name, durable=durable, auto_delete=auto_delete, internal=internal, alternate=alternate)
        if durable:
            self._ledger.note(records.ExchangeDeclared(name, kind, auto_delete, internal, alternate))

    def delete(self, name: str, *, if_unused: bool) -> None:
        """Deleting what is not there is no error, as in RabbitMQ."""
        not_default(name)
        not_reserved("exchange", name)
        exchange = self.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise ChannelFault(Code.PRECONDITION_FAILED, f"exchange '{name}' in vhost '/' in use")
        self._drop(exchange)

    def bind(self, name: str, destination: Destination, key: str) -> None:
        """From now on the destination gets what is published there with a key that fits."""
        exchange = self.known(name)
        if exchange.bind(destination, key) and exchange.durable and destination.kept:
            kind = records.ExchangeBound if isinstance(destination, Exchange) else records.Bound
            self._ledger.note(kind(name, destination.name, key))

    def unbind(self, name: str, destination: Destination, key: str) -> None:
        """The reverse; of a binding that is not there, nothing."""
        exchange = self.known(name)
        if exchange.unbind(destination, key):
            if exchange.durable and destination.kept:
                kind = records.ExchangeUnbound if isinstance(destination, Exchange) else records.Unbound
                self._ledger.note(kind(name, destination.name, key))
            self._left(exchange)

    def forget(self, destination: Destination) -> None:
        """A queue or an exchange goes, and with it what was there for its sake alone."""
        for exchange in list(self.values()):
            if exchange.forget(destination):
                self._left(exchange)

    def route(self, exchange: Exchange, key: str) -> Collection[Queue]:
        """The queues that get a message published there with this key, each once."""
        found = exchange.route(key)
        if not exchange.leads_on and (found or exchange.alternate is None):
            return cast(Collection[Queue], found)
        queues: dict[Queue, None] = {}
        reached, ahead = {exchange}, [exchange]
        for each in ahead:  # which grows meanwhile
            found = each.route(key)
            if not found and each.alternate is not None and each.alternate in self:
                found = (self[each.alternate],)
            for destination in found:
                if isinstance(destination, Queue):
                    queues[destination] = None
                elif destination not in reached:
                    reached.add(destination)
                    ahead.append(destination)
        return queues

    def _left(self, exchange: Exchange) -> None:
        if exchange.auto_delete and not exchange.bindings and exchange.name in self:
            self._drop(exchange)

    def _drop(self, exchange: Exchange) -> None:
        del self[exchange.name]
        if exchange.durable:
            self._ledger.note(records.ExchangeDeleted(exchange.name))
        self.forget(exchange)


def predeclared() -> tuple[Exchange, ...]:
    """Those that are always there."""
    return Direct("amq.direct"), Fanout("amq.fanout"), Topic("amq.topic")


def matches(pattern: str, key: str) -> bool:
    """Whether a topic pattern covers a routing key.

    All ways to read the pattern are followed side by side, so that many `#` cost no more than their number.
    """
    parts = pattern.split(".") if pattern else []
    words = key.split(".") if key else []
    reached = _past_hashes({0}, parts)
    for word in words:
        after = set()
        for at in reached:
            if at < len(parts):
                if parts[at] == "#":
                    after.add(at)
                elif parts[at] in ("*", word):
                    after.add(at + 1)
        reached = _past_hashes(after, parts)
        if not reached:
            return False
    return len(parts) in reached


def _past_hashes(reached: set[int], parts: list[str]) -> set[int]:
    """`#` may stand for no word at all: where it can be stepped over, both places are reached."""
    todo = list(reached)
    while todo:
        at = todo.pop()
        if at < len(parts) and parts[at] == "#" and at + 1 not in reached:
            reached.add(at + 1)
            todo.append(at + 1)
    return reached
