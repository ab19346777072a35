"""Settings of a program: typed, read from one TOML file, changed on the command line.

A program's settings are a frozen dataclass of sections, each a frozen dataclass of values, or a
list of such (`[[methods]]` in TOML). An unknown key is an error that suggests the nearest known
one, so that a misspelt setting never passes in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found]

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that does not exist, has the wrong type, or is out of range."""


def from_mapping(kind: type[T], values: Mapping[str, Any]) -> T:
    """Builds settings from a parsed TOML file.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type or range.
    """
    return _build(kind, values, "")


def load_settings(
    kind: type[T], path: str | Path | None, overrides: Sequence[tuple[str, str]] = ()
) -> T:
    """Reads a TOML file and lays the command line's settings over it.

    Args:
        kind: the dataclass of all sections.
        path: the TOML file; None for the defaults alone.
        overrides: ("section.key", value as written on the command line).
    """
    values = {} if path is None else _read_toml(Path(path))
    for key, text in overrides:
        _override(kind, values, key, text)
    return from_mapping(kind, values)


def to_toml(config: Any) -> str:
    """Writes settings as TOML that `load_settings` reads back to the same settings."""
    lines = []
    for section in dataclasses.fields(config):
        content = getattr(config, section.name)
        listed = isinstance(content, tuple)
        for entry in content if listed else (content,):
            lines.append(f"[[{section.name}]]" if listed else f"[{section.name}]")
            values = dataclasses.asdict(entry)
            lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
            lines.append("")
    return "\n".join(lines)


def flatten(config: Any) -> dict[str, Any]:
    """Lists settings as {"section.key": value}, those of a list as {"section.0.key": value}."""
    found = {}
    for section, content in dataclasses.asdict(config).items():
        listed = isinstance(content, tuple)
        for number, values in enumerate(content if listed else (content,)):
            where = f"{section}.{number}" if listed else section
            found |= {f"{where}.{key}": value for key, value in values.items()}
    return found


def check_choices(config: Any, choices: Mapping[str, Sequence[str]]) -> None:
    """Refuses a text that is none of those that "section.key" may be.

    Raises:
        ConfigError: it names the setting and what it may be.
    """
    for key, known in choices.items():
        value = _get(config, key)
        if value not in known:
            raise ConfigError(f"{key} is {value!r}; expected one of {', '.join(known)}.")


def check_ranges(config: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuses a number outside the (lowest, highest) that "section.key" may be.

    Raises:
        ConfigError: it names the setting and its range.
    """
    for key, (low, high) in ranges.items():
        value = _get(config, key)
        if not low <= value <= high:
            raise ConfigError(f"{key} is {value}; expected {low} to {high}.")


def read_overrides(pairs: Sequence[str], rest: Sequence[str]) -> list[tuple[str, str]]:
    """Reads settings from a command line, for `load_settings`.

    Args:
        pairs: "section.key=value" each, what followed --set.
        rest: words such as "--section.key", "value" or "--section.key=value".
    """
    return [_pair(text) for text in pairs] + _dotted(rest)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: expected SECTION.KEY=VALUE.")
    return key.strip(), value.strip()


def _dotted(rest: Sequence[str]) -> list[tuple[str, str]]:
    """Reads --section.key VALUE and --section.key=VALUE."""
    pairs, words = [], list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"Cannot read {word!r}; settings are given as --section.key VALUE.")
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not words:
                raise ConfigError(f"{word} has no value.")
            value = words.pop(0)
        pairs.append((key, value))
    return pairs


def _get(config: Any, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"There is no configuration file {path}.")
    try:
        return _loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}. Correct it, and save it as UTF-8."
        ) from error


def _loads(text: str) -> dict[str, Any]:
    """Parses TOML; raises ValueError for all that is none."""
    try:
        values = tomllib.loads(text)
        _check_integers(values)
        return values
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _check_integers(value: Any) -> None:
    """Refuses integers beyond TOML's 64 bits, which Python may not even be able to print."""
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            _check_integers(part)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("it has an integer of more than 64 bits")


def _override(kind: type, values: dict[str, Any], key: str, text: str) -> None:
    section, _, name = key.partition(".")
    hint = _hint(kind, section, name)
    values.setdefault(section, {})[name] = text if hint is str else _parse(key, text, hint)


def _hint(kind: type, section: str, name: str) -> Any:
    """The type of "section.name", with the error for an unknown one."""
    sections = typing.get_type_hints(kind)
    if section not in sections:
        raise _unknown(f"{section}.{name}" if name else section, flatten(kind()))
    if typing.get_origin(sections[section]) is tuple:
        raise ConfigError(f"{section} is a list; change its entries in the file, not here.")
    hints = typing.get_type_hints(sections[section])
    if name not in hints:
        raise _unknown(f"{section}.{name}", [f"{section}.{known}" for known in hints])
    return hints[name]


def _parse(key: str, text: str, hint: Any) -> Any:
    """Reads a command-line value with TOML's grammar; texts in a list need no quotes."""
    if hint == tuple[str, ...] and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    bare_list = typing.get_origin(hint) is tuple and not text.lstrip().startswith("[")
    try:
        return _loads(f"value = [{text}]" if bare_list else f"value = {text}")["value"]
    except ValueError as error:
        raise ConfigError(f"{key}: cannot read {text!r} as {_name(hint)}.") from error


def _build(kind: type[T], values: Any, where: str) -> T:
    """Builds a dataclass from a mapping, checking each key and type."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}; expected a section [{where}].")
    hints = typing.get_type_hints(kind)
    known = [f"{where}.{name}" if where else name for name in hints]
    for key in values:
        if key not in hints:
            raise _unknown(f"{where}.{key}" if where else key, known)
    arguments = {
        name: _convert(value, hints[name], f"{where}.{name}" if where else name)
        for name, value in values.items()
    }
    return kind(**arguments)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Checks a value's type; an integer may stand for a float, a list for a tuple."""
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is tuple:
        return _convert_tuple(value, hint, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ConfigError(f"{where} is {value!r}; expected {_name(hint)}.")
    return value


def _convert_tuple(value: Any, hint: Any, where: str) -> tuple[Any, ...]:
    items = typing.get_args(hint)
    any_length = items[-1] is Ellipsis
    right_length = any_length or (isinstance(value, list) and len(value) == len(items))
    if not isinstance(value, list) or not right_length:
        raise ConfigError(f"{where} is {value!r}; expected {_name(hint)}.")
    return tuple(_convert(item, items[0], where) for item in value)


def _unknown(key: str, known: typing.Iterable[str]) -> ConfigError:
    known = sorted(known)
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ConfigError(f"Unknown setting {key!r}.{hint} Known: {', '.join(known)}.")


def _name(hint: Any) -> str:
    if dataclasses.is_dataclass(hint):
        return "a section"
    if typing.get_origin(hint) is not tuple:
        return {str: "a text", int: "an integer", float: "a number", bool: "true or false"}[hint]
    items = typing.get_args(hint)
    count = "a list" if items[-1] is Ellipsis else f"a list of {len(items)}"
    return f"{count}, each {_name(items[0])}"


def _toml_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return json.dumps(
        value, ensure_ascii=False
    )  # TOML's strings, numbers, booleans agree with JSON
