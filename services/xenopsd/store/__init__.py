# SPDX-License-Identifier: Apache-2.0
"""What xenopsd remembers: machines, tasks, outcomes; durable, and quick to read."""
