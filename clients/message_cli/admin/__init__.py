# SPDX-License-Identifier: Apache-2.0
"""How a broker is looked into: one port, and its two implementations."""
