"""`internvla-a1 verify vectors DIR`: compare the model with reference vectors, output by output."""

from __future__ import annotations

import argparse
import importlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from internvla_a1.core.errors import DataError, InternVLAError
from internvla_a1.model.loading import load_codec, load_model
from internvla_a1.model.network import InternVLAA1
from internvla_a1.model.replay import replay, valid_rows

TOLERANCE = 1e-4
ACTION_TOLERANCE = 5e-5
POLICY_FOLDERS = {"transforms", "image_processor"}  # checked by policy.vectors
VALID_ROWS = {"und.out": "prefix", "train.und_out": "prefix", "gen.out": "middle", "train.gen_out": "middle"}
VALID_VIEWS = {"gen.pred_latents", "train.pred_latents", "gen.recon_images"}


@dataclass(frozen=True)
class Comparison:
    """Largest absolute error of one output; `note` says why it could not be compared."""

    case: str
    output: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


def read_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(str(path), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; infinite for another shape or a NaN."""
    if found.shape != expected.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    error = float((found.double() - expected.double()).abs().max())
    return math.inf if math.isnan(error) else error


def compared_part(name: str, value: Tensor, rows: dict[str, Tensor]) -> Tensor:
    """Only rows and views that exist: the rest is computed from nothing (golden README)."""
    if name in VALID_ROWS:
        return value[rows[VALID_ROWS[name]]]
    if name in VALID_VIEWS:
        views = rows["views"]
        return value[views[0]] if name == "gen.recon_images" else value[views]
    if name.startswith("cache.layer"):
        return value.transpose(1, 2)[torch.cat([rows["prefix"], rows["middle"]], dim=1)]
    return value


def compare_case(model: InternVLAA1, name: str, case: dict[str, Tensor], expected: dict[str, Tensor]) -> list[Comparison]:
    """Every output that `expected` holds, as this model makes it from the inputs `case`."""
    steps = len(expected["act.time_steps"]) if "act.time_steps" in expected else model.config.steps
    found = replay(model, case, steps, expected.get("probe.time"))
    rows = valid_rows(model, case)
    results = []
    for output, value in expected.items():
        tolerance = ACTION_TOLERANCE if output == "actions" else TOLERANCE
        if output not in found:
            results.append(Comparison(name, output, math.inf, tolerance, "not produced"))
            continue
        error = difference(compared_part(output, found[output].float(), rows), compared_part(output, value.float(), rows))
        results.append(Comparison(name, output, error, tolerance))
    return results


def verify_policy(folder: Path, device: str) -> list[Comparison]:
    """Every `<case>.inputs.safetensors` beside the weights of one tiny policy."""
    model = load_model(folder, device, compat="published")
    results = []
    for path in sorted(folder.glob("*.inputs.safetensors")):
        name = path.name.removesuffix(".inputs.safetensors")
        results += compare_case(model, name, read_tensors(path), read_tensors(folder / f"{name}.outputs.safetensors"))
    return results


def verify_codec(folder: Path, device: str) -> list[Comparison]:
    """`tokenizer.safetensors` against `io.safetensors`: wavelets, latents, reconstructions."""
    codec = load_codec(read_tensors(folder / "tokenizer.safetensors"), str(folder)).to(device)
    vectors = {name: value.to(device) for name, value in read_tensors(folder / "io.safetensors").items()}
    results = []
    with torch.no_grad():
        for case in sorted({name.split(".")[0] for name in vectors}):
            image, latent = vectors[f"{case}.image"], vectors[f"{case}.latent"]
            found = {
                "haar": codec.encoder.patcher.split(image),
                "unhaar": codec.decoder.unpatcher.join(vectors[f"{case}.haar"]),
                "latent": codec.encode(image),
                "recon": codec.decode(latent),
            }
            results += [
                Comparison(case, output, difference(value, vectors[f"{case}.{output}"]), TOLERANCE)
                for output, value in found.items()
                if f"{case}.{output}" in vectors
            ]
    return results


def verify_folder(folder: Path, device: str = "cpu") -> dict[str, list[Comparison]]:
    """Results by folder name, for one folder of vectors or for a parent that holds several. DataError if there are none."""
    if (folder / "model.safetensors").is_file():
        return {folder.name: verify_policy(folder, device)}
    if (folder / "tokenizer.safetensors").is_file():
        return {folder.name: verify_codec(folder, device)}
    if folder.name in POLICY_FOLDERS:
        # found by name when asked for: the model itself knows nothing of the policy around it
        errors = importlib.import_module("internvla_a1.policy.vectors").verify(folder)
        return {folder.name: [Comparison("", name, float(error), TOLERANCE) for name, error in errors]}
    results: dict[str, list[Comparison]] = {}
    for child in sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []:
        results |= verify_folder(child, device)
    if not results:
        raise DataError(f"{folder}: no reference vectors (model.safetensors with *.inputs.safetensors, or tokenizer.safetensors)")
    return results


def table(results: dict[str, list[Comparison]]) -> str:
    """The worst case of every output."""
    lines = [f"{'vectors':<16} {'output':<32} {'worst error':>12} {'bound':>8}  case"]
    for folder, comparisons in results.items():
        for output in dict.fromkeys(c.output for c in comparisons):
            worst = max((c for c in comparisons if c.output == output), key=lambda c: c.error)
            verdict = worst.case if worst.passed else f"{worst.case}  FAILED {worst.note}"
            lines.append(f"{folder:<16} {output:<32} {worst.error:>12.2e} {worst.tolerance:>8.0e}  {verdict}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a folder of reference vectors, or a parent that holds several")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; there in full float32, without TF32")


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 if everything is within its bound, 1 if not, 2 if the folder cannot be read."""
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        results = verify_folder(args.folder, args.device)
    except InternVLAError as error:
        print(error)
        return 2
    print(table(results))
    failed = [c for comparisons in results.values() for c in comparisons if not c.passed]
    total = sum(len(c) for c in results.values())
    print(f"{total - len(failed)} of {total} comparisons within bounds")
    return 1 if failed else 0
