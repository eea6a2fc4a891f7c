# SPDX-License-Identifier: Apache-2.0
"""What a client may do to a broker, as data: the words of the differential test, and how hypothesis draws them.

Names are short here (`q0`, `x1`) and made unique where they are played. Two connections have two channels each, numbered
0 and 1, 2 and 3; publishers on even channels have their messages confirmed.
"""

from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

QUEUES = ("q0", "q1", "q2")
EXCHANGES = ("x0", "x1")
KEYS = ("", "a", "a.b", "a.*", "#", "b.#", *QUEUES)
KINDS = ("direct", "fanout", "topic")
CHANNELS = 4


@dataclass(frozen=True)
class Command:
    """`who`: the channel that it is said on."""

    who: int


@dataclass(frozen=True)
class DeclareQueue(Command):
    queue: str
    passive: bool = False
    exclusive: bool = False
    auto_delete: bool = False
    arguments: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class DeclareExchange(Command):
    exchange: str
    kind: str = "direct"
    passive: bool = False
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    alternate: str | None = None


@dataclass(frozen=True)
class BindExchange(Command):
    destination: str
    source: str
    key: str
    undo: bool = False


@dataclass(frozen=True)
class Bind(Command):
    queue: str
    exchange: str
    key: str
    undo: bool = False


@dataclass(frozen=True)
class DeleteQueue(Command):
    queue: str
    if_unused: bool = False
    if_empty: bool = False


@dataclass(frozen=True)
class DeleteExchange(Command):
    exchange: str
    if_unused: bool = False


@dataclass(frozen=True)
class Purge(Command):
    queue: str


@dataclass(frozen=True)
class Publish(Command):
    exchange: str
    key: str
    mandatory: bool = False
    persistent: bool = False
    expiration: str | None = None
    priority: int | None = None
    headers: dict[str, object] | None = None
    asks: bool = False
    """Whether it wants a direct reply."""
    size: int = 0


@dataclass(frozen=True)
class Get(Command):
    queue: str
    auto_ack: bool = False


@dataclass(frozen=True)
class Consume(Command):
    queue: str
    tag: str
    auto_ack: bool = False
    exclusive: bool = False


@dataclass(frozen=True)
class Cancel(Command):
    tag: str


@dataclass(frozen=True)
class Qos(Command):
    prefetch: int


@dataclass(frozen=True)
class Settle(Command):
    """One of the messages that the channel holds, the `which`th, or all up to it; `how`: ack, nack, reject."""

    how: str
    which: int
    multiple: bool = False
    requeue: bool = False


@dataclass(frozen=True)
class SettleWrongly(Command):
    how: str
    multiple: bool = False


@dataclass(frozen=True)
class Recover(Command):
    pass


@dataclass(frozen=True)
class Listen(Command):
    """Consume direct replies."""

    auto_ack: bool = True


@dataclass(frozen=True)
class Reply(Command):
    """Answer the question last seen on any channel."""


@dataclass(frozen=True)
class CloseChannel(Command):
    pass


@dataclass(frozen=True)
class CloseConnection(Command):
    pass


_who = st.integers(0, CHANNELS - 1)
_rarely = st.integers(0, 5).map(lambda n: n == 0)
_queue, _exchange = st.sampled_from(QUEUES), st.sampled_from(EXCHANGES)
_any_exchange = st.sampled_from(("", "", "", "amq.topic", "amq.fanout", *EXCHANGES, *EXCHANGES))
_tag = st.sampled_from(("t0", "t1", "t2"))
_key = st.sampled_from(KEYS)
_headers = st.dictionaries(st.sampled_from(("h", "i")), st.sampled_from((1, "one", True)), max_size=2)

