"""torch.export of a model for any number of rows."""

import contextlib
import logging
import warnings

import numpy as np
import torch

from . import leaves
from .errors import ExportError
from .reference import eagerly, place_of

TRACED_ROWS = 11


def traced(flat, inputs):
    """The exported program and the expressions that are its number of rows."""
    rows, bags = inputs.take(inputs.example_rows(), inputs.example_bags(), np.arange(TRACED_ROWS) % inputs.rows)
    if all(sum(len(x) for x in ids) == 0 for ids, _ in bags.values()) and bags:
        raise ExportError("all bags of the example inputs are empty", "pass examples with some ids")
    arguments = tuple(
        x.float() if x.is_floating_point() and x.dtype == torch.float64 and inputs.leaves[i].data.dtype != torch.float64 else x
        for i, x in enumerate(inputs.tensors(rows, bags))
    )
    first = None
    for shapes, strict in ((named_shapes(inputs), False), (automatic_shapes(inputs), False), (named_shapes(inputs), True)):
        # Named sizes tell best what is wrong; automatic ones take models whose conditions on sizes torch cannot prove; strict tracing reads
        # Python itself, and so takes len(x) for the size of the batch.
        try:
            with contextlib.ExitStack() as during:
                for context in (torch.no_grad(), leaves.no_fast_paths(), leaves.packed_sequences(), quiet()):
                    during.enter_context(context)
                if not strict:
                    during.enter_context(leaves.loose_views())
                    during.enter_context(eagerly())
                program = torch.export.export(flat, arguments, dynamic_shapes=(tuple(shapes),), strict=strict)
                if any(mutates(n) or wraps(n) for n in program.graph.nodes):
                    program = program.run_decompositions({})
        except ExportError:
            raise
        except Exception as error:
            first = first or error
            if "Constraints violated" not in str(error) and "Specializations" not in str(error):
                break
            continue
        sizes = batch_sizes(program, inputs)
        if sizes is not None:
            return program, sizes
    if first is not None:
        raise untraceable(first) from first
    raise ExportError(
        "the model works with one fixed number of rows alone",
        "take sizes of the batch from x.shape[0], not from numbers in the code or in the examples",
    )


def named_shapes(inputs):
    batch = torch.export.Dim("batch", min=1)
    names = list(inputs.bags)
    shapes = []
    for leaf in inputs.leaves:
        if leaf.role in ("ids", "weights"):
            shapes.append({0: torch.export.Dim(f"ids_{names.index(leaf.feature)}", min=0)})
        elif leaf.role == "offsets" and inputs.bags[leaf.feature].last_offset:
            shapes.append({0: batch + 1})
        else:
            shapes.append({0: batch})
    return shapes


def automatic_shapes(inputs):
    return [{0: torch.export.Dim.AUTO} for _ in inputs.leaves]


def batch_sizes(program, inputs):
    """Expressions that stand for the number of rows, None if tracing fixed it."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    sizes = set()
    for name, leaf in zip(program.graph_signature.user_inputs, inputs.leaves):
        value = nodes[name].meta.get("val")
        if leaf.role in ("ids", "weights") or not isinstance(value, torch.Tensor):
            continue
        size = value.shape[0]
        if not isinstance(size, torch.SymInt) or size.node.expr.is_number:
            return None
        expression = size.node.expr
        sizes.add(expression - 1 if leaf.role == "offsets" and inputs.bags[leaf.feature].last_offset else expression)
    return sizes


class quiet(warnings.catch_warnings):
    """Neither warnings nor torch's logs of attempts that fail: what is wrong is said once, by the exception."""

    def __enter__(self):
        self.disabled = logging.root.manager.disable
        logging.disable(logging.ERROR)
        super().__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *_):
        logging.disable(self.disabled)
        super().__exit__(*_)


def mutates(node):
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and "_assert" not in schema.name


def wraps(node):
    """Whether a node runs a piece of the model under autocast or with gradients: it always runs, so it is no control flow."""
    return node.op == "call_function" and getattr(node.target, "__name__", "").startswith("wrap_with_")


def untraceable(error):
    """An ExportError for what torch.export says."""
    text = str(error)
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    first = first.partition("For more information, run with TORCH_LOGS")[0].strip()
    remedy = "make forward a fixed sequence of tensor operations"
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__ or "u0" in text:
        remedy = "a branch, a loop or a size depends on the data of the batch: use torch.where, masks and fixed lengths instead"
    elif "Constraints violated" in text or "specialized" in text or "batch" in text and "dynamic" in text:
        remedy = "the model works with one number of rows alone: take the batch's size from x.shape[0], and leave out loops over rows"
    elif "numpy" in text:
        remedy = "compute with torch instead of numpy in forward"
    elif "pack_padded_sequence" in text or "packed" in text:
        remedy = "packed sequences depend on the batch: run the recurrent layer over the padded sequence and mask its outputs"
    return ExportError(f"torch.export cannot trace the model: {first}", remedy, source=place_of(error))
