"""The text tokenizer of a checkpoint, from files on disk: no download, no code from the folder (faults.md row 35)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvla_a1.core.errors import CheckpointError, ConfigError, MissingDependencyError

PAD_CANDIDATES = ("<|endoftext|>", "[PAD]", "<pad>")  # Qwen and InternVL3 pad with <|endoftext|>, id 151643


@dataclass(frozen=True)
class TextTokenizer:
    """encode: text -> ids, without special tokens of the user's making; pad_id fills a row up."""

    encode: Callable[[str], list[int]]
    pad_id: int
    size: int

    def row(self, text: str, length: int) -> tuple[list[int], list[int]]:
        """Ids padded right or cut to `length`, and their attention mask. No template, no system text, no newline."""
        ids = self.encode(text)[:length]
        gap = length - len(ids)
        return [*ids, *[self.pad_id] * gap], [1] * len(ids) + [0] * gap


def load_tokenizer(folder: str | Path) -> TextTokenizer:
    """Read tokenizer.json, or vocab.json with merges.txt through transformers. Raises CheckpointError or ConfigError."""
    folder = Path(folder)
    settings = _settings(folder)
    if "auto_map" in settings:
        raise CheckpointError(f"{folder}: tokenizer_config.json asks for code from the folder (auto_map); that is never run")
    if (folder / "tokenizer.json").is_file():
        return _fast(folder, settings)
    if (folder / "vocab.json").is_file():
        return _slow(folder)
    raise ConfigError(
        f"{folder}: no tokenizer.json and no vocab.json; `internvla-a1 weights pull` puts the tokenizer into <weights>/tokenizer, "
        "or copy it there from Qwen/Qwen3-VL-2B-Instruct (3B) or OpenGVLab/InternVL3-1B-hf (2B)"
    )


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


def _fast(folder: Path, settings: dict[str, Any]) -> TextTokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError("tokenizers", "the text tokenizer", "pip install tokenizers") from error
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises bare Exception
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
    tokenizer.encode_special_tokens = True  # "<|image_pad|>" in an instruction is text, not an image
    tokenizer.no_padding()
    tokenizer.no_truncation()
    stated = settings.get("pad_token")
    stated = stated.get("content") if isinstance(stated, dict) else stated
    names = [stated] if isinstance(stated, str) else PAD_CANDIDATES
    pad_id = next((i for i in map(tokenizer.token_to_id, names) if i is not None), None)
    if pad_id is None:
        raise CheckpointError(f"{path}: no padding token; looked for {', '.join(names)}")
    return TextTokenizer(lambda text: list(tokenizer.encode(text).ids), pad_id, tokenizer.get_vocab_size())


def _slow(folder: Path) -> TextTokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError("transformers", "a tokenizer without tokenizer.json", "pip install transformers") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # many kinds, all about the files
        raise CheckpointError(f"{folder}: transformers cannot read the tokenizer: {error}") from error
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"{folder}: the tokenizer has no padding token")

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, split_special_tokens=True)["input_ids"])

    return TextTokenizer(encode, int(tokenizer.pad_token_id), len(tokenizer))
