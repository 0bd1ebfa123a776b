"""A torch.export program as a `Trace`."""

import operator
import re

import numpy as np

from .errors import ExportError
from .trace import Node, Ref, Rows, Trace, Unknown

FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')


def trace_of(program, batch, prefix="model."):
    """`program`: a torch.export.ExportedProgram; `batch`: expressions that are its number of rows; `prefix`: of names of
    parameters and modules, left out."""
    import torch

    signature = program.graph_signature
    targets = dict(signature.inputs_to_parameters) | dict(signature.inputs_to_buffers) | dict(signature.inputs_to_lifted_tensor_constants)
    user = [name for name in signature.user_inputs]
    nodes, constants, outputs = [], {}, []
    values = program.state_dict | program.constants

    rows = same_rows(batch)

    def size(x):
        return size_of(x, rows)

    def argument(x):
        if isinstance(x, torch.fx.Node):
            return Ref(x.name)
        if isinstance(x, (list, tuple)):
            return [argument(item) for item in x]
        if isinstance(x, torch.dtype):
            return str(x).removeprefix("torch.")
        if isinstance(x, torch.SymInt):
            return size(x)
        if isinstance(x, (int, float, bool, str)) or x is None:
            return x
        return str(x)

    for fx in program.graph.nodes:
        value = fx.meta.get("val")
        node = Node(fx.name, fx.op, module=module_of(fx, prefix), source=source_of(fx))
        if isinstance(value, torch.Tensor):
            node.shape, node.dtype = tuple(size(s) for s in value.shape), str(value.dtype).removeprefix("torch.")
        elif isinstance(value, (torch.SymInt, int)) and not isinstance(value, bool):
            node.size = size(value)
        elif isinstance(value, (torch.SymFloat, torch.SymBool, float, bool)):
            node.size = value if isinstance(value, (float, bool)) else Unknown(str(value))
        if fx.op == "placeholder":
            if fx.name in targets:
                node.op, node.target = "parameter", plain_name(targets[fx.name].removeprefix(prefix))
                constants[node.target] = array_of(values[targets[fx.name]])
            elif fx.name in user:
                node.op = "input"
            else:
                node.op, node.target = "parameter", fx.name
                constants[fx.name] = None
        elif fx.op == "output":
            outputs = [(f"{i}", argument(x)) for i, x in enumerate(fx.args[0])]
        elif fx.op == "call_function":
            schema = getattr(fx.target, "_schema", None)
            if fx.target is operator.getitem:
                node.op, node.args = "getitem", {"of": argument(fx.args[0]), "index": fx.args[1]}
            elif schema is not None:
                names = [a.name for a in schema.arguments]
                node.op = str(fx.target)
                node.args = dict(zip(names, map(argument, fx.args))) | {key: argument(x) for key, x in fx.kwargs.items()}
            else:
                node.op = getattr(fx.target, "__name__", str(fx.target))
                if node.size is None and value is not None:
                    raise control_flow(fx, prefix)
        elif fx.op == "get_attr":
            # A piece of the model as an argument of an operation that decides whether, or how often, to run it.
            raise control_flow(next(iter(fx.users), fx), prefix)
        else:
            raise ExportError(
                f"the traced model holds a node of kind {fx.op}",
                "write this part of the model with plain operations on tensors",
                op=fx.name,
                module=node.module,
                source=node.source,
            )
        nodes.append(node)
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        changed = [plain_name(name.removeprefix(prefix)) for name in changed]
        changed = changed[:3] + [f"and {len(changed) - 3} more"] * (len(changed) > 3)
        raise ExportError(
            f"forward changes {', '.join(changed)}", "a served model keeps no state: let forward change neither buffers nor inputs"
        )
    return Trace(nodes, constants, user, outputs)


CONTROL_FLOW = {"cond": "torch.cond", "while_loop": "torch.while_loop", "map_impl": "a map over rows", "scan": "a scan"}


def control_flow(fx, prefix):
    """An ExportError for an operation that runs pieces of the model, such as torch.cond."""
    name = getattr(fx.target, "__name__", str(fx.target))
    if name in CONTROL_FLOW:
        reason = f"the model holds {CONTROL_FLOW[name]}: which operations run would depend on the data"
        remedy = "compute both sides and choose with torch.where(condition, a, b); give loops a fixed number of steps"
    else:
        reason = f"{name} has no counterpart in a bundle" + (" (torch.vmap makes it)" if name.endswith("_batch_dim") else "")
        remedy = "write this part of the model with plain operations on whole batches"
    return ExportError(
        reason,
        remedy,
        op=name,
        module=module_of(fx, prefix) or "(the model itself)",
        source=next(filter(None, map(source_of, [fx, *fx.all_input_nodes])), None),
    )


def same_rows(batch):
    """Every expression that is the number of rows in terms of one of them: (that one, symbol -> what it is)."""
    batch = sorted(batch, key=str)
    if not batch:
        return None, {}
    same = {}
    for expression in batch[1:]:
        symbols = list(expression.free_symbols)
        if len(symbols) == 1 and (expression - symbols[0]).is_number and symbols[0] not in batch[0].free_symbols:
            same[symbols[0]] = batch[0] - (expression - symbols[0])
    return batch[0], same


def size_of(x, rows):
    """A size as int, Rows or Unknown. `rows`: as same_rows gives them."""
    node = getattr(x, "node", None)
    if node is None:
        return int(x)
    expression, (batch, same) = node.expr, rows
    if expression.is_number:
        return int(expression)
    if batch is not None:
        factor = expression.subs(same) / batch
        factor = factor if factor.is_number else factor.expand().simplify()
        if factor.is_number and factor.is_integer:
            return Rows(int(factor))
    return Unknown(str(expression))


def array_of(tensor):
    """numpy of a parameter: bf16 and f16 are widened."""
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return np.require(tensor.numpy(), requirements="C")


def module_of(fx, prefix):
    stack = fx.meta.get("nn_module_stack")
    if not stack:
        return None
    path = list(stack.values())[-1][0]
    if "empty_nn_module_stack" in path:
        return None
    path = re.sub(r"@\d+$", "", path)
    return plain_name(path.removeprefix(prefix)) if path != prefix.rstrip(".") else ""


def plain_name(path):
    """A path as it is in the user's model: leaves.Recurrent wraps recurrent layers."""
    return path.replace(".original.", ".").removesuffix(".original")


def source_of(fx):
    """The innermost line of code outside of torch itself."""
    frames = FRAME.findall(fx.meta.get("stack_trace") or "")
    for file, line, function in reversed(frames):
        if "/torch/" not in file and "/gavel/exporter/" not in file and not file.startswith("<"):
            return f"{file}:{line} in {function}"
    return None
