"""nn.EmbeddingBag as torch exports it, and loops that are nearly that."""

import pathlib

import numpy as np
import onnx
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from .build import ROWS, f, ints


def strip(graph):
    """Without the exporter's traces, which are longer than the model."""
    for key in ("value_info", "metadata_props", "doc_string"):
        graph.ClearField(key)
    for value in [*graph.input, *graph.output]:
        value.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                strip(attribute.g)


def bags(to):
    """nn.EmbeddingBag, as both exporters of torch write it."""
    import tempfile

    import torch
    from torch import nn

    torch.manual_seed(5)
    torch.set_num_threads(1)

    class Bags(nn.Module):
        def __init__(self, mode="sum", padding=None, flat=False):
            super().__init__()
            self.bag, self.flat = nn.EmbeddingBag(10, 4, mode=mode, padding_idx=padding), flat
            if padding is not None and mode != "sum":
                nn.init.normal_(self.bag.weight)
            self.top = nn.Linear(4, 2)

        def forward(self, ids, weights=None):
            if self.flat:
                parts = [self.bag(ids[:, j], torch.arange(ids.shape[0])) for j in range(ids.shape[1])]
                return self.top(torch.cat(parts, 1).view(-1, ids.shape[1], 4).sum(1))
            return self.top(self.bag(ids, per_sample_weights=weights))

    class Weighted(Bags):
        def forward(self, ids, weights):
            return super().forward(ids, weights)

    class Keyed(nn.Module):
        """Ids feature by feature with lengths, as torchrec's KeyedJaggedTensor holds them."""

        def __init__(self):
            super().__init__()
            self.tables, self.top = nn.ModuleList(nn.EmbeddingBag(10, 4, include_last_offset=True) for _ in range(3)), nn.Linear(12, 2)

        def forward(self, ids):
            values = ids.t().reshape(-1)
            lengths = torch.ones(3 * ids.shape[0], dtype=torch.int32).view(3, -1)
            offsets = torch.cat([lengths.new_zeros(3, 1), lengths.cumsum(1).to(torch.int32)], 1)
            parts = values.split([ids.shape[0]] * 3)
            return self.top(torch.cat([table(part, offset.long()) for table, part, offset in zip(self.tables, parts, offsets)], 1))

    ids, weights = ints(10, ROWS, 5), f(ROWS, 5)
    ids[0], ids[1, :3] = 0, 0
    columns = {"ids": ints(10, ROWS, 3)}
    dynamo = lambda opset: {"dynamo": True, "opset_version": opset, "verbose": False}
    legacy = {"dynamo": False, "opset_version": 17}
    cases = [
        ("sum", Bags(), {"ids": ids}, dynamo(20)), ("mean", Bags("mean"), {"ids": ids}, dynamo(18)), ("max", Bags("max"), {"ids": ids}, dynamo(20)),
        ("one", Bags("mean"), {"ids": ids[:, :1]}, dynamo(20)), ("weights", Weighted(), {"ids": ids, "weights": weights}, dynamo(18)),
        ("sum_padded", Bags("sum", 0), {"ids": ids}, dynamo(20)), ("mean_padded", Bags("mean", 3), {"ids": ids}, dynamo(20)),
        ("max_padded", Bags("max", 0), {"ids": ids}, dynamo(19)), ("weights_padded", Weighted("sum", 0), {"ids": ids, "weights": weights}, dynamo(20)),
        ("columns", Bags(flat=True), columns, dynamo(20)), ("keyed", Keyed(), columns, dynamo(20)),
        ("sum_legacy", Bags(), {"ids": ids}, legacy), ("mean_legacy", Bags("mean"), {"ids": ids}, legacy), ("max_legacy", Bags("max"), {"ids": ids}, legacy),
        ("weights_legacy", Weighted(), {"ids": ids, "weights": weights}, legacy),
    ]
    for name, module, inputs, options in cases:
        given = tuple(torch.from_numpy(array) for array in inputs.values())
        if options["dynamo"]:
            options["dynamic_shapes"] = tuple({0: torch.export.Dim("N")} for _ in inputs)
        else:
            options["dynamic_axes"] = {key: {0: "N"} for key in inputs}
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "bags.onnx"
            torch.onnx.export(module.eval(), given, path, input_names=list(inputs), output_names=["y"], **options)
            made = onnx.load(path)
        strip(made.graph)
        to.keep(f"bags_{name}", made, inputs, ["y"], module(*given).detach().numpy())
    bags_of_others(to)


