# SPDX-License-Identifier: Apache-2.0
"""vncproxy knows the consoles of running machines and carries a viewer's bytes to them."""
