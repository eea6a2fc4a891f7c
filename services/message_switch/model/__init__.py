# SPDX-License-Identifier: Apache-2.0
"""What a switch is when nobody is connected: exchanges, bindings, queues, messages.

Nothing here knows of a socket, a frame boundary, a file or a clock: time is set from outside, and what must be kept is told
to a ledger.
"""
