# SPDX-License-Identifier: Apache-2.0
"""The words that all services and all clients share: all that an orchestrator installs and imports."""
