# SPDX-License-Identifier: Apache-2.0
"""Who asks: one thin file per namespace; decodes nothing, decides little, queues the rest."""
