"""An instruction from anywhere (a topic, a service, a person) becomes one short clean line, or is refused (faults.md row 36)."""

from __future__ import annotations

import unicodedata

from internvla_a1.core.errors import InternVLAError

MAX_CHARACTERS = 512


class InstructionError(InternVLAError):
    """An instruction that cannot be used, with the reason."""


def clean_instruction(text: object, limit: int = MAX_CHARACTERS) -> str:
    """One line of printable text of at most `limit` characters. Raises InstructionError if nothing is left.

    White space and line breaks become single spaces; control, format, surrogate and private characters are dropped; what
    is too long is cut at `limit`. The work is bounded: of a huge text only the beginning is read.
    """
    if not isinstance(text, str):
        raise InstructionError(f"an instruction must be text, not {type(text).__name__}")
    words = "".join(map(_kept, text[: 8 * limit])).split()
    cleaned = " ".join(words)[:limit].rstrip()
    if not cleaned:
        raise InstructionError(f"the instruction is empty ({len(text)} characters, none of them printable)")
    return cleaned


def _kept(character: str) -> str:
    if character.isspace():
        return " "
    return "" if unicodedata.category(character).startswith("C") else character
