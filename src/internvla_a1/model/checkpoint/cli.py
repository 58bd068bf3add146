"""`internvla-a1 weights pull | inspect | verify | convert`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from internvla_a1.core.errors import CheckpointError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.model.checkpoint.convert import TYPES, contract_for, convert
from internvla_a1.model.checkpoint.describe import show
from internvla_a1.model.checkpoint.folder import open_checkpoint
from internvla_a1.model.checkpoint.pull import HuggingFaceHub, pull


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Four verbs, each with its own --help."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    get = verbs.add_parser("pull", help="fetch a published checkpoint from the hub; run again to resume")
    get.add_argument("repo", help="hub id, OWNER/NAME")
    get.add_argument("--out", type=Path, help="folder to put it into (default: model_weights/NAME)")
    get.add_argument("--revision", help="branch, tag or commit (default: the main branch)")
    get.add_argument("--tokenizer", help="hub id of the text tokenizer if the checkpoint brings none; 'none' leaves it out")
    get.add_argument("--endpoint", help="another server with the hub's interface")
    look = verbs.add_parser("inspect", help="experts, parameters, dtypes, embodiments, contract")
    look.add_argument("folder", type=Path)
    look.add_argument("--json", action="store_true", help="print JSON instead of tables")
    check = verbs.add_parser("verify", help="read every byte and compare it with the manifest")
    check.add_argument("folder", type=Path)
    check.add_argument("--require-manifest", action="store_true", help="refuse a folder without manifest.json")
    change = verbs.add_parser("convert", help="write our manifest; with --out also a copy in another dtype")
    change.add_argument("folder", type=Path)
    change.add_argument("--out", type=Path, help="new folder (default: write the manifest in place)")
    change.add_argument("--dtype", choices=sorted(TYPES), help="stored type of the matrices; norms and biases keep theirs")
    change.add_argument("--robot", help="robot file whose joints, cameras and delta flags become the contract")
    change.add_argument("--normalization", choices=("mean_std", "min_max"), default="mean_std")


def run(args: argparse.Namespace) -> int:
    """Exit code: 0 done, 1 the weights are refused."""
    verbs = {"pull": _pull, "inspect": _inspect, "verify": _verify, "convert": _convert}
    return verbs[args.verb](args)


def _pull(args: argparse.Namespace) -> int:
    out = args.out or Path("model_weights") / args.repo.split("/")[-1]
    manifest = pull(HuggingFaceHub(args.endpoint), args.repo, out, args.revision, args.tokenizer)
    print(f"{out}: {len(manifest.files)} files, {sum(f.size for f in manifest.files.values()) / 1e6:,.1f} MB, manifest written")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    show(open_checkpoint(args.folder, verify=False), args.json)
    return 0


def _verify(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    try:
        checkpoint = open_checkpoint(args.folder, verify=True, remember=False)
        if checkpoint.manifest is None and args.require_manifest:
            raise CheckpointError(f"{args.folder}: no manifest.json; `internvla-a1 weights convert` writes one")
    except CheckpointError as error:
        print(f"refused: {error}")
        return 1
    took = f"{len(checkpoint.tensors)} tensors in {time.perf_counter() - started:.1f} s"
    if checkpoint.manifest is None:
        print(f"{args.folder}: structure sound and all values finite ({took}); no manifest, so damage cannot be excluded")
    else:
        print(f"{args.folder}: every byte is as the manifest says ({took})")
    return 0


def _convert(args: argparse.Namespace) -> int:
    contract = contract_for(load_robot(find(args.robot)), args.normalization) if args.robot else None
    manifest = convert(args.folder, args.out, args.dtype, contract)
    print(f"{args.out or args.folder}: manifest of {len(manifest.files)} files and {len(manifest.tensors)} tensors written")
    return 0
