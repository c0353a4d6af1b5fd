"""What a mistake in the configuration says: one sentence, in the words of the file that holds it."""

import difflib
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError


def unusable(error: Exception) -> str:
    """Say in one sentence why Hydra cannot compose a configuration."""
    reason = " ".join(str(error).partition("Config search path")[0].split())
    # Hydra proposes to append the key, which would be refused.
    if missing := re.match(r"(Could not override '(\w+)\.\S+')\. To append", reason):
        reason = f"{missing[1]}, which the chosen option of {missing[2]} does not have (another one may)"
    return (
        f"expected overrides like train_head=adam or train_head.epochs=20, found: {reason}; "
        f"'python -m stages.train_head --cfg job' shows all keys"
    )


def near(word: str, valid: list[str]) -> str:
    """Return the valid word that is nearest, in whatever case; nothing if none is near."""
    folded = {one.casefold(): one for one in reversed(valid)}
    return next((folded[one] for one in difflib.get_close_matches(word.casefold(), list(folded), n=1)), "")


def nearest(word: str, valid: list[str]) -> str:
    """Suggest the valid word that is meant, if one is near."""
    meant = near(word, valid)
    return f" (did you mean '{meant}'?)" if meant else ""


def unknown(key: str, valid: list[str]) -> str:
    """Say that there is no such key, and which there are."""
    return f"expected the keys {', '.join(valid)}, found {key!r}{nearest(key, valid)}; correct or remove it"


def explain(section: str, schema: TypeAdapter[Any], value: Any, error: ValidationError) -> str:
    """Say the first of pydantic's complaints in one sentence.

    Args:
        section: its name.
        schema: what it should be.
        value: what it is.
        error: pydantic's.
    """
    # In a union every member complains; the complaints of the member that fits best come first and are the fewest.
    # A misspelt key is an unknown one and a missing one; the unknown one says more.
    complaints = error.errors(include_url=False)
    complaint = next((one for one in complaints if one["type"] == "extra_forbidden"), complaints[0])
    inside = [str(part) for part in complaint["loc"] if _is_key(value, str(part)) or isinstance(part, int)]
    key = ".".join(inside)
    expected = complaint["msg"].removeprefix("Value error, ")
    match complaint["type"]:
        case "extra_forbidden":
            place = f"{'.'.join(inside[:-1])}: " if inside[:-1] else ""
            return place + unknown(inside[-1], _keys(schema, complaint["loc"][:-1]))
        case "missing":
            found = ", ".join(map(str, complaint["input"]))  # where the key should be
            return f"expected the key '{complaint['loc'][-1]}', found {found}; add it"
        case "value_error":
            return f"{key}: {expected}" if key else expected
        case "union_tag_not_found" | "union_tag_invalid":
            tag = complaint["ctx"]["discriminator"].strip("'")
            valid = " or ".join(repr(name) for name in schema.json_schema()["discriminator"]["mapping"])
            return f"{tag}: expected {valid}, found {value.get(tag, 'none')!r}; correct it"
        case _:
            found = value if not key else complaint["input"]
            expected = expected.replace("Input should be", "expected").replace("less than or equal to", "at most")
            expected = expected.replace("less than", "a value below")
            expected = expected.replace("greater than or equal to", "at least").replace("greater than", "a value above")
            return f"{key or section}: {expected}, found {found!r}; correct it"


def _is_key(value: Any, key: str) -> bool:
    """Whether ``key`` stands anywhere in ``value`` (pydantic's locations also hold the names of union members)."""
    if isinstance(value, list):
        return any(_is_key(inner, key) for inner in value)
    return isinstance(value, dict) and (key in value or any(_is_key(inner, key) for inner in value.values()))


def _keys(schema: TypeAdapter[Any], place: tuple[int | str, ...]) -> list[str]:
    """The valid keys at a place of a section, read off its JSON schema; a place in a union begins with the member."""
    described = here = schema.json_schema()
    for step in place:
        if isinstance(step, int):  # the members of a list are all of one kind
            continue
        # Members of a union go by the value that tells them apart, or else by their name.
        members = here.get("discriminator", {}).get("mapping", {})
        inner = here.get("properties", {}).get(step) or members.get(step, f"#/$defs/{step}")
        (name,) = set(re.findall(r"#/\$defs/(\w+)", str(inner)))
        here = described["$defs"][name]
    return list(here["properties"])
