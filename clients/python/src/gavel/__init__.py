"""gavel: from a trained PyTorch model to a bundle that a gavel server ranks with.

`export` needs torch (pip install "gavel[export]"); everything else needs numpy and safetensors alone.
"""

from .bundle import Bundle
from .exporter.errors import ExportError
from .exporter.report import Report
from .exporter.specs import Dense, Integer, Jagged, Sparse
from .interpreter import evaluate

__all__ = ["Bundle", "Dense", "ExportError", "Integer", "Jagged", "Report", "Sparse", "evaluate", "export"]
__version__ = "0.1.0"


def export(
    model,
    example_inputs,
    features=None,
    out="bundle",
    *,
    overwrite=False,
    name=None,
    description=None,
    output_names=None,
    output_kinds=None,
    context=(),
    tables="f32",
    selftest_rows=128,
    selftest_inputs=None,
    labels=None,
    atol=None,
):
    """Writes the bundle of a trained model into the folder `out`, new or empty, and gives a Report.

    model           a torch.nn.Module whose rows do not depend on each other; it is exported as it is in eval mode
    example_inputs  what forward takes: a tensor, a dict, a KeyedJaggedTensor, or a tuple of arguments; a few real rows, every id in range
    features        names and rules of inputs: a list of gavel.Dense, Sparse, Integer and Jagged; the rest is named after forward's
                    arguments, the columns that deepctr-torch knows, or the keys of torchrec's collections
    overwrite       True: a bundle that is in `out` already is replaced
    name            the model's name (default: of its class)
    output_names, output_kinds
                    one per output column; kinds are "probability", "logit" and "value"
    context         names of the features that are the same for all candidates of a request: user, page, slot
    tables          "f32", "f16", "int8", "int4" or "int2": how embedding tables are stored; the report says what the rounding does
    selftest_rows   rows in the selftest: the examples (or selftest_inputs, in the form of example_inputs) and rows mixed from them.
                    A server that computes in 8 bits measures there what that does: give it as many real rows then (1000, say)
    labels          0 or 1 for each row of selftest_inputs or example_inputs: the report then says the AUC before and after quantisation
    atol            largest difference that a server accepts at load (default: ten times what torch's own f32 shows, at least 2e-6)

    Raises ExportError with the operation, the module and what to do, rather than write a bundle that scores differently.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ImportError('gavel.export needs PyTorch: pip install "gavel[export]", or pip install torch') from error
    from .exporter.export import export as run

    return run(
        model,
        example_inputs,
        features=features,
        out=out,
        overwrite=overwrite,
        name=name,
        description=description,
        output_names=output_names,
        output_kinds=output_kinds,
        context=context,
        tables=tables,
        selftest_rows=selftest_rows,
        selftest_inputs=selftest_inputs,
        labels=labels,
        atol=atol,
    )
