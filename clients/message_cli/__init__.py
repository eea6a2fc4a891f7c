# SPDX-License-Identifier: Apache-2.0
"""The command line of whoever looks after a bus: who serves, who waits, what was left behind, on the switch and on RabbitMQ."""

VERSION = "0.1.0"
