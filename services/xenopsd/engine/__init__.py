# SPDX-License-Identifier: Apache-2.0
"""How steps run: plans, queues, tasks. It does not know what a VM is."""