# Each is wanted alone rather often; together they meet in ways that nobody would think of.
ARGUMENTS: tuple[dict[str, object], ...] = (
    {},
    {"x-max-length": 2},
    {"x-max-length": 0},
    {"x-max-length": 2, "x-overflow": "reject-publish"},
    {"x-max-length-bytes": 10},
    {"x-max-length-bytes": 10, "x-overflow": "reject-publish"},
    {"x-message-ttl": 0},
    {"x-message-ttl": 20},
    {"x-message-ttl": 60000},
    {"x-expires": 60000},
    {"x-max-priority": 2},
    {"x-max-priority": 9},
    {"x-max-priority": 0},
    {"x-max-priority": 256},
    {"x-message-ttl": -1},
    {"x-expires": 0},
    {"x-max-length": "two"},
    {"x-overflow": "spill"},
    {"x-dead-letter-routing-key": "a"},
)
_dead = st.builds(
    lambda exchange, key: (
        {"x-dead-letter-exchange": exchange} | ({} if key is None else {"x-dead-letter-routing-key": key})
    ),
    st.sampled_from(("", *EXCHANGES, "amq.fanout")),
    st.sampled_from((None, *QUEUES, "a")),
)
_arguments = st.builds(
    lambda one, two, dead: one | two | dead,
    st.sampled_from(ARGUMENTS),
    st.one_of(st.just({}), st.just({}), st.sampled_from(ARGUMENTS)),
    st.one_of(st.just({}), _dead),
)

_declares = st.builds(DeclareQueue, _who, _queue, _rarely, _rarely, _rarely, st.one_of(st.just({}), _arguments))


def _timely(publish: Publish) -> Publish:
    """RabbitMQ looks at no time limit of a message that is published to the head of a queue behind which others wait."""
    return replace(publish, priority=None) if publish.expiration == "20" else publish


_publishes = st.builds(
    Publish,
    _who,
    _any_exchange,
    _key,
    mandatory=st.booleans(),
    persistent=st.booleans(),
    expiration=st.sampled_from((None, None, None, "0", "20", "60000", "soon", "-1")),
    priority=st.sampled_from((None, None, 0, 2, 9)),
    headers=st.one_of(st.none(), _headers),
    asks=_rarely,
    size=st.sampled_from((0, 0, 6)),
).map(_timely)
_settles = st.builds(
    Settle, _who, st.sampled_from(("ack", "nack", "reject")), st.integers(0, 3), st.booleans(), st.booleans()
)

COMMANDS: st.SearchStrategy[Command] = st.one_of(
    _declares,
    _declares,
    st.builds(DeclareExchange, _who, _exchange, st.sampled_from(KINDS)),
    st.builds(
        DeclareExchange,
        _who,
        _exchange,
        st.sampled_from(KINDS),
        _rarely,
        st.booleans(),
        _rarely,
        _rarely,
        st.sampled_from((None, None, "", "amq.fanout", *EXCHANGES)),
    ),
    st.builds(BindExchange, _who, st.sampled_from(("", *EXCHANGES, *EXCHANGES)), _any_exchange, _key, _rarely),
    st.builds(Bind, _who, _queue, _any_exchange, _key, _rarely),
    _publishes,
    _publishes,
    _publishes,
    st.builds(Get, _who, _queue, st.booleans()),
    st.builds(Consume, _who, _queue, _tag, _rarely, _rarely),
    st.builds(Consume, _who, _queue, _tag, st.booleans(), _rarely),
    _settles,
    _settles,
    st.builds(SettleWrongly, _who, st.sampled_from(("ack", "nack", "reject")), st.booleans()),
    st.builds(Cancel, _who, _tag),
    st.builds(Qos, _who, st.integers(0, 2)),
    st.builds(Recover, _who),
    st.builds(Purge, _who, _queue),
    st.builds(DeleteQueue, _who, _queue, _rarely, _rarely),
    st.builds(DeleteExchange, _who, _any_exchange, _rarely),
    st.builds(Listen, _who, st.integers(0, 5).map(bool)),
    st.builds(Reply, _who),
    st.builds(CloseChannel, _who),
    st.builds(CloseConnection, _who),
)
