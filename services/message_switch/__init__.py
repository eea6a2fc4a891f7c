# SPDX-License-Identifier: Apache-2.0
"""The embedded default bus: a small single-host switch that speaks AMQP 0-9-1, so that one client path serves it and RabbitMQ alike.

From the wire inwards: `server` (sockets) > `session` (one connection) > `channel` > `model` (queues and exchanges);
`journal` keeps what must survive. `frames` is the only file that knows the AMQP library, of which only the codec is used.
"""
