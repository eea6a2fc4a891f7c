# SPDX-License-Identifier: Apache-2.0
"""How hypothesis runs here: a slow machine is no failure of the language."""

from hypothesis import HealthCheck, settings

settings.register_profile("xlcfg", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xlcfg")
