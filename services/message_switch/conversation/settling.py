# SPDX-License-Identifier: Apache-2.0
"""What one channel holds: messages delivered to it and not yet acknowledged, rejected or given back. Pure."""

from itertools import takewhile

from message_switch.model.faults import ChannelFault, Code
from message_switch.model.message import Entry
from message_switch.model.queue import Consumer, Queue

Held = tuple[Entry, Queue, Consumer | None]


class Unsettled(dict[int, Held]):
    """By delivery tag, in the order of delivery; no consumer where the message was asked for with basic.get."""

    def ack(self, tag: int, multiple: bool) -> None:
        """basic.ack."""
        if not multiple:
            held = self.pop(tag, None)
            if held is None:
                raise _unknown(tag)
            entry, queue, consumer = held
            queue.settle(entry)
            if consumer is not None:
                consumer.unsettled -= 1
            if queue.ready:
                queue.pump()
            return
        touched = self._take(tag, multiple=True)
        for entry, queue, _ in touched:
            queue.settle(entry)
        _pump(touched)

    def reject(self, tag: int, *, multiple: bool, requeue: bool) -> None:
        """basic.nack and basic.reject."""
        if requeue:
            for queue in self.give_back(tag, multiple=multiple):
                queue.pump()
            return
        touched = self._take(tag, multiple=multiple)
        for entry, queue, _ in touched:
            queue.reject(entry)
        _pump(touched)

    def give_back(self, tag: int = 0, *, multiple: bool = True) -> list[Queue]:
        """Requeue what is unsettled; the queues that then want to be pumped."""
        queues: dict[Queue, list[Entry]] = {}
        for entry, queue, _ in self._take(tag, multiple=multiple):
            queues.setdefault(queue, []).append(entry)
        for queue, entries in queues.items():
            queue.requeue(entries)
        return list(queues)

    def _take(self, tag: int, *, multiple: bool) -> list[Held]:
        if multiple and tag == 0:
            tags = list(self)
        elif tag not in self:
            raise _unknown(tag)
        else:
            tags = list(takewhile(lambda t: t <= tag, self)) if multiple else [tag]
        taken = [self.pop(t) for t in tags]
        for _, _, consumer in taken:
            if consumer is not None:
                consumer.unsettled -= 1
        return taken


def _unknown(tag: int) -> ChannelFault:
    return ChannelFault(Code.PRECONDITION_FAILED, f"unknown delivery tag {tag}")


def _pump(touched: list[Held]) -> None:
    for queue in {queue: None for _, queue, _ in touched}:
        queue.pump()
