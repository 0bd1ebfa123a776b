"""Engines behind one face: `scores(sets)` once for the agreement, `round(ms, calls)` for the clock.

A round gives samples per second of wall time and of CPU time. Python's share of a call is kept small: ONNX Runtime runs prepared bindings, OpenVINO
prepared tensors, so a call is one or three calls into the library; `overhead` measures what is left of it.
"""

import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np


class Failed(Exception):
    """A contestant cannot run; the text says why."""


class Gavel:
    """The child process that runs gavel's engine through the library."""

    def __init__(self, binary):
        self.process = subprocess.Popen([binary, "--child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.files = tempfile.TemporaryDirectory(prefix="gavel-compare-")
        self.runners = 0

    def ask(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"the engine's process ended with {self.process.wait()} at {command}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{command['do']}: {answer['error']}")
        return answer

    def load(self, model, precision="f32", hoist=True):
        name = f"{model.bundle}:{precision}:{hoist}"
        return name, self.ask(do="load", model=name, bundle=str(model.bundle), precision=precision, hoist=hoist)

    def runner(self, loaded, model, inputs, batch, cpus, label="gavel"):
        self.runners += 1
        file = Path(self.files.name) / f"inputs-{self.runners}"
        model.pack(inputs, file)
        name = f"r{self.runners}"
        self.ask(do="open", runner=name, model=loaded, batch=batch, sets=len(inputs), inputs=str(file), cpus=cpus)
        file.unlink()
        return GavelRunner(self, name, batch, label)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.files.cleanup()


class GavelRunner:
    def __init__(self, gavel, name, batch, label):
        self.gavel, self.name, self.batch, self.label = gavel, name, batch, label

    def scores(self, sets):
        out = Path(self.gavel.files.name) / "scores"
        self.gavel.ask(do="score", runner=self.name, sets=sets, out=str(out))
        # Of the first output; a row's outputs lie side by side.
        return np.fromfile(out, np.float32).reshape(sets, self.batch, -1)[:, :, 0]

    def round(self, ms, calls):
        threads = self.gavel.ask(do="round", runner=self.name, ms=ms, calls=calls)["threads"]
        rate = lambda clock: sum(t["calls"] * self.batch / (t[clock] / 1e9) for t in threads)
        calls_made = sum(t["calls"] for t in threads)
        return dict(
            wall=rate("wall_ns"),
            cpu=rate("cpu_ns"),
            calls=calls_made,
            copy_us=sum(t["copy_cpu_ns"] for t in threads) / calls_made / 1e3,
            p50_us=float(np.median([t["median_ns"] for t in threads])) / 1e3,
        )

    def close(self):
        self.gavel.ask(do="close", runner=self.name)


class Peer:
    """A runtime in this process: `call(j)` computes input set j, `result(j)` gives its scores."""

    def __init__(self, label, batch, sets):
        self.label, self.batch, self.sets, self.next = label, batch, sets, 0

    def scores(self, sets):
        return np.stack([np.array(self.result(j)) for j in range(sets)])

    def round(self, ms, calls):
        clock, until = time.perf_counter, time.perf_counter() + ms / 1e3
        lengths, cpu, begun = [], time.process_time(), clock()
        while len(lengths) < calls or clock() < until:
            start = clock()
            self.call(self.next % self.sets)
            lengths.append(clock() - start)
            self.next += 1
        cpu, wall = time.process_time() - cpu, sum(lengths)
        rows = len(lengths) * self.batch
        return dict(wall=rows / wall, cpu=rows / cpu, calls=len(lengths), p50_us=float(np.median(lengths)) * 1e6)

    def close(self):
        pass


class Ort(Peer):
    """All graph optimisations, `threads` intra-op threads, the batch size told as a constant, inputs and output bound beforehand."""

    def __init__(self, label, onnx, model, inputs, batch, threads):
        import onnxruntime as ort

        super().__init__(label, batch, len(inputs))
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        for name in free_dimensions(onnx):
            options.add_free_dimension_override_by_name(name, batch)
        try:
            self.session = ort.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
            out = self.session.run([model.served], inputs[0])[0]
        except Exception as error:
            raise Failed(f"{label}: {first_line(error)}") from error
        if not isinstance(out, np.ndarray) or out.dtype.kind != "f":
            raise Failed(f"{label}: output {model.served!r} is no tensor of floats (of trees: convert with zipmap=False)")
        self.out = ort.OrtValue.ortvalue_from_numpy(np.zeros_like(out))
        self.bindings, self.inputs, self.read = [], inputs, model.scores
        for one in inputs:
            binding = self.session.io_binding()
            for name, value in one.items():
                binding.bind_cpu_input(name, value)
            binding.bind_ortvalue_output(model.served, self.out)
            self.bindings.append(binding)

    def call(self, j):
        self.session.run_with_iobinding(self.bindings[j])

    def result(self, j):
        self.call(j)
        return self.read(self.out.numpy())


class OpenVino(Peer):
    """Latency hint, one stream, `threads` threads, told to compute in f32; shapes free, or fixed to the batch."""

    def __init__(self, label, onnx, model, inputs, batch, threads, fixed):
        import openvino as ov

        super().__init__(label, batch, len(inputs))
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        try:
            core = ov.Core()
            read = core.read_model(str(onnx))
            if fixed:
                read.reshape({name: list(value.shape) for name, value in inputs[0].items()})
            self.request = core.compile_model(read, "CPU", settings).create_infer_request()
        except Exception as error:
            raise Failed(f"{label}: {first_line(error)}") from error
        self.tensors = [[(name, ov.Tensor(value, shared_memory=True)) for name, value in one.items()] for one in inputs]
        self.inputs, self.read, self.output = inputs, model.scores, model.served

    def call(self, j):
        for name, tensor in self.tensors[j]:
            self.request.set_tensor(name, tensor)
        self.request.start_async()
        self.request.wait()

    def result(self, j):
        self.call(j)
        return self.read(self.request.get_tensor(self.output).data)


def free_dimensions(onnx):
    """Names of the sizes that the file's inputs leave open: the batch."""
    import onnx as library

    graph = library.load(str(onnx), load_external_data=False).graph
    return {dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim if dim.dim_param}


def first_line(error):
    """What a runtime's exception says, without the places in its source that some begin with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from ")]
    return (lines or [type(error).__name__])[0][:300]


class Nothing:
    """Of the model that does nothing."""

    served = "prob"
    scores = staticmethod(np.ravel)


def overhead(folder, threads):
    """Microseconds of wall time that a call of each runtime takes for a model that does nothing."""
    import onnx
    from onnx import TensorProto, helper

    value = lambda name, kind, width: helper.make_tensor_value_info(name, kind, ["N", width])
    node = helper.make_node("ReduceMean", ["dense", "axes"], ["prob"], keepdims=1)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [node], "nothing", [value("dense", TensorProto.FLOAT, 13), value("ids", TensorProto.INT64, 1)], [value("prob", TensorProto.FLOAT, 1)], [axes]
    )
    file = Path(folder) / "nothing.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(file))
    inputs = [dict(dense=np.ones((1, 13), np.float32), ids=np.zeros((1, 1), np.int64))]
    found = {}
    for label, peer in (
        ("onnxruntime", lambda: Ort("nothing", file, Nothing, inputs, 1, threads)),
        ("openvino", lambda: OpenVino("nothing", file, Nothing, inputs, 1, threads, True)),
    ):
        peer = peer()
        found[label] = min(peer.round(20, 20)["p50_us"] for _ in range(5))
    return found
