#!/usr/bin/env python3
"""Exports a zoo of ranking models and checks each bundle with the server's own loader and engine.

    python3 clients/python/tests/zoo.py --out DIR --gavel target/release/gavel [--only deepctr. dlrm ..]

Models come from torch alone, deepctr-torch, torch-rechub and torchrec; a library that is not installed is skipped with a line. Weights
are random but alive: no layer is near zero, batch norms have statistics, so that a wrong step shows in the outputs.
"""

import argparse
import pathlib
import subprocess
import sys
import time
import traceback

import torch
from zoo_models import ZOO, missing

import gavel


def run(name, out, binary, options):
    build, needs = ZOO[name]
    if missing(needs):
        return "skipped", f"{needs} is not installed", 0.0
    began = time.time()
    try:
        torch.manual_seed(0)
        model, example, more = build()
        report = gavel.export(model, example, out=out / name.replace(".", "_"), overwrite=True, name=name, **more, **options)
    except gavel.ExportError as error:
        return "REFUSED", str(error), time.time() - began
    except Exception:
        return "FAILED", traceback.format_exc(limit=-4), time.time() - began
    spent = time.time() - began
    line = f"{sum(report.ops.values()):4} steps, graph {report.max_difference:.0e}, f32 {report.f32_difference:.0e}"
    if binary:
        done = subprocess.run([binary, "check", str(out / name.replace(".", "_"))], capture_output=True, text=True)
        said = [text for text in (done.stdout + done.stderr).splitlines() if text.strip() and "engine auto" not in text]
        if done.returncode:
            return "CHECK", line + " | " + " ".join(said[-2:])[:300], spent
        line += " | " + (said[-1].strip()[:80] if said else "checked")
    return "ok", line, spent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write the bundles to")
    parser.add_argument("--gavel", help="the server's binary: checks each bundle")
    parser.add_argument("--tables", default="f32", help="how tables are stored")
    parser.add_argument("--only", nargs="*", default=[""], help="starts of names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts = {}
    for name in [name for name in ZOO if any(name.startswith(start) for start in arguments.only)]:
        state, line, spent = run(name, arguments.out, arguments.gavel, {"tables": arguments.tables})
        counts[state] = counts.get(state, 0) + 1
        print(f"{name:28} {state:8} {spent:5.1f} s  {line}", flush=True)
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    return 1 if set(counts) - {"ok", "skipped"} else 0


if __name__ == "__main__":
    sys.exit(main())
