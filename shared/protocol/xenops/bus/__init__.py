# SPDX-License-Identifier: Apache-2.0
"""The bus: how requests, replies and events get from one process to another."""
