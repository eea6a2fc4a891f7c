# SPDX-License-Identifier: Apache-2.0
"""What is said on one connection: its session, its channels, and what each method does there. Pure."""
