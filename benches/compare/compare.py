#!/usr/bin/env python3
"""gavel's CPU engine against ONNX Runtime and OpenVINO: same synthetic models, same rows, same core, interleaved in one run.

    python benches/compare/compare.py            everything, results to benches/results/
    python benches/compare/compare.py --quick    a small run that checks agreement and prints rough figures
    python benches/compare/compare.py --onnx MODEL.onnx[,MODEL.onnx]     your models instead
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = lambda kind: lambda text: [kind(part) for part in text.split(",")]
    parser.add_argument("--models", type=listed(str), default=["dlrm-kaggle", "dlrm-dcnv2"])
    parser.add_argument("--onnx", type=listed(Path), default=[], help="ONNX files to run instead of the synthetic models (prints only)")
    parser.add_argument("--rows", type=Path, help="of `gavel import`: inputs to resample (default: made up)")
    parser.add_argument("--batches", type=listed(int), default=[1, 16, 64, 256, 1024])
    parser.add_argument("--parts", type=listed(str), default=["engines", "hoisting", "threads"], help="engines, hoisting, threads (default: all)")
    parser.add_argument("--precision", choices=["f32", "int8", "f16"], default="f32", help="of gavel; with int8 the peers are quantised too")
    parser.add_argument("--threads", type=int, default=1, help="of every engine in part `engines`")
    parser.add_argument("--cpus", type=listed(int), help="CPUs to pin to (default: the last one, the last two for two threads)")
    parser.add_argument("--peers", type=listed(str), default=["onnxruntime", "openvino"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--ms", type=int, default=150, help="of one engine in one round")
    parser.add_argument("--rows-cap", type=int, help="of the synthetic tables")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder for models (default: target/compare)")
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "results", help="folder for results")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--no-build", action="store_true", help="take the binaries that are there")
    parser.add_argument("--quick", action="store_true", help="small tables, few batches, short rounds: for CI")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.ms, args.no_write = min(args.rounds, 5), min(args.ms, 30), True
        args.batches = [batch for batch in args.batches if batch <= 64]
        args.rows_cap = args.rows_cap or 2000
    if args.rows and len(args.onnx) != 1:
        parser.error("--rows: goes with one file of --onnx")
    args.no_write = args.no_write or bool(args.onnx)
    if args.rounds < 5:
        parser.error("--rounds: at least 5, for medians with a spread")
    unknown = set(args.parts) - {"engines", "hoisting", "threads"}
    if unknown:
        parser.error(f"--parts: {', '.join(sorted(unknown))} is none of engines, hoisting, threads")
    return args


def cargo(*more):
    """Builds, and gives the executables by target name."""
    command = ["cargo", "build", "--release", "--message-format", "json-render-diagnostics", *more]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("compare: the build failed")
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {m["target"]["name"]: m["executable"] for m in messages if m.get("reason") == "compiler-artifact" and m.get("executable")}


def binaries(no_build):
    """`gavel` and the bench's child."""
    if not no_build:
        return cargo("--bin", "gavel", "--bench", "compare")
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    benches = [path for path in (target / "deps").glob("compare-*") if path.suffix == "" and os.access(path, os.X_OK)]
    if not benches or not (target / "gavel").exists():
        sys.exit(f"compare: nothing built in {target}; leave --no-build out")
    return dict(gavel=str(target / "gavel"), compare=str(max(benches, key=lambda path: path.stat().st_mtime)))


def main():
    args = arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    built = binaries(args.no_build)
    cpus = args.cpus or sorted(os.sched_getaffinity(0))[-max(args.threads, 1) :]
    if len(cpus) < args.threads:
        sys.exit(f"compare: {args.threads} threads need as many CPUs, --cpus names {len(cpus)}")
    allowed = sorted(os.sched_getaffinity(0))
    # Before the runtimes are loaded, so that their threads inherit it.
    os.sched_setaffinity(0, cpus[: args.threads])

    import run

    text, data = run.everything(args, built, cpus, allowed)
    if not args.no_write:
        args.out.mkdir(parents=True, exist_ok=True)
        parts = [datetime.date.today().isoformat(), data["machine_tag"], "compare"]
        parts += [args.precision] if args.precision != "f32" else []
        parts += [f"{args.threads}threads"] if args.threads != 1 else []
        stem = args.out / "-".join(parts)
        stem.with_suffix(".txt").write_text(text + "\n")
        stem.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
        print(f"\nwritten: {stem}.txt, {stem}.json")
    if data["faults"]:
        sys.exit("compare: " + "; ".join(data["faults"]))


if __name__ == "__main__":
    main()
