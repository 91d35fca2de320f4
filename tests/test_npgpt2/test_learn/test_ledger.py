"""The numbers in the ledger equal the numbers of the run, and the ledger is never too long."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

from autograd import Tensor, record
from npgpt2 import GPT2Config, GPT2Model, Module
from npgpt2 import functional as F
from npgpt2.learn.ledger import explain, format_ledger, report
from npgpt2.learn.trace import Trace, norm, trace_model, watch

SMALL = GPT2Config(vocab_size=13, n_positions=8, n_embd=12, n_layer=1, n_head=2)
DEFAULT = GPT2Config(vocab_size=65, n_positions=64, n_embd=16, n_layer=4, n_head=4)  # but narrow
DEEP = GPT2Config(vocab_size=13, n_positions=8, n_embd=4, n_layer=12, n_head=2)
NUMBER = r"\d\.\d\de[+-]\d\d"


def sections(text):
    """Summary and introduction; the lines of the ledger; the vjps."""
    head, _, vjps = text.partition("\n\nHow each op sends its gradient back")
    summary, introduction, body = head.split("\n\n", 2)
    return f"{summary}\n{introduction}", body.split("\n"), vjps


def split_sum(line):
    return [(m[1], m[2]) for m in re.finditer(rf"(?:= |\+ )(.+?) ({NUMBER})", line)]


def expected_sum(trace, node):
    return [(trace.nodes[i].title, f"{norm(g):.2e}") for i, _, g in node.arrivals]


# -- every node ----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, DEFAULT])
def test_every_node_is_there_with_its_numbers(config):
    trace = trace_model(GPT2Model(config))
    _, lines, _ = sections(format_ledger(trace, full=True))
    computed, leaves = [], {}
    for i, line in enumerate(lines):
        shown = re.fullmatch(
            rf" *(?:(\d+)\. )?(.+) (\(.*\)): \|value\| ({NUMBER}), \|cotangent\| ({NUMBER})", line
        )
        if shown is None:
            continue
        below = []  # up to the next node
        for following in lines[i + 1 :]:
            if "|value|" in following:
                break
            below.append(following.strip())
        number, title, *numbers = shown.groups()
        if number:
            assert int(number) == len(computed) + 1
            node = trace.nodes[trace.calls[len(computed)]]
            computed.append(node)
            assert below.pop(0) == " ".join(node.formula.split())
        else:
            (node,) = [n for n in trace.nodes if n.name == title]
            leaves[title] = len(computed)
        assert title == node.title
        assert node.cotangent is not None
        expected = [f"{node.shape}", f"{norm(node.value):.2e}", f"{norm(node.cotangent):.2e}"]
        assert numbers == expected
        if len(node.arrivals) > 1:
            assert split_sum(" ".join(below)) == expected_sum(trace, node)
        else:
            assert below == []
    assert [node.index for node in computed] == trace.calls
    by_name = {node.name: node for node in trace.nodes if node.op == "leaf"}
    assert leaves.keys() == by_name.keys()
    for name, after in leaves.items():  # a leaf stands below the call that completes it
        assert trace.calls[after - 1] == by_name[name].arrivals[-1][0]
    two = expected_sum(trace, by_name["wte.weight"])
    assert [title for title, _ in two] == ["linear_cross_entropy", "embedding (wte)"]


def test_a_small_graph_is_shown_in_full_by_default():
    trace = trace_model(GPT2Model(SMALL))
    assert format_ledger(trace) == format_ledger(trace, full=True)
    trace = trace_model(GPT2Model(DEFAULT))
    assert format_ledger(trace) != format_ledger(trace, full=True)


def test_a_sum_of_many_is_broken_between_its_terms():
    x = Tensor([1.0, 2.0], requires_grad=True)
    total = x * 1.0
    for i in range(9):
        total = total + x * float(i)
    text = explain(total.sum(), full=True)
    assert max(map(len, text.split("\n"))) <= 100
    start = text.index("leaf (2,)")
    terms = split_sum(" ".join(text[start : text.index("How each op")].split()))
    node = Trace.of(total.sum()).node(x)
    assert terms == [("mul", f"{norm(g):.2e}") for _, _, g in node.arrivals] and len(terms) == 10


def test_a_leaf_alone():
    text = explain(Tensor(2.0, requires_grad=True))
    assert "leaf (): |value| 2.00e+00, |cotangent| 1.00e+00" in text
    assert "How each op" not in text


# -- the table -----------------------------------------------------------------------------------


def rows_of(lines):
    """(title, number of nodes, [shape, |value|, |cotangent|, |dleaves| if any], lines below)."""
    rows = []
    for line in lines[1:]:
        row = re.fullmatch(
            rf"(.{{32}}) *(\d+)  (\(.*?\)) +({NUMBER}) +({NUMBER})(?: +({NUMBER}))?", line
        )
        if row is not None:
            numbers = [x for x in row.groups()[2:] if x is not None]
            rows.append((row[1].rstrip(), int(row[2]), numbers, ""))
        else:
            title, nodes, numbers, below = rows.pop()
            rows.append((title, nodes, numbers, f"{below} {line.strip()}"))
    return rows


def test_a_model_of_the_default_depth_is_a_line_a_node():
    trace = trace_model(GPT2Model(DEFAULT))
    text = format_ledger(trace)
    assert len(text.split("\n")) < 200 and max(map(len, text.split("\n"))) <= 100
    introduction, lines, _ = sections(text)
    assert "one line each" not in introduction
    rows = rows_of(lines)
    assert len(rows) == len(trace.calls)
    names = set()
    for call, (title, nodes, numbers, below) in zip(trace.calls, rows, strict=True):
        node = trace.nodes[call]
        assert (title, nodes) == (node.title, 1)
        assert node.cotangent is not None
        expected = [f"{node.shape}", f"{norm(node.value):.2e}", f"{norm(node.cotangent):.2e}"]
        complete = [
            n for n in trace.nodes if n.op == "leaf" and n.arrivals[-1][0] == call
        ]  # fmt: skip
        if complete:
            gradients = [np.asarray(n.cotangent).ravel() for n in complete]
            expected.append(f"{norm(np.concatenate(gradients)):.2e}")
        assert numbers == expected
        sums = [n for n in [node, *complete] if len(n.arrivals) > 1]
        assert split_sum(below) == [pair for n in sums for pair in expected_sum(trace, n)]
        names |= {n.name for n in complete}
    assert names == {n.name for n in trace.nodes if n.op == "leaf"}


def test_a_deep_model_is_folded_into_modules():
    trace = trace_model(GPT2Model(DEEP))
    text = format_ledger(trace)
    assert len(text.split("\n")) < 200 and max(map(len, text.split("\n"))) <= 100
    introduction, lines, _ = sections(text)
    assert "one line for all their nodes: 24" in introduction
    assert "--full" in introduction
    rows = {title: row for title, *row in rows_of(lines)}
    assert sum(nodes for _, nodes, *_ in rows_of(lines)) == len(trace.calls)
    for i in range(12):
        for name, result in [("attn", "linear"), ("mlp", "linear")]:
            path = f"h.{i}.{name}"
            inside = [n for n in trace.nodes if n.path.startswith(path)]
            last = [n for n in inside if n.op == result][-1]
            gradients = [np.asarray(n.cotangent).ravel() for n in inside if n.op == "leaf"]
            assert rows[path][0] == 3
            assert rows[path][1] == [
                f"{last.shape}",
                f"{norm(last.value):.2e}",
                f"{norm(np.asarray(last.cotangent)):.2e}",
                f"{norm(np.concatenate(gradients)):.2e}",
            ]
    assert max(map(len, format_ledger(trace, full=True).split("\n"))) <= 100


def test_a_very_deep_model_is_folded_into_blocks():
    model = GPT2Model(GPT2Config(13, 8, n_embd=4, n_layer=40, n_head=1))
    _, lines, _ = sections(report(model))
    rows = rows_of(lines)
    assert len(rows) == 45 and ("h.39", 10) in [row[:2] for row in rows]
    block = next(row for row in rows if row[0] == "h.5")
    assert [name for name, _ in split_sum(block[3])] == [  # both sums of the block
        "add (h.6)", "layer_norm (h.6.ln_1)", "add (h.5)", "layer_norm (h.5.ln_2)"
    ]  # fmt: skip


def test_without_modules_the_middle_is_left_out():
    x = Tensor([1.0, 2.0], requires_grad=True)
    for _ in range(500):
        x = x * 1.0
    text = explain(x.sum())
    assert len(text.split("\n")) < 110
    assert "... 421 lines left out; full=True (--full) shows all ..." in text
    assert len(explain(x.sum(), full=True).split("\n")) > 1000


def test_a_long_name_stands_alone_in_its_line():
    class Wrapped(Module):
        def __init__(self):
            self.a_name_that_is_rather_long_for_a_model = GPT2Model(DEFAULT)

        def forward(self, ids):
            return self.a_name_that_is_rather_long_for_a_model(ids)

    model = Wrapped()
    with watch(model):
        loss = model([[1, 2]]).sum()
    text = explain(loss)
    assert max(map(len, text.split("\n"))) <= 100
    assert "layer_norm (a_name_that_is_rather_long_for_a_model.ln_f)\n    " in text


# -- summary and vjps ----------------------------------------------------------------------------


def test_the_summary_counts():
    model = GPT2Model(SMALL)
    with watch(model):
        loss = model.loss([[1, 2, 3]], [[2, 3, 4]]) * 2.0
    trace = Trace.of(loss)
    summary = " ".join(sections(explain(loss))[0].split())
    assert f"Value: {loss.item()}. Computed nodes: {len(trace.calls)}. " in summary
    assert "Leaves with a gradient: 16. Constants: 1." in summary
    assert "with watch(model)" not in summary
    n_bytes = sum(node.nbytes for node in trace.nodes)
    assert f"keeps {n_bytes / 1000:.3g} kB" in summary
    flops = sum(node.flops for node in trace.nodes)
    assert f"about {flops / 1000:.3g} kFLOP" in summary


def test_without_watch_it_says_how_to_get_paths():
    model = GPT2Model(SMALL)
    text = explain(model.loss([[1, 2, 3]], [[2, 3, 4]]), model)
    assert "`with watch(model):`" in text
    assert "h.0.attn.c_attn.weight (36, 12): |value|" in text


def test_each_vjp_is_shown_once():
    model = GPT2Model(DEFAULT)
    _, _, vjps = sections(report(model))
    titles = re.findall(r"^(\w+), (\d+) calls?$", vjps, re.M)
    assert dict(titles) == {
        "linear_cross_entropy": "1",
        "layer_norm": "9",
        "add": "9",
        "linear": "16",
        "gelu": "4",
        "causal_attention": "4",
        "embedding": "2",
    }
    for op in (F.layer_norm, F.causal_attention, F.embedding):
        source = inspect.getsource(op)
        vjp = source[source.index("    def vjp") : source.rindex("\n\n    return record")]
        assert vjp in vjps


def test_an_op_without_a_file_is_shown_without_its_source():
    scope = {"record": record}
    exec("def op(a):\n    return record(a.data * 2, (a,), lambda g: (g * 2,))", scope)
    text = explain(scope["op"](Tensor(1.0, requires_grad=True)))
    assert "op, 1 call\n    (Python cannot find its source)" in text


def long_formula(a):
    """out = a, and so on and so on and so on and so on and so on and so on and so on and on and on
    and on.
    """
    return record(a.data, (a,), lambda g: (g,))


def test_long_formulas_are_cut_in_the_ledger_and_broken_below():
    text = explain(long_formula(Tensor(1.0, requires_grad=True)))
    assert max(map(len, text.split("\n"))) <= 100
    _, (_, line, *_), vjps = sections(text)
    assert line.startswith("      out = a, and so on") and line.endswith(" ...")
    assert "and on and\n    on.\n" in vjps


def test_nothing_is_changed():
    model = GPT2Model(SMALL)
    with watch(model):
        loss = model.loss([[1, 2, 3]], [[2, 3, 4]])
    assert explain(loss) == explain(loss)
    assert all(parameter.grad is None for parameter in model.parameters())
    loss.backward()
    assert model.wte.weight.grad is not None


def test_ops_with_the_same_vjp_source_are_shown_apart():
    def double(a):
        """out = 2 a."""
        k = 2.0

        def vjp(g):
            return (g * k,)

        return record(a.data * k, (a,), vjp)

    def triple(a):
        """out = 3 a."""
        k = 3.0

        def vjp(g):
            return (g * k,)

        return record(a.data * k, (a,), vjp)

    text = explain(double(triple(Tensor(1.0, requires_grad=True))))
    assert "\ndouble, 1 call\n" in text and "\ntriple, 1 call\n" in text


def test_each_call_of_a_module_is_a_line():
    config = GPT2Config(vocab_size=7, n_positions=4, n_embd=8, n_layer=4, n_head=2)
    model = GPT2Model(config).eval()
    model.h = [model.h[0]] * 4
    with watch(model):
        loss = model.loss([[1, 2]], [[2, 3]])
    lines = explain(loss).splitlines()
    rows = [line.split("  ")[0] for line in lines if line.startswith(("gelu (", "linear (h.0.mlp"))]
    assert rows == ["linear (h.0.mlp.c_proj)", "gelu (h.0.mlp)", "linear (h.0.mlp.c_fc)"] * 4
