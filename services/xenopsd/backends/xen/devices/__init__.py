# SPDX-License-Identifier: Apache-2.0
"""What devices of guests are made of: the handshake in xenstore, and the work on this host behind it."""
