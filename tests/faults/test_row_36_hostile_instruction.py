"""faults.md row 36: a hostile instruction is limited to 512 characters, cleaned or refused; nothing else happens."""

import random
import sys
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvla_a1.core.errors import InternVLAError
from internvla_a1.policy.instruction import InstructionError, clean_instruction


def _is_clean(text: str) -> bool:
    printable = all(not unicodedata.category(c).startswith("C") and (c == " " or not c.isspace()) for c in text)
    return 0 < len(text) <= 512 and printable and text == text.strip() and "  " not in text


def test_a_plain_instruction_stays_as_it_is() -> None:
    for text in ("put the red box in the left bin", "将红色盒子放入左边的箱子", "à gauche, s'il te plaît", "Wait."):
        assert clean_instruction(text) == text


def test_control_characters_and_line_breaks_go() -> None:
    assert clean_instruction("put\x00 the\x1b[31m red\r\n\tbox\u200b\u202e now \x7f") == "put the[31m red box now"


@pytest.mark.parametrize("text", ["", "   ", "\n\t\r", "\x00\x01\x02", "\u200b\u2060", "\ud800"])
def test_an_instruction_without_a_printable_character_is_refused(text: str) -> None:
    with pytest.raises(InstructionError, match="empty"):
        clean_instruction(text)


@pytest.mark.parametrize("text", [None, 3, b"put", ["put"], {}])
def test_what_is_not_text_is_refused(text: object) -> None:
    with pytest.raises(InstructionError, match="must be text"):
        clean_instruction(text)


def test_ten_megabytes_are_cut_without_being_read_through() -> None:
    huge = "put the box " * 900_000
    started = time.perf_counter()
    for _ in range(10):
        cleaned = clean_instruction(huge)
    assert time.perf_counter() - started < 1.0
    assert _is_clean(cleaned) and len(cleaned) >= 500 and huge.startswith(cleaned)


def test_ten_megabytes_of_nothing_are_refused() -> None:
    with pytest.raises(InstructionError):
        clean_instruction("\x00" * 10_000_000)


def test_a_thousand_random_instructions_are_cleaned_or_refused_and_raise_nothing_else() -> None:
    rng = random.Random(0)
    outcomes = {"clean": 0, "refused": 0}
    for _ in range(1000):
        pool = rng.choice([range(32, 127), range(0, 32), range(0x110000), [0x200B, 0xD800, 0xFFFE, 0x202E], range(0x1F300, 0x1F700)])
        text = "".join(chr(rng.choice(pool)) for _ in range(rng.choice([0, 1, 7, 511, 512, 513, 5000])))
        try:
            assert _is_clean(clean_instruction(text))
            outcomes["clean"] += 1
        except InternVLAError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(codec=None, max_codepoint=sys.maxunicode), max_size=600))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    try:
        cleaned = clean_instruction(text)
    except InstructionError:
        return
    assert _is_clean(cleaned) and clean_instruction(cleaned) == cleaned
