"""What torch says: the traced program run in float64, and the user's own model as it is."""

import contextlib
import copy

import torch

from .errors import ExportError

DOUBLES_BYTES_MAX = 1 << 29  # models up to this size are also run as a whole in float64


class Float64(torch.fx.Interpreter):
    """Runs a program with every float as float64. Tables stay as they are: only the rows looked up are widened."""

    LOOKUPS = {torch.ops.aten.embedding.default}
    FLOAT = torch.float64

    def call_function(self, target, args, kwargs):
        wide = lambda x: self.FLOAT if x in (torch.float32, torch.float16, torch.bfloat16) else x
        args = [wide(x) if isinstance(x, torch.dtype) else x for x in args]
        kwargs = {key: wide(x) if isinstance(x, torch.dtype) else x for key, x in kwargs.items()}
        if str(target).startswith("aten._assert_tensor_metadata"):
            return None
        if target is torch.ops.aten.nan_to_num.default:
            # Infinities become the largest floats of the type: of the model's, not of the one that it runs in here.
            most = torch.finfo(torch.float32).max
            given = dict(zip(("self", "nan", "posinf", "neginf"), args)) | kwargs
            args, kwargs = (given["self"], given.get("nan")), {}
            for key, limit in (("posinf", most), ("neginf", -most)):
                kwargs[key] = limit if given.get(key) is None else given[key]
        if target in self.LOOKUPS:
            return self.widened(target(*args, **kwargs))
        args, kwargs = torch.utils._pytree.tree_map(self.widened, (tuple(args), kwargs))
        return super().call_function(target, args, kwargs)

    def widened(self, x):
        return x.to(self.FLOAT) if isinstance(x, torch.Tensor) and x.is_floating_point() else x


class Float32(Float64):
    """Runs a program with every float as float32: what a model's halves come to on a server."""

    FLOAT = torch.float32


class Fixed(Float64):
    """What nodes make that depend on weights alone."""

    def __init__(self, program):
        super().__init__(program.graph_module)
        signature, self.values = program.graph_signature, program.state_dict | program.constants
        self.targets = (
            dict(signature.inputs_to_parameters) | dict(signature.inputs_to_buffers) | dict(signature.inputs_to_lifted_tensor_constants)
        )
        self.nodes, self.made = {node.name: node for node in program.graph.nodes}, {}

    def __call__(self, name):
        """An array, a list of arrays, or None where random numbers are involved."""
        with torch.no_grad():
            made = self.of(self.nodes[name])
        parts = made if isinstance(made, (list, tuple)) else [made]
        arrays = [x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else None for x in parts]
        if any(x is not None and x.dtype.kind not in "fiub" for x in arrays):
            return None
        return arrays if isinstance(made, (list, tuple)) else arrays[0]

    def of(self, node):
        if node.name not in self.made:
            if node.op == "placeholder":
                self.made[node.name] = widened(self.values[self.targets[node.name]])
            elif torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise ExportError("random numbers are made in forward", "make them when the model is built, and keep them as a buffer")
            else:
                args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), self.of)
                self.made[node.name] = self.call_function(node.target, args, kwargs)
        return self.made[node.name]


def widened(x):
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def program_outputs(program, tensors, precision=Float64):
    """The program's flat outputs in float64, or in another precision: list of arrays."""
    module = program.graph_module
    signature, values = program.graph_signature, program.state_dict | program.constants
    targets = dict(signature.inputs_to_parameters) | dict(signature.inputs_to_buffers) | dict(signature.inputs_to_lifted_tensor_constants)
    user, arguments = iter(tensors), []
    for node in module.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in targets:
            arguments.append(values[targets[node.name]])
        else:
            x = next(user)
            arguments.append(x.to(precision.FLOAT) if x.is_floating_point() else x)
    with torch.no_grad():
        return [x.detach().double().numpy() for x in precision(module).run(*arguments)]


def eagerly():
    """Parts of a model that torch.compile wraps run as they are: nothing is compiled for a few rows."""
    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if stance else contextlib.nullcontext()


def model_outputs(model, inputs, tensors, double, what="rows made from the example inputs"):
    """The user's own model: list of arrays, None if it cannot run in float64."""
    from .inputs import flatten_outputs

    if double:
        size = sum(t.numel() * t.element_size() for t in list(model.parameters()) + list(model.buffers()))
        if size > DOUBLES_BYTES_MAX:
            return None
        try:
            model = copy.deepcopy(model).double()
        except Exception:
            return None
        tensors = [widened(x) for x in tensors]
    else:
        tensors = [x.float() if x.is_floating_point() else x for x in tensors]
    names, out = [], []
    try:
        with torch.no_grad():
            with eagerly():
                flatten_outputs("", inputs.call(model, tensors, False), names, out)
    except ExportError:
        raise
    except Exception as error:
        if double:
            return None
        reason = str(error) or type(error).__name__
        remedy = "pass inputs as forward takes them" if "its" in what else "pass selftest_inputs that it can score"
        raise ExportError(f"the model fails on {what}: {reason}", remedy, source=place_of(error)) from error
    return [x.detach().double().numpy() for x in out]


def place_of(error):
    """The innermost line of code outside of torch and the exporter that an error passed."""
    found, tb = None, error.__traceback__
    while tb is not None:
        file = tb.tb_frame.f_code.co_filename
        if "/torch/" not in file and "/gavel/exporter/" not in file and not file.startswith("<"):
            found = f"{file}:{tb.tb_lineno} in {tb.tb_frame.f_code.co_name}"
        tb = tb.tb_next
    return found
