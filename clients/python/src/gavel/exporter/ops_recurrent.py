"""GRU as one step, with lengths and attention where the model has them; LSTM and plain RNN unrolled."""

from .canonical import operator
from .errors import ExportError
from .layout import Row, Value
from .ops_elementwise import binary, unary
from .ops_products import linear

UNROLLED_STEPS_MAX = 256


def directions(a):
    """Parameters by layer and direction: [(w_ih, w_hh, b_ih, b_hh)]."""
    params, biases = a["params"], a["has_biases"]
    size = 4 if biases else 2
    groups = [params[i : i + size] for i in range(0, len(params), size)]
    count = a["num_layers"] * (2 if a["bidirectional"] else 1)
    if len(groups) != count or len(params) % size:
        raise ExportError("a recurrent layer with projections has no counterpart in a bundle", "use a recurrent layer without proj_size")
    return [list(g) + [None, None] if not biases else list(g) for g in groups]


def layers(c, a, run, states):
    """Runs the layers of an RNN. `run`: (x, parameters, index, reverse) -> (outputs, last states); x [batch, T, I]."""
    if a.get("train") and a.get("dropout"):
        raise ExportError("a recurrent layer with dropout", "call model.eval() before exporting")
    x = c.as_value(a["input"])
    x = x if a["batch_first"] else c.permute(x, [1, 0, 2])
    if not isinstance(x.dims[0], Row) or x.dims[0] != Row():
        raise ExportError(
            "a recurrent layer runs along the batch, or on a merged batch", "give it [batch, steps, size] with batch_first=True"
        )
    both = 2 if a["bidirectional"] else 1
    last = []
    for layer in range(a["num_layers"]):
        outs = []
        for direction in range(both):
            i = layer * both + direction
            out, state = run(x, directions(a)[i], i, direction == 1)
            outs.append(out)
            last.append(state)
        x = c.concat(outs, -1)
    return (x if a["batch_first"] else c.permute(x, [1, 0, 2])), last


def stacked(c, states):
    return c.concat([c.unsqueeze(s, 0) for s in states], 0)


def initial(c, hx, index):
    """The first state of a layer, None if it is zeros."""
    if hx is None:
        return None
    h = c.select(c.as_value(hx), 0, index)
    return None if h.constant and not h.term.array.any() else h


def gru(c, x, w_ih, w_hh, b_ih=None, b_hh=None, h0=None, length=None, attention=None, kind="gru", reverse=False, last=False):
    """The step gru over x [batch, T, I]."""
    x = c.to_kind(c.as_value(x), "f")
    tensors = {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh}
    tensors = {key: c.as_value(t).term for key, t in tensors.items() if t is not None}
    reads = {"in": x.term}
    for key, v in (("h0", h0), ("length", length), ("attention", attention)):
        if v is not None:
            v = c.as_value(v)
            reads[key] = (
                c.graph.reshape(v.term, [x.dims[1]]) if key == "attention" else c.graph.reshape(v.term, []) if key == "length" else v.term
            )
    if x.dims[0] != Row():
        raise ExportError("a recurrent layer on a merged batch", "give it [batch, steps, size]")
    hidden = tensors["w_hh"].shape[1]
    term = c.graph.emit("gru", reads, tensors, kind=kind if kind != "gru" else None, reverse=reverse or None, last=last or None)
    return Value(term, (x.dims[0], hidden) if last else (x.dims[0], x.dims[1], hidden), "f")


@operator("gru.input")
def gru_input(c, node, a):
    from .ops_reduce import Pair

    made = {}

    def run(last):
        def one(x, params, i, reverse):
            out = gru(c, x, *params, h0=initial(c, a["hx"], i), reverse=reverse)
            state = gru(c, x, *params, h0=initial(c, a["hx"], i), reverse=reverse, last=True) if last else None
            return out, state

        if last not in made:
            made[last] = layers(c, a, one, None)
        return made[last]

    return Pair(lambda: run(False)[0], lambda: stacked(c, run(True)[1]))


