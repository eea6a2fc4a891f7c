# SPDX-License-Identifier: Apache-2.0
"""What people who look after a bus do beside calling and serving: take messages by hand, see what passes."""