def bags_of_others(to):
    """Loops that are nearly those of nn.EmbeddingBag, and compute something else."""
    def change(name, source, edit):
        made = onnx.load(to.ok / f"bags_{source}.onnx")
        loop = next(node for node in made.graph.node if node.op_type == "Loop")
        edit(made.graph, loop, loop.attribute[0].g)
        onnx.checker.check_model(made)
        onnx.save(made, to.refused / f"bags_{name}.onnx")

    def number(graph, value):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"n{len(graph.initializer)}"))
        return graph.initializer[-1].name

    first = lambda graph, op, count=0: [node for node in graph.node if node.op_type == op][count]

    def reads(graph, node, at, value):
        node.input[at] = number(graph, np.int64(value))

    def branch(body, name):
        return next(attribute.g for attribute in first(body, "If").attribute if attribute.name == name)

    def longer(graph, loop, body):
        # Each bag and the next one.
        last = [node for node in body.node if node.op_type == "Add"]
        for add in last[1:3]:
            add.input[1] = number(graph, np.int64(2 if add is last[1] else 3))

    def whole(graph, loop, body):
        # The rows of all bags.
        inner = branch(body, "else_branch")
        first(inner, "ReduceSum").input[0] = first(inner, "Slice").input[0]

    def least_of_all(graph, loop, body):
        # The last iteration does not take place.
        body.node.append(helper.make_node("Add", [first(body, "Less").input[0], number(graph, np.int64(1))], ["later"]))
        less = first(body, "Less")
        less.input[0] = "later"
        body.node.append(helper.make_node("Less", list(less.input), list(less.output)))
        body.node.remove(less)

    def other_mean(graph, loop, body):
        inner = next(attribute.g for attribute in first(branch(body, "else_branch"), "If").attribute if attribute.name == "then_branch")
        shape = first(inner, "Shape")
        shape.input[0] = loop.input[1]
        shape.ClearField("attribute")
        subtract = first(inner, "Sub")
        subtract.input[0] = number(graph, np.int64([10 ** 6]))

    def padded(graph, loop, body):
        # Ids that are padding, not the others.
        inner = first(body, "Loop").attribute[0].g
        first(inner, "Not").op_type = "Identity"

    # The exporter writes what the inner loop carries in any order.
    made = onnx.load(to.ok / "bags_max_padded.onnx")
    loop = first(first(made.graph, "Loop").attribute[0].g, "Loop")
    for values in (loop.input, loop.output, loop.attribute[0].g.input, loop.attribute[0].g.output):
        a, b = (type(values[-1]).FromString(value.SerializeToString()) if hasattr(value, "name") else value for value in values[-2:])
        del values[-2:]
        values.extend([b, a])
    inputs = load_file(to.ok / "bags_max_padded.safetensors")
    onnx.checker.check_model(made)
    to.keep("bags_max_padded_swapped", made, {"ids": inputs["ids"]}, ["y"], inputs["y"])

    change("from_one", "sum", lambda graph, loop, body: reads(graph, loop, 2, 1))
    change("longer", "sum", longer)
    change("of_all", "sum", whole)
    change("but_one", "sum", least_of_all)
    change("uneven", "sum", lambda graph, loop, body: reads(graph, first(graph, "Range"), 2, 1))
    change("other_mean", "mean", other_mean)
    change("of_padding", "sum_padded", padded)
