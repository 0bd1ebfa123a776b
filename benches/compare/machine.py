"""The machine: what it is, what it can do at most, and the floors that follow for a model."""

import os
import platform
import time
from pathlib import Path

import numpy as np

MIB = 1 << 20


def describe():
    """Name and sizes, for the head of a result."""
    info = Path("/proc/cpuinfo").read_text()
    field = lambda name: next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith(name)), "unknown")
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        read = lambda name: (index / name).read_text().strip()
        if read("type") != "Instruction":
            caches[f"L{read('level')}"] = read("size")
    return dict(
        cpu=field("model name"),
        family=f"family {field('cpu family')} model {field('model')}",
        cpus=os.cpu_count(),
        caches=caches,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        kernel=platform.release(),
        huge_pages=Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().strip(),
        python=platform.python_version(),
    )


def ceilings(gavel, models, quick):
    """Measured on the pinned core: multiply-adds, reads of cache and weight sizes, rows out of tables of the models' sizes, sgemm."""
    reads = sorted({512 << 10, 8 * MIB, 512 * MIB if not quick else 64 * MIB, *(whole(model.weight_bytes) for model in models)})
    gather = [[model.table_bytes // model.row_bytes * model.row_bytes, model.row_bytes] for model in models]
    found = gavel.ask(do="ceilings", ms=10 if quick else 60, rounds=3 if quick else 7, read_bytes=reads, gather=gather)
    found["sgemm"] = sgemm(1024 if quick else 2048)
    return found


def whole(count):
    """Bytes in whole turns of the reading loop."""
    return count // 512 * 512


def sgemm(n):
    """GFLOP/s of numpy's sgemm at n^3, by CPU time: what a library makes of a large square product."""
    a, b = np.ones((n, n), np.float32), np.ones((n, n), np.float32)
    a @ b
    found = []
    for _ in range(5):
        start = time.process_time()
        a @ b
        found.append(2 * n**3 / (time.process_time() - start) / 1e9)
    return dict(n=n, median=float(np.median(found)), best=max(found))


def floor_us(model, batch, found):
    """Microseconds a batch cannot do without: arithmetic at the rate of a good sgemm, or the weights read once, and the tables' rows."""
    read = next(entry for entry in found["read"] if entry["bytes"] == whole(model.weight_bytes))
    rows = next(entry for entry in found["gather"] if entry["row_bytes"] == model.row_bytes and entry["table_bytes"] == model.table_bytes)
    arithmetic = 2 * model.macs * batch / sgemm_rate(found) / 1e3
    weights = model.weight_bytes / read["median"] / 1e3
    gather = model.ids * batch / rows["median"]
    return dict(floor=max(arithmetic, weights) + gather, arithmetic=arithmetic, weights=weights, gather=gather)


def sgemm_rate(found):
    """numpy's, or GOOD_SGEMM of the FMA peak where that is more: numpy's library knows no AVX-512 kernels for some CPUs."""
    peak = max((rate["median"] for name, rate in found["multiply_adds"].items() if name.startswith("f32")), default=0)
    return max(found["sgemm"]["median"], GOOD_SGEMM * peak)


# Of the FMA peak, a well-tuned sgemm of 4096^3 (MKL on an Intel CPU of 2023: 165 of 178 GFLOP/s).
GOOD_SGEMM = 0.93


def lines(machine, found):
    """For people."""
    out = [f"{machine['cpu']} ({machine['family']}), {machine['cpus']} CPUs, caches {machine['caches']}, {machine['memory_gib']} GiB, Linux {machine['kernel']}"]
    out.append(f"huge pages {machine['huge_pages']}, Python {machine['python']}")
    out.append("")
    out.append("ceilings of one core, per second of CPU time: median (best)")
    for name, rate in found["multiply_adds"].items():
        out.append(f"  {name:<34} {rate['median']:>8.0f} ({rate['best']:.0f}) Gop/s")
    sg = found["sgemm"]
    out.append(f"  {'sgemm ' + str(sg['n']) + ' (numpy)':<34} {sg['median']:>8.0f} ({sg['best']:.0f}) GFLOP/s")
    out.append(f"  {'floors below take sgemm as':<34} {sgemm_rate(found):>8.0f} GFLOP/s")
    for rate in found["read"]:
        out.append(f"  {'read ' + size(rate['bytes']) + ' again and again':<34} {rate['median']:>8.1f} ({rate['best']:.1f}) GB/s")
    for rate in found["gather"]:
        name = f"rows of {rate['row_bytes']} B out of {size(rate['table_bytes'])}"
        out.append(f"  {name:<34} {rate['median']:>8.1f} ({rate['best']:.1f}) million/s")
    return out


def size(count):
    return f"{count / MIB:.1f} MiB" if count < 100 * MIB else f"{count / MIB:.0f} MiB"
