"""A word-level tokenizer for small models, made from the instructions of the data; written as an ordinary tokenizer.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.scene import BINS, COLORS, SHAPES

PAD, UNKNOWN = "[PAD]", "[UNK]"
GRAMMAR = ("put", "the", "in", "bin", "parcel", *COLORS, *SHAPES, *BINS)  # all that core.scene.Order can say


def vocabulary(tasks: Iterable[str]) -> dict[str, int]:
    """Word -> id: padding 0, unknown 1, the sorting task's own words, then those of the tasks in alphabetical order."""
    found = {word for task in tasks for word in re.findall(r"\w+|[^\w\s]", task.lower())}
    words = [PAD, UNKNOWN, *GRAMMAR, *sorted(found - set(GRAMMAR))]
    return {word: i for i, word in enumerate(words)}


def write_tokenizer(folder: Path, words: dict[str, int], limit: int) -> None:
    """tokenizer.json and tokenizer_config.json. Raises ConfigError if there are more words than the model has rows."""
    if len(words) > limit:
        raise ConfigError(f"{len(words)} different words for {limit} rows of the vocabulary; name a sub-word tokenizer in data.tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    special = [
        {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, t in enumerate((PAD, UNKNOWN))
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": UNKNOWN},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": PAD, "unk_token": UNKNOWN}, indent=1))
