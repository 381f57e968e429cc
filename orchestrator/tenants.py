"""Tenants and their keys, as `MUSTER_API_KEYS` has them: `alice=key1,bob=key2`."""

import re
from collections.abc import Mapping

SETTING = "MUSTER_API_KEYS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[!-+\--~]{1,512}")
"""What a header can carry: ASCII that is seen, but for the comma."""


def parse(text: str) -> Mapping[str, str]:
    """Keys by tenant. Raises `ValueError`, which says which entry is wrong and how, but never what it holds."""
    found: dict[str, str] = {}
    for number, entry in enumerate(text.split(","), start=1):
        name, _, key = entry.partition("=")
        if not _NAME.fullmatch(name):
            raise _wrong(number, "needs a name before '=': letters, digits, '.', '_' and '-', 64 at most")
        if not _KEY.fullmatch(key):
            raise _wrong(number, "needs a key behind '=': visible ASCII characters without a comma, 512 at most")
        if name in found:
            raise _wrong(number, f"names {name!r} again: each tenant has one key")
        if key in found.values():
            raise _wrong(number, "has another's key: nobody could tell the two apart")
        found[name] = key
    return found


def _wrong(number: int, what: str) -> ValueError:
    return ValueError(f"{SETTING} is name=key,name=key without spaces; entry {number} {what}")
