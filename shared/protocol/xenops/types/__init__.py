# SPDX-License-Identifier: Apache-2.0
"""What travels: the values that requests, replies and events carry."""
