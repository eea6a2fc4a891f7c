# SPDX-License-Identifier: Apache-2.0
"""A service's configuration: declared once as a struct, read from file, environment and flags (flags win).

The file holds `key = value` lines with `#` comments; quotes around a value are taken off. Every key is a flag
(`--log-level`), an environment variable (`XENOPSD_LOG_LEVEL`) and a line of the file (`log-level = debug`). What a
key means, its type and its limits come from the struct's annotations, and so does `--help`.
"""

import argparse
import difflib
import re
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import msgspec

S = TypeVar("S", bound="Settings")
_LINE = re.compile(r"^\s*(?P<key>[A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?P<value>'[^']*'|\"[^\"]*\"|[^#]*?)\s*(?:#.*)?$")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parent of every service's settings."""


class SettingsError(Exception):
    """The configuration is wrong; the text says where, why and what to do."""


def parse_file(untrusted_text: str, *, filename: str) -> dict[str, str]:
    """The keys and values of a configuration file; a line that is neither is an error with its number."""
    found: dict[str, str] = {}
    for number, line in enumerate(untrusted_text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise SettingsError(f"{filename}:{number}: not understood: {line.strip()!r:.80}; write key = value")
        value = match["value"]
        quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
        found[match["key"].replace("_", "-")] = value[1:-1] if quoted else value
    return found


def load(settings: type[S], *, program: str, argv: Sequence[str], environ: Mapping[str, str]) -> S:
    """The effective settings; on a mistake or `--help` prints and exits, as command lines do (2 and 0)."""
    parser = _parser(settings, program)
    flags = {key: value for key, value in vars(parser.parse_args(list(argv))).items() if value is not None}
    chosen = flags.pop("config", None) or environ.get(_variable(program, "config"))
    path = Path(chosen or f"/etc/xenopsd/{program}.conf")
    try:
        return resolve(settings, program=program, flags=flags, environ=environ, path=path, required=chosen is not None)
    except SettingsError as error:
        _refuse(program, error)


def resolve(
    settings: type[S], *, program: str, flags: Mapping[str, str], environ: Mapping[str, str], path: Path, required: bool
) -> S:
    """Merge default, file, environment and flags, in this order, and check every value."""
    keys = {f.encode_name.replace("_", "-"): f for f in msgspec.structs.fields(settings)}
    values: dict[str, tuple[str, str]] = {}
    if required or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"cannot read the configuration file {path}: {error}") from None
        for key, value in parse_file(text, filename=str(path)).items():
            if key not in keys:
                near = difflib.get_close_matches(key, keys, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"{program} --help lists the keys"
                raise SettingsError(f"{path}: unknown key {key!r}; {hint}")
            values[key] = (value, f"{path}, key {key}")
    for key in keys:
        if (variable := _variable(program, key)) in environ:
            values[key] = (environ[variable], f"environment variable {variable}")
        if (flag := key.replace("-", "_")) in flags:
            values[key] = (flags[flag], f"--{key}")
    return settings(**{keys[key].name: _convert(text, keys[key].type, where) for key, (text, where) in values.items()})


def _convert(text: str, wanted: Any, where: str) -> Any:
    kind = _plain(wanted)
    value: Any = text
    if kind is bool:
        if text.lower() not in _WORDS:
            raise SettingsError(f"{where}: {text!r:.80} is neither true nor false")
        value = _WORDS[text.lower()]
    elif get_origin(kind) in (list, tuple):
        value = [item.strip() for item in text.split(",") if item.strip()]
    try:
        return Path(text) if kind is Path else msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {_reason(error, wanted, kind)} (it is {text!r:.80})") from None


def _reason(error: msgspec.ValidationError, wanted: Any, kind: Any) -> str:
    """What is wrong with a value, for people: not its pattern, nor the type that it has as a text."""
    said = str(error)
    if "regex" in said:
        return f"not accepted; {_description(wanted)}"
    if "got `str`" in said and kind in (int, float):
        return "is not a whole number" if kind is int else "is not a number"
    if get_origin(kind) is Literal:
        return f"is none of {', '.join(get_args(kind))}"
    return said


def _plain(wanted: Any) -> Any:
    """The type without its annotations and without its `| None`."""
    if hasattr(wanted, "__metadata__"):
        return _plain(wanted.__origin__)
    if get_origin(wanted) in (Union, types.UnionType):
        return next(_plain(a) for a in get_args(wanted) if a is not type(None))
    return wanted


def _description(wanted: Any) -> str:
    return next((m.description for m in getattr(wanted, "__metadata__", ()) if getattr(m, "description", None)), "")


def _parser(settings: type[Settings], program: str) -> argparse.ArgumentParser:
    summary = (settings.__doc__ or "").strip()
    parser = argparse.ArgumentParser(
        prog=program,
        description=summary,
        allow_abbrev=False,
        epilog=f"Every key may also stand in /etc/xenopsd/{program}.conf as `key = value`, or in the environment as "
        f"{_variable(program, 'KEY')}. Flags win over the environment, and that over the file.",
    )
    parser.add_argument("--config", "-config", metavar="FILE", help="configuration file")
    for field in msgspec.structs.fields(settings):
        key = field.encode_name.replace("_", "-")
        default = field.default if field.default is not msgspec.NODEFAULT else None
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        shown = "unset" if default is None or default == "" else default
        text = f"{_description(field.type)} (default: {shown})".replace("%", "%%")
        parser.add_argument(f"--{key}", dest=key.replace("-", "_"), metavar=_metavar(field.type), help=text)
    return parser


def _metavar(wanted: Any) -> str:
    kind = _plain(wanted)
    names = {bool: "true|false", int: "N", float: "SECONDS", str: "TEXT", Path: "PATH"}
    return names.get(kind, "A,B,…" if get_origin(kind) in (list, tuple) else "VALUE")


def _variable(program: str, key: str) -> str:
    return f"{program}_{key}".upper().replace("-", "_")


def _refuse(program: str, error: SettingsError) -> NoReturn:
    print(f"{program}: {error}", file=sys.stderr)
    raise SystemExit(2)
