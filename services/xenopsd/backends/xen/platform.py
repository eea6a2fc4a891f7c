# SPDX-License-Identifier: Apache-2.0
"""The platform's keys of a machine (`Vm.platformdata`), which are text until somebody asks for what they mean."""

from xenops.errors import BadRequest
from xenops.types.vm import Vm

_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def flag(vm: Vm, key: str, *, default: bool) -> bool:
    """A key that is yes or no. Raises `BadRequest`."""
    text = vm.platformdata.get(key)
    if text is None:
        return default
    if text.lower() not in _WORDS:
        raise BadRequest(f"platformdata.{key}", f"{text!r:.40} is neither true nor false")
    return _WORDS[text.lower()]


def figure(vm: Vm, key: str, default: int, *, most: int = 9_999_999) -> int:
    """A key that is a number. Raises `BadRequest`."""
    text = vm.platformdata.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) <= most):
        raise BadRequest(f"platformdata.{key}", f"{text!r:.40} is no number up to {most}")
    return int(text)
