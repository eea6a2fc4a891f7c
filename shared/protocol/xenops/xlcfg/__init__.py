# SPDX-License-Identifier: Apache-2.0
"""The configuration language of xm and xl: parse it, explain it as a machine and its devices, print it."""

from xenops.xlcfg.errors import ConfigError, ConfigSyntaxError, ConfigWarning
from xenops.xlcfg.explain import Loaded, load
from xenops.xlcfg.printer import dump

__all__ = ["ConfigError", "ConfigSyntaxError", "ConfigWarning", "Loaded", "dump", "load"]
