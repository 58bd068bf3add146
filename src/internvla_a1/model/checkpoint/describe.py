"""What is in a weights folder, for people: experts, parameters, dtypes, embodiments, contract, manifest."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from internvla_a1.core.errors import MissingDependencyError
from internvla_a1.model.checkpoint.folder import Checkpoint
from internvla_a1.model.checkpoint.header import ITEM_BYTES

VISION = ("und_expert.model.visual.", "und_expert.model.vision_tower.", "und_expert.model.multi_modal_projector.")
PARTS = ("understanding: vision", "understanding: language", "generation", "action", "image tokenizer", "heads")


@dataclass
class Part:
    """Totals of one part of the model."""

    tensors: int = 0
    parameters: int = 0
    size: int = 0  # bytes
    dtypes: dict[str, int] = field(default_factory=dict)  # dtype -> parameters


def part_of(name: str) -> str:
    """Which part a tensor belongs to, by its published name or ours."""
    if ".cosmos." in name or ".cosmos_tokenizer." in name or name.startswith("codec."):
        return PARTS[4]
    if name.startswith("vision.") or any(v in name for v in VISION):
        return PARTS[0]
    if "und_expert." in name or name.startswith(("mixture.und.", "embed_tokens.")):
        return PARTS[1]
    if "gen_expert." in name or name.startswith("mixture.gen."):
        return PARTS[2]
    if "act_expert." in name or name.startswith("mixture.act."):
        return PARTS[3]
    return PARTS[5]


def totals(checkpoint: Checkpoint) -> dict[str, Part]:
    """Totals of every part, from the headers alone."""
    parts = {name: Part() for name in PARTS}
    for name in checkpoint.tensors:
        entry, part = checkpoint.tensors.entry(name), parts[part_of(name)]
        part.tensors += 1
        part.parameters += entry.count
        part.size += entry.count * ITEM_BYTES[entry.dtype]
        part.dtypes[entry.dtype] = part.dtypes.get(entry.dtype, 0) + entry.count
    return parts


def summary(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything as plain values."""
    manifest, contract = checkpoint.manifest, checkpoint.contract
    return {
        "path": str(checkpoint.path),
        "type": checkpoint.config.get("type"),
        "parts": {name: asdict(part) for name, part in totals(checkpoint).items()},
        "embodiments": {
            robot: {key: _width(value) for key, value in features.items()} if isinstance(features, dict) else {}
            for robot, features in (checkpoint.stats or {}).items()
        },
        "contract": asdict(contract) if contract else None,
        "manifest": {"files": {n: r.size for n, r in manifest.files.items()}, "source": manifest.source} if manifest else None,
        "tokenizer": str(checkpoint.tokenizer_folder) if checkpoint.tokenizer_folder else None,
    }


def _width(value: Any) -> int | None:
    row = value.get("mean", value.get("min")) if isinstance(value, dict) else None
    while isinstance(row, list) and row and isinstance(row[0], list):
        row = row[0]
    return len(row) if isinstance(row, list) else None


def show(checkpoint: Checkpoint, as_json: bool = False) -> None:
    """Print the summary: tables, or JSON."""
    facts = summary(checkpoint)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError as error:
        raise MissingDependencyError("rich", "weights inspect", "pip install rich (or use --json)") from error
    console = Console()
    table = Table(title=f"{facts['path']} ({facts['type']})", title_justify="left")
    for heading, side in (("part", "left"), ("tensors", "right"), ("parameters", "right"), ("MB", "right"), ("dtypes", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    parts = totals(checkpoint)
    parts["total"] = Part(*(sum(getattr(p, k) for p in parts.values()) for k in ("tensors", "parameters", "size")))
    for name, part in parts.items():
        dtypes = ", ".join(f"{dtype} {count:,}" if len(part.dtypes) > 1 else dtype for dtype, count in part.dtypes.items())
        table.add_row(name, f"{part.tensors}", f"{part.parameters:,}", f"{part.size / 1e6:,.1f}", dtypes, end_section=name == PARTS[-1])
    console.print(table)
    robots = Table(title="embodiments with statistics", title_justify="left")
    robots.add_column("robot type")
    robots.add_column("features (values)")
    for robot, features in facts["embodiments"].items():
        robots.add_row(robot, ", ".join(f"{key} ({width})" for key, width in features.items()))
    console.print(robots if facts["embodiments"] else "no statistics (stats.json)")
    contract = facts["contract"]
    if contract:
        joints = " ".join(f"{n}{'' if d else ' (absolute)'}" for n, d in zip(contract["joint_names"], contract["delta"], strict=True))
        views = ", ".join(f"{slot} = {name}" for slot, name in contract["views"].items())
        console.print(f"contract: {contract['embodiment']}, steps of {contract['control_dt_s']:.4g} s, joints {joints}; views {views}")
    else:
        console.print("contract: none; the robot file is compared with the table of robot types and the shapes in config.json")
    manifest = facts["manifest"]
    console.print(f"manifest: {len(manifest['files'])} files, {manifest['source'] or 'no source noted'}" if manifest else "manifest: none")
    console.print(f"text tokenizer: {facts['tokenizer'] or 'none'}")
