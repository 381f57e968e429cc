"""What is wrong with a field, as those are told who sent it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class WrongField:
    """One complaint, in OpenAI's terms."""

    message: str
    param: str | None
    """The field's path, as in `messages.0.content`; None: the whole value."""
    code: str


def describe(error: Mapping[str, Any], location: Sequence[int | str]) -> WrongField:
    """One of Pydantic's errors. `location`: where the field is, from the value that was sent."""
    param = ".".join(str(part) for part in location if not _is_type_name(part)) or None
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return WrongField(message=f"{param or 'the body'} is missing", param=param, code="missing_required_parameter")
    if error["type"] == "extra_forbidden":
        return WrongField(message=f"there is no parameter {param!r}", param=param, code="unknown_parameter")
    return WrongField(
        message=f"{param or 'the body'}: {message[:1].lower()}{message[1:]}", param=param, code="invalid_value"
    )


def _is_type_name(part: object) -> bool:
    """Pydantic names a union's member in the path: "messages.0.content.str" is `messages.0.content` to a client."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part or "constrained-" in part)