def unrolled(c, a, cell, states):
    def run(x, params, i, reverse):
        steps = x.dims[1]
        if steps > UNROLLED_STEPS_MAX:
            raise ExportError(
                f"a recurrent layer that is no GRU over {steps} steps: the exporter unrolls up to {UNROLLED_STEPS_MAX}",
                "use nn.GRU, or fewer steps",
            )
        w_ih, w_hh, b_ih, b_hh = params
        gates = linear(c, x, w_ih, b_ih)
        hidden = c.as_value(w_hh).dims[1]
        state = [initial(c, hx, i) for hx in states]
        outs = [None] * steps
        for t in reversed(range(steps)) if reverse else range(steps):
            now = c.select(gates, 1, t)
            if state[0] is not None:
                now = binary(c, "add", now, linear(c, state[0], w_hh, b_hh))
            elif b_hh is not None:
                now = binary(c, "add", now, b_hh)
            state = cell(c, now, state, hidden)
            outs[t] = c.unsqueeze(state[0], 1)
        return c.concat(outs, 1), state

    return layers(c, a, run, states)


@operator("lstm.input")
def lstm(c, node, a):
    def cell(c, gates, state, hidden):
        i, f, g, o = (c.slice(gates, -1, k * hidden, (k + 1) * hidden) for k in range(4))
        new = binary(c, "mul", unary(c, "sigmoid", i), unary(c, "tanh", g))
        memory = new if state[1] is None else binary(c, "add", binary(c, "mul", unary(c, "sigmoid", f), state[1]), new)
        return [binary(c, "mul", unary(c, "sigmoid", o), unary(c, "tanh", memory)), memory]

    out, last = unrolled(c, a, cell, a["hx"])
    return [out, stacked(c, [s[0] for s in last]), stacked(c, [s[1] for s in last])]


@operator("rnn_tanh.input", "rnn_relu.input")
def rnn(c, node, a):
    op = "tanh" if "tanh" in node.op else "relu"
    out, last = unrolled(c, a, lambda c, gates, state, hidden: [unary(c, op, gates)], [a["hx"]])
    return [out, stacked(c, [s[0] for s in last])]


@operator("gavel::gru")
def gavel_gru(c, node, a):
    """The leaf op of leaves.py: [outputs, last state] of a GRU with lengths and attention."""
    from .ops_reduce import Pair

    parts = {key: a.get(key) for key in ("w_ih", "w_hh", "b_ih", "b_hh", "h0", "length", "attention")}
    kind, reverse = a.get("kind", "gru"), a.get("reverse", False)
    return Pair(
        lambda: gru(c, a["x"], **parts, kind=kind, reverse=reverse), lambda: gru(c, a["x"], **parts, kind=kind, reverse=reverse, last=True)
    )


@operator("gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cells(c, node, a):
    x, w_ih, w_hh, b_ih, b_hh = a["input"], a["w_ih"], a["w_hh"], a.get("b_ih"), a.get("b_hh")
    name = node.op.split(".")[1]
    hx = a["hx"]
    h = c.as_value(hx[0] if isinstance(hx, list) else hx)
    hidden = c.as_value(w_hh).dims[1]
    gi, gh = linear(c, x, w_ih, b_ih), linear(c, h, w_hh, b_hh)
    part = lambda v, k: c.slice(v, -1, k * hidden, (k + 1) * hidden)
    if name == "gru_cell":
        r = unary(c, "sigmoid", binary(c, "add", part(gi, 0), part(gh, 0)))
        z = unary(c, "sigmoid", binary(c, "add", part(gi, 1), part(gh, 1)))
        new = unary(c, "tanh", binary(c, "add", part(gi, 2), binary(c, "mul", r, part(gh, 2))))
        return binary(c, "add", new, binary(c, "mul", z, binary(c, "sub", h, new)))
    both = binary(c, "add", gi, gh)
    if name != "lstm_cell":
        return unary(c, "tanh" if "tanh" in name else "relu", both)
    i, f, g, o = (part(both, k) for k in range(4))
    memory = binary(
        c, "add", binary(c, "mul", unary(c, "sigmoid", f), c.as_value(hx[1])), binary(c, "mul", unary(c, "sigmoid", i), unary(c, "tanh", g))
    )
    return [binary(c, "mul", unary(c, "sigmoid", o), unary(c, "tanh", memory)), memory]
