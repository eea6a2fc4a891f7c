# SPDX-License-Identifier: Apache-2.0
"""Domains: how they are made, what is known of them, what their guests are asked, and how they end."""
