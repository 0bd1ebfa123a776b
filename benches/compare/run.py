"""The parts of a run: engines side by side (on synthetic models or a user's), hoisting against not, two threads against one."""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import machine
from contestants import Failed, Gavel, OpenVino, Ort, overhead
from own import OwnModel
from quantised import quantised
from rounds import Watch, best_of, interleave, rates, ratio, spread
from workload import Model, sets_of

# Largest difference of probabilities that two f32 engines may have.
AGREE = 1e-5
# The same for a user's model, whose scores may be of any size.
AGREE_OWN = 1e-4


def everything(args, built, cpus, allowed):
    """All parts that were asked for. Gives the text for people and the data."""
    run = Run(args, built, cpus, allowed)
    try:
        run.machine()
        for part in ["own"] if args.onnx else args.parts:
            try:
                getattr(run, part)()
            except Failed as failed:
                # The other parts' figures stand.
                run.data["faults"].append(f"{part}: {failed}")
                run.say(f"{part}: {failed}", "")
    finally:
        run.gavel.close()
    return "\n".join(run.text), run.data


class Run:
    def __init__(self, args, built, cpus, allowed):
        self.args, self.cpus, self.allowed, self.binary = args, cpus, allowed, built["gavel"]
        self.gavel = Gavel(built["compare"])
        self.pids = [os.getpid(), self.gavel.process.pid]
        self.text, self.data = [], dict(faults=[], arguments={k: str(v) for k, v in vars(args).items() if k not in ("work", "out")})
        target = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).resolve().parents[2] / "target"))
        self.work = args.work or target / "compare"
        # With several threads a runtime's threads wait busily for each other: their CPU time says nothing.
        self.clock = "cpu" if args.threads == 1 else "wall"

    def say(self, *lines):
        self.text.extend(lines)
        for line in lines:
            print(line, flush=True)

    def model(self, name, context="none"):
        """Made once, then found again."""
        cap = self.args.rows_cap
        folder = self.work / f"{name}-rows{SELFTEST_ROWS}-cap{cap or 'usual'}-seed{self.args.seed}-{context}"
        fused = name == "dlrm-kaggle"
        model = lambda: Model(name, folder / "bundle", folder / "model.onnx", folder / "fused.onnx" if fused else None)
        if not (folder / "whole").exists():
            folder.mkdir(parents=True, exist_ok=True)
            command = [self.binary, "synth", name, "--seed", str(self.args.seed), "--context", context, "--selftest-rows", str(SELFTEST_ROWS)]
            command += ["--out", str(folder / "bundle"), "--onnx", str(folder / "model.onnx")]
            command += ["--onnx-fused", str(folder / "fused.onnx")] if fused else []
            command += ["--rows-cap", str(cap)] if cap else []
            if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
                raise SystemExit(f"compare: {' '.join(command)} failed; if a run was cut off, remove {folder}")
            (folder / "whole").touch()
        return model()

    def machine(self):
        about = machine.describe()
        models = [] if self.args.onnx else [self.model(name) for name in self.args.models]
        self.found = machine.ceilings(self.gavel, models, self.args.quick)
        with tempfile.TemporaryDirectory() as folder:
            self.overhead = overhead(folder, self.args.threads)
        words = [word for word in re.findall(r"[a-z0-9]+", about["cpu"].lower()) if word not in ("amd", "intel", "r", "tm", "cpu", "processor", "core")]
        self.data.update(machine=about, machine_tag=f"{'-'.join(words)}-{about['cpus']}vcpu", ceilings=self.found, overhead_us=self.overhead, cpus=self.cpus)
        self.say(f"gavel against other engines, {time.strftime('%Y-%m-%d %H:%M')}, {self.versions()}", "", *machine.lines(about, self.found))
        calls = ", ".join(f"{name} {us:.1f} µs" for name, us in self.overhead.items())
        self.say(f"  a call from Python for a model that does nothing: {calls} (part of the peers' times below)", "")

    def versions(self):
        import onnxruntime
        import openvino

        self.data["versions"] = dict(onnxruntime=onnxruntime.__version__, openvino=openvino.__version__)
        return f"onnxruntime {onnxruntime.__version__}, openvino {openvino.__version__.split('-')[0]}"

    def moment(self, model):
        """What the machine does right now: the FMA rate of the best instruction set, and reading a buffer of the weights' size."""
        peak = max((rate for name, rate in self.gavel.ask(do="peak", ms=8).items() if name.startswith("f32")), default=0)
        return dict(peak=peak, read=self.gavel.ask(do="read", bytes=machine.whole(model.weight_bytes), ms=8)["rate"])

    def engines(self):
        """gavel, and the fastest way to run each peer, for every model and batch."""
        self.data["engines"] = []
        for name in self.args.models:
            model = self.model(name)
            cost = f"{model.macs / 1e6:.2f} million multiply-adds a row, weights {machine.size(model.weight_bytes)}, "
            self.side_by_side(model, cost + f"tables {machine.size(model.table_bytes)}, {model.ids} ids a row; ")

    def own(self):
        """The same for the user's ONNX files: no floors, a file's cost is not counted here."""
        self.data["engines"] = []
        with tempfile.TemporaryDirectory(prefix="gavel-compare-") as folder:
            for at, onnx in enumerate(self.args.onnx):
                try:
                    self.side_by_side(OwnModel(self.binary, onnx, self.args.rows, Path(folder) / str(at)), "")
                except Failed as failed:
                    self.data["faults"].append(str(failed))
                    self.say(str(failed), "")

    def side_by_side(self, model, cost):
        args = self.args
        loaded, about = self.gavel.load(model, args.precision)
        base = self.gavel.load(model)[0] if args.precision != "f32" else None
        self.data.setdefault("gavel", about)
        calibration = model.inputs(64, 8, seed=77)
        self.say(
            f"{model.name}, {args.precision}, {args.threads} thread(s): {cost}gavel's steps {about['steps']}"
            + (f"; {about['precision']}" if "precision" in about else "")
        )
        rows = []
        for batch in args.batches:
            entry = self.point(model, loaded, base, batch, calibration)
            self.data["engines"].append(entry)
            rows.append(entry)
        self.engine_table(rows)

    def point(self, model, loaded, base, batch, calibration):
        args = self.args
        inputs = model.inputs(batch, sets_of(batch))
        cpus = self.cpus[: args.threads]
        contestants = [self.gavel.runner(loaded, model, inputs, batch, cpus)]
        if base:
            contestants.append(self.gavel.runner(base, model, inputs, batch, cpus, "gavel-f32"))
        variants = self.variants(model, inputs, batch, calibration)
        for of_peer in variants.values():
            plain = of_peer[0]
            best = best_of(of_peer, self.clock)
            # The model as it is written stays for reference where another way to run it is faster.
            contestants += [best] if best is plain else [best, plain]
        sets = min(len(inputs), max(4, 2048 // batch))
        ours = contestants[0].scores(sets)
        differences = {other.label: float(np.abs(other.scores(sets) - ours).max()) for other in contestants[1:]}
        counted = hasattr(model, "macs")
        before = lambda contestant: self.moment(model) if counted and contestant is contestants[0] else None
        with Watch(cpus, self.pids) as watch:
            found = interleave(contestants, args.rounds, args.ms, 2, before)
        for contestant in contestants:
            contestant.close()
        own = found["gavel"]
        entry = dict(model=model.name, batch=batch, threads=args.threads, precision=args.precision, foreign=watch.foreign, rounds=found)
        entry["differences"] = differences
        for clock in ("wall", "cpu"):
            entry[clock] = {contestant.label: rates(found, contestant.label, clock) for contestant in contestants}
            entry[f"{clock}_ratio"] = {other.label: ratio(found, "gavel", other.label, clock) for other in contestants[1:]}
        entry["copy_us"] = float(np.median([one["copy_us"] for one in own]))
        entry["us"] = batch / (entry[self.clock]["gavel"]["median"] / args.threads) * 1e6
        if counted:
            self.count(entry, model, own)
        if args.precision == "f32":
            for label, difference in differences.items():
                if not difference <= (AGREE if counted else AGREE_OWN):
                    self.data["faults"].append(f"{model.name}, batch {batch}: gavel and {label} differ by {difference:.1e}")
        return entry

    def count(self, entry, model, own):
        """What the machine allows, and how much of it was reached."""
        args, batch = self.args, entry["batch"]
        if all(one["before"]["peak"] for one in own):
            entry["of_peak"] = spread([one["cpu"] * 2 * model.macs / 1e9 / one["before"]["peak"] / args.threads for one in own])
        weights_s = [model.weight_bytes / one["before"]["read"] / 1e9 for one in own]
        entry["of_weights"] = spread([batch / (one["cpu"] / args.threads) / weights for one, weights in zip(own, weights_s)])
        entry["floor_us"] = machine.floor_us(model, batch, self.found)
        entry["of_floor"] = entry["us"] / entry["floor_us"]["floor"]

    def variants(self, model, inputs, batch, calibration):
        """Ways to run each peer."""
        args, threads = self.args, self.args.threads
        files = [("", model.onnx)] + ([("-fused", model.onnx_fused)] if model.onnx_fused else [])
        if args.precision == "int8":
            files = [(f"{suffix}-{way}", path) for suffix, onnx in files for way, path in quantised(model, onnx, onnx.parent, calibration).items()]
        found = {}
        if "onnxruntime" in args.peers:
            found["onnxruntime"] = [lambda label=f"ort{suffix}", onnx=onnx: Ort(label, onnx, model, inputs, batch, threads) for suffix, onnx in files]
        if "openvino" in args.peers:
            ways = [(f"openvino{suffix}{'-fixed' if fixed else ''}", onnx, fixed) for suffix, onnx in files if "dynamic" not in suffix for fixed in (False, True)]
            found["openvino"] = [lambda way=way: OpenVino(way[0], way[1], model, inputs, batch, threads, way[2]) for way in ways]
        return {peer: made for peer, ways in found.items() if (made := self.loaded(ways))}

    def loaded(self, ways):
        """Those that the peer runs at all: it need not know every op of a user's file."""
        made = []
        for way in ways:
            try:
                made.append(way())
            except Failed as failed:
                if not self.args.onnx:
                    raise
                self.say(f"  left out: {failed}")
        return made

    def engine_table(self, rows):
        clock = self.clock
        self.say("", f"  rates by {'CPU time' if clock == 'cpu' else 'wall time'}; ratios are gavel over the other within a round: median [quartiles]; (wall: ..) by wall time")
        for row in rows:
            head = f"  batch {row['batch']:>4}: gavel {row[clock]['gavel']['median']:>9,.0f} rows/s, {row['us']:,.1f} µs a batch + {row['copy_us']:.1f} µs to check and copy in; "
            if "of_floor" in row:
                head += f"{share(row)}{row['of_floor']:.2f} x floor, {row['of_weights']['median']:.2f} x reading the weights; "
            head += f"foreign load {row['foreign']:.2f}"
            self.say(head)
            for label, against in row[f"{clock}_ratio"].items():
                wall = row["wall_ratio"][label]
                self.say(
                    f"      {against['median']:.2f} x {label:<24} [{against['low']:.2f} .. {against['high']:.2f}]  (wall: {wall['median']:.2f})  "
                    f"{row[clock][label]['median']:>9,.0f} rows/s, scores differ by at most {row['differences'][label]:.1e}"
                )
        self.say("")

    def hoisting(self):
        """Requests of 64 candidates with half of the features in the context: the plan as it is served, against the same plan with everything computed
        once a candidate; and against the model whose every feature travels with every row."""
        self.data["hoisting"] = []
        for name in self.args.models:
            half, none = self.model(name, "half"), self.model(name)
            inputs = half.inputs(CANDIDATES, sets_of(CANDIDATES))
            ways = {"hoisted": (half, True), "unhoisted": (half, False), "no context": (none, True)}
            runners = []
            for label, (model, hoist) in ways.items():
                loaded = self.gavel.load(model, self.args.precision, hoist)[0]
                runners.append(self.gavel.runner(loaded, model, inputs, CANDIDATES, self.cpus[:1], label))
            sets = min(64, len(inputs))
            scores = [runner.scores(sets) for runner in runners]
            difference = max(float(np.abs(scores[0] - other).max()) for other in scores[1:])
            with Watch(self.cpus[:1], self.pids) as watch:
                found = interleave(runners, self.args.rounds, self.args.ms, 2)
            for runner in runners:
                runner.close()
            entry = dict(model=name, candidates=CANDIDATES, difference=difference, foreign=watch.foreign, rounds=found)
            for clock in ("wall", "cpu"):
                entry[clock] = {label: rates(found, label, clock) for label in ways}
                entry[f"{clock}_ratio"] = ratio(found, "hoisted", "unhoisted", clock)
                entry[f"{clock}_ratio_no_context"] = ratio(found, "hoisted", "no context", clock)
            self.data["hoisting"].append(entry)
            if self.args.precision == "f32" and not difference <= AGREE:
                self.data["faults"].append(f"{name}: hoisted and unhoisted scores differ by {difference:.1e}")
            by_cpu, by_wall, apart = entry["cpu_ratio"], entry["wall_ratio"], entry["cpu_ratio_no_context"]
            self.say(
                f"hoisting, {name}, half of the features are the context's, {CANDIDATES} candidates: {by_cpu['median']:.2f} x "
                f"[{by_cpu['low']:.2f} .. {by_cpu['high']:.2f}] the same plan unhoisted (wall: {by_wall['median']:.2f}), {apart['median']:.2f} x the model without a context; "
                f"{entry['cpu']['hoisted']['median']:,.0f} rows/s, scores differ by at most {difference:.1e}"
            )
        self.say("")

    def threads(self):
        """Two engines on two CPUs, independent requests, against one."""
        cpus = (self.cpus if len(self.cpus) > 1 else self.allowed)[-2:]
        if len(cpus) < 2:
            self.say("two threads against one: this process may use one CPU only", "")
            return
        self.data["threads"] = []
        for name in self.args.models:
            model = self.model(name)
            loaded = self.gavel.load(model, self.args.precision)[0]
            inputs = model.inputs(CANDIDATES, sets_of(CANDIDATES))
            one = self.gavel.runner(loaded, model, inputs, CANDIDATES, cpus[-1:], "one")
            two = self.gavel.runner(loaded, model, inputs, CANDIDATES, cpus, "two")
            with Watch(cpus, self.pids) as watch:
                found = interleave([one, two], self.args.rounds, self.args.ms, 2)
            one.close(), two.close()
            entry = dict(model=name, batch=CANDIDATES, foreign=watch.foreign, rounds=found)
            for clock in ("wall", "cpu"):
                entry[f"{clock}_ratio"] = ratio(found, "two", "one", clock)
            self.data["threads"].append(entry)
            by_cpu, by_wall = entry["cpu_ratio"], entry["wall_ratio"]
            self.say(
                f"two threads against one, {name}, batch {CANDIDATES}: {by_cpu['median']:.2f} x [{by_cpu['low']:.2f} .. {by_cpu['high']:.2f}] by CPU time, "
                f"{by_wall['median']:.2f} x [{by_wall['low']:.2f} .. {by_wall['high']:.2f}] by wall time; foreign load {watch.foreign:.2f} of 2 CPUs"
            )
        self.say("")


def share(row):
    peak = row.get("of_peak")
    return f"{100 * peak['median']:.0f} % of FMA peak [{100 * peak['low']:.0f} .. {100 * peak['high']:.0f}], " if peak else ""


# Rows that a reduced precision is measured on.
SELFTEST_ROWS = 128

# Candidates of a request in the parts about hoisting and threads.
CANDIDATES = 64
