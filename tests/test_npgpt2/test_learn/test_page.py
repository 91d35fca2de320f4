"""The numbers of the page equal the numbers of the run, in the file and in a real browser.

The class `Browser` below controls Chromium through the pipe of the Chrome DevTools Protocol.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from autograd import Tensor, record
from npgpt2 import GPT2Config, GPT2Model
from npgpt2.learn import page
from npgpt2.learn.trace import Trace, watch

CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: chromium, chromium-browser or google-chrome"
)


@pytest.fixture(scope="module")
def trace():
    """A trace of the default model of the command line, without dropout."""
    model = GPT2Model(GPT2Config(65, 64, 128, 4, 4)).eval()
    ids = np.random.default_rng(1).integers(0, 65, (2, 65))
    with watch(model):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
    return Trace.of(loss)


@pytest.fixture(scope="module")
def small():
    model = GPT2Model(GPT2Config(7, 4, 8, 1, 2)).eval()
    return Trace.of(model.loss([[1, 2, 3]], [[2, 3, 4]]), model=model)


@pytest.fixture(scope="module")
def path(trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "run.html"
    page.write_page(trace, path, title="A <b>run</b> & more")
    return path


def read(text):
    """Return the numbers in a page as a browser finds them: up to the first end of a script."""
    begin = text.index('<script type="application/json" id="run">')
    return json.loads(text[text.index(">", begin) + 1 : text.index("</script", begin)])


def decoded(picture):
    q = np.frombuffer(base64.b64decode(picture["cells"]), np.int8)
    return q.reshape(picture["rows"], picture["cols"]) * (picture["scale"] / 127)


def length(x):
    return float(np.linalg.norm(x.astype(np.float64)))


# -- the file --------------------------------------------------------------------------------------


def test_the_numbers_in_the_file_equal_the_run(path, trace):
    run = read(path.read_text())
    assert run["calls"] == trace.calls and len(run["nodes"]) == len(trace.nodes) > 90
    assert run["left_out"] == 0
    for told, node in zip(run["nodes"], trace.nodes, strict=True):
        for key in ["op", "name", "path", "requires_grad", "flops", "nbytes"]:
            assert told[key] == getattr(node, key)
        assert tuple(told["shape"]) == node.shape and told["dtype"] == str(node.dtype)
        assert tuple(told["parents"]) == node.parents
        assert [tuple(shape) for _, shape in told["saved"]] == [shape for _, shape in node.saved]
        assert run["texts"][told["formula"]] == node.formula
        assert run["texts"][told["source"]] == node.source
        assert told["norm"] == length(node.value)
        assert told["cotangent_norm"] == length(node.cotangent)
        assert told["arrivals"] == [[i, slot, length(g)] for i, slot, g in node.arrivals]


def test_heat_maps_are_block_means_to_a_254th_of_the_scale(path, trace):
    several = slice(None, None, 5)
    checked, run = set(), read(path.read_text())
    for told, node in zip(run["nodes"][several], trace.nodes[several], strict=True):
        for array, picture in [(node.value, told["value"]), (node.cotangent, told["cotangent"])]:
            rows = array.reshape(-1, array.shape[-1] if array.ndim else 1).astype(np.float64)
            (h, w), (n, m) = picture["block"], rows.shape
            assert picture["seen"] == [n, m]
            assert picture["rows"] == -(-n // h) <= 64 and picture["cols"] == -(-m // w) <= 64
            cells = [[rows[i : i + h, j : j + w].mean() for j in range(0, m, w)]
                     for i in range(0, n, h)]  # fmt: skip
            assert picture["scale"] == pytest.approx(np.max(np.abs(cells)), rel=1e-12)
            bound = picture["scale"] / 254 * (1 + 1e-9)
            assert np.max(np.abs(decoded(picture) - cells)) <= bound
            checked.add((picture["rows"], *picture["block"]))
    assert len(checked) >= 5


def test_one_file_under_5_mb_that_loads_nothing(path):
    text = path.read_text()
    assert 100_000 < len(text.encode()) < 5_000_000
    for reference in ["http", "src=", "href", "import(", "@import", "url(", "fetch(", "<link"]:
        assert reference not in text, reference
    assert text.count("<script") == text.count("</script") == 2
    assert "A &lt;b&gt;run&lt;/b&gt; &amp; more</h1>" in text and "<b>" not in text


def test_nothing_in_a_name_ends_the_script():
    x = Tensor([1.0, 2.0], requires_grad=True)

    def op(x):
        def vjp(g):
            "</script><script>alert(1)</script><!--title--><!--run-->"
            return (g,)

        vjp.__qualname__ = "</script><!--run-->.<locals>.vjp"
        return record(x.data, (x,), vjp)

    text = page.render(Trace.of(op(x).sum()), "</title><!--run--></script>")
    assert text.count("<script") == text.count("</script") == 2
    run = read(text)
    assert run["nodes"][1]["op"] == "</script><!--run-->"
    assert "alert(1)" in run["texts"][run["nodes"][1]["source"]]


def test_numbers_that_are_not_finite_are_marked():
    x = Tensor(np.array([[np.nan, 1.0], [np.inf, -3.0]]), requires_grad=True)
    with np.errstate(all="ignore"):
        run = read(page.render(Trace.of((x * x).sum()), "not finite"))
    leaf = run["nodes"][0]
    assert leaf["norm"] == "nan" and run["nodes"][1]["norm"] == "nan"
    q = np.frombuffer(base64.b64decode(leaf["value"]["cells"]), np.int8)
    assert leaf["value"]["scale"] == 3.0 and q.tolist() == [-128, 42, -128, -127]


@pytest.mark.parametrize("shape", [(), (1,), (65,), (0,), (3, 0), (64, 64), (65, 129), (2, 3, 4)])
def test_heat_maps_of_all_shapes(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    picture = page.heat_map(x)
    if x.size == 0:
        assert picture is None
        return
    assert picture is not None
    small = x.ndim < 2 or max(x.shape[-1], x.size // x.shape[-1]) <= 64
    if small and x.size <= 64 * 64 and x.shape[-1:] <= (64,):  # then a cell is an entry
        bound = picture["scale"] / 254 * (1 + 1e-9)
        assert np.max(np.abs(decoded(picture).reshape(shape) - x)) <= bound
    assert picture["scale"] <= np.max(np.abs(x))
    zeros, ones = page.heat_map(np.zeros(shape)), page.heat_map(np.ones(shape))
    assert zeros and zeros["scale"] == 0.0 and not np.any(decoded(zeros))
    assert ones and np.all(decoded(ones) == 1.0)  # the smaller blocks at the ends too


def test_a_budget_leaves_out_pictures_far_from_the_root_and_says_so(small):
    whole, run = (page.describe(small, budget) for budget in [page.BUDGET, 2000])
    pictured = [node["value"] is not None for node in run["nodes"]]
    assert run["left_out"] == pictured.count(False) > 0
    assert pictured == sorted(pictured) and pictured[-1]
    size = sum(len(node[key]["cells"]) for node in run["nodes"] if node["value"]
               for key in ["value", "cotangent"])  # fmt: skip
    assert 1000 < size <= 2000 and whole["left_out"] == 0
    assert [node["norm"] for node in run["nodes"]] == [node["norm"] for node in whole["nodes"]]


def test_a_page_is_written_whole_or_not_at_all(small, tmp_path, monkeypatch):
    path = tmp_path / "run.html"
    path.write_text("before")
    with pytest.raises(OSError, match="nowhere"):
        page.write_page(small, tmp_path / "nowhere" / "run.html")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        page.write_page(small, path)
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["run.html"]


def test_report_writes_the_page_and_changes_no_gradient(tmp_path):
    model = GPT2Model(GPT2Config(7, 4, 8, 1, 2)).eval()
    ids = np.array([[1, 2, 3]])
    line = page.report(model, ids, ids, tmp_path / "run.html")
    loss = model.loss(ids, ids)
    assert f"loss {loss:.4f}, 31 nodes, 15 vjp calls" in line and str(tmp_path) in line
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (
        f"<title>A backward pass of GPT-2, loss {loss:.4f}</title>"
        in (tmp_path / "run.html").read_text()
    )


def test_the_orders_of_the_diamond():
    """loss = (6 w)**2 + 3 w has the slope 75 at w = 1. One naive order gets it, with more calls."""
    told = page.diamond()
    assert told["gradient"] == 75.0
    right, overwriting, partial, paths = told["orders"]
    assert [o["gradient"] for o in told["orders"]] == [75.0, 3.0, 72.0 + 75.0, 75.0]
    assert (right["calls"], right["calls_of_x"]) == (4, 1)
    assert all((o["calls"], o["calls_of_x"]) == (5, 2) for o in [overwriting, partial, paths])
    assert [(e["from"], e["to"], e["holds"]) for e in right["events"]] == [
        ("loss", "b", 1.0), ("loss", "x", 1.0), ("b", "a", 12.0), ("a", "x", 25.0), ("x", "w", 75.0)
    ]  # fmt: skip
    assert "(1 of 2 gradients) and waits" in right["events"][1]["words"]
    assert [(e["to"], e["holds"]) for e in overwriting["events"]] == [
        ("b", 1.0), ("a", 12.0), ("x", 24.0), ("w", 72.0), ("x", 1.0), ("w", 3.0)
    ]  # fmt: skip


# -- in a browser ----------------------------------------------------------------------------------


class Browser:
    """A headless Chromium: commands go to its file descriptor 3, answers and events come from 4."""

    def __init__(self, profile):
        assert CHROMIUM is not None
        (reads, self._writes), (self._reads, writes) = os.pipe(), os.pipe()
        place = "import os, sys; r, w = (os.dup(os.dup(int(n))) for n in sys.argv[1:3])"
        place += "; os.dup2(r, 3); os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                   "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
                   "--disable-component-update", "--disable-background-networking",
                   f"--user-data-dir={profile}"]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", place, str(reads), str(writes), CHROMIUM, *options],
            pass_fds=(reads, writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._count, self._buffer = 0, b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def close(self):
        try:
            self._session = None
            self.call("Browser.close")
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._reads)
            os.close(self._writes)

    def _message(self, deadline):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reads], [], [], max(0, deadline - time.monotonic()))
            chunk = os.read(self._reads, 1 << 20) if ready else b""
            if not chunk:
                raise TimeoutError("the browser does not answer, or has ended")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer = json.loads(message)
        if "method" in answer:
            self.events.append(answer)
        return answer

    def call(self, method, **params):
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._writes, data) :]
        deadline = time.monotonic() + 20
        while (answer := self._message(deadline)).get("id") != self._count:
            pass
        assert "error" not in answer, (method, answer)
        result = answer["result"]
        return result

    def open(self, path, **metrics):
        """Open a file in a new tab, and wait until it is loaded."""
        self._session, self.events = None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")
        size = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **(size | metrics))
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + 20
        while not self.named("Page.loadEventFired"):
            self._message(deadline)

    def named(self, *methods):
        return [event["params"] for event in self.events if event["method"] in methods]

    def js(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector):
        return str(self.js(f"document.querySelector({json.dumps(selector)}).innerText"))

    def press(self, key):
        code = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        text = {"text": "\r"} if key == "Enter" else {}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(started):
    """The browser. Afterwards it has reported no problem, and has loaded the file alone."""
    yield started
    complaints = started.named(
        "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"
    )
    assert not complaints
    requests = started.named("Network.requestWillBeSent")
    assert len(requests) == 1 and requests[0]["request"]["url"].startswith("file:")
    started.call("Page.close")


@in_browser
def test_opens_in_under_2_seconds(browser, path, trace):
    browser.open(path)
    timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    assert 0 < browser.js(timing) < 2000
    assert browser.text("h1") == "A <b>run</b> & more"
    assert f"{len(trace.nodes)} nodes, {len(trace.calls)} vjp calls" in browser.text("#about")
    assert browser.js("document.querySelectorAll('.node').length") == len(trace.nodes)


@in_browser
def test_the_slider_moves_through_all_calls_and_norms_are_those_of_the_run(browser, path, trace):
    browser.open(path)
    seen = browser.js("""
        Array.from({length: Number($("step").max) + 1}, (_, value) => {
            $("step").value = value;
            $("step").dispatchEvent(new Event("input"));
            const numbers = id => [...$(id).querySelectorAll("data")].map(d => Number(d.value));
            return [$("status").textContent, numbers("facts"), numbers("flow")];
        })""")
    ops = [node for node in trace.nodes if node.parents]
    assert len(seen) == len(ops) + len(trace.calls)
    for k, (node, (status, facts, flow)) in enumerate(zip(ops, seen, strict=False), start=1):
        assert status.startswith(f"forward {k} of {len(ops)}: {node.op}") and node.path in status
        assert facts == [length(node.value)]
        assert flow == [length(trace.nodes[i].value) for i in node.parents]
    for k, (i, (status, facts, flow)) in enumerate(
        zip(trace.calls, seen[len(ops) :], strict=True), start=1
    ):
        node = trace.nodes[i]
        assert status.startswith(f"vjp call {k} of {len(ops)}: {node.op}") and node.path in status
        assert facts == [length(node.value), length(node.cotangent)]
        arrived = [length(g) for _, _, g in node.arrivals]
        sent = [length(g) for parent in node.parents
                for consumer, slot, g in trace.nodes[parent].arrivals
                if consumer == i and node.parents[slot] == parent]  # fmt: skip
        total = [length(node.cotangent)] if len(arrived) > 1 else []
        assert flow == arrived + total + sent


@in_browser
def test_states_waiting_and_memory_at_every_call(browser, path, trace):
    """Compare with a walk over the calls that counts the arrivals."""
    browser.open(path)
    seen = browser.js(f"""
        Array.from({{length: {len(trace.calls)}}}, (_, k) => {{
            show(k + {len(trace.calls)});
            return [buttons.map(({{words}}) => words.textContent), $("waiting").innerText,
                $("waiting-title").textContent, held[step], gradientBytes(step), work[k]];
        }})""")
    counts = [0] * len(trace.nodes)
    held, flops, freed = sum(node.nbytes for node in trace.nodes), 0, set()
    for call, (states, waiting, title, *sizes) in zip(trace.calls, seen, strict=True):
        for parent in trace.nodes[call].parents:
            counts[parent] += 1
        expected, gradients = [], 0
        for i, node in enumerate(trace.nodes):
            n = len(node.arrivals)
            expected.append(
                "freed" if i in freed else "now" if i == call else "not yet" if not counts[i]
                else f"waiting ({counts[i]} of {n})" if counts[i] < n
                else "ready" if node.parents else "done"
            )  # fmt: skip
            gradients += node.value.nbytes * (counts[i] > 0 and i not in freed and i != call)
        freed.add(call)
        held, flops = held - trace.nodes[call].nbytes, flops + trace.nodes[call].flops
        assert states == expected
        assert sizes == [held, gradients, flops]
        waits = [i for i, state in enumerate(expected) if state.startswith("waiting")]
        assert title == f"Still waiting: {len(waits)}"
        assert re.findall(r"#(\d+)", waiting) == [str(i) for i in waits]
    assert {"waiting (1 of 2)"} < {state for states, *_ in seen for state in states}


@in_browser
def test_heat_maps_are_drawn(browser, path, trace):
    browser.open(path)
    call = next(i for i in trace.calls if trace.nodes[i].op == "causal_attention")
    cells = decoded(read(path.read_text())["nodes"][call]["cotangent"])
    browser.js(f"show({len(trace.calls) + trace.calls.index(call)})")
    pixels = browser.js("""(() => {
        const canvas = document.querySelector("#maps figure > canvas");
        return [...canvas.getContext("2d").getImageData(0, 0, 64, 64).data]; })()""")
    t = np.sqrt(np.abs(cells) / np.max(np.abs(cells)))[..., None]
    end = np.where(cells[..., None] > 0, [175, 20, 40], [20, 80, 160])
    drawn = np.reshape(pixels, (64, 64, 4))
    assert np.max(np.abs(drawn[..., :3] - (247 + t * (end - 247)))) <= 1
    assert np.all(drawn[..., 3] == 255) and np.ptp(drawn[..., 0]) > 200
    # the number under the pointer
    box = browser.js("""(() => { const canvas = document.querySelector("#maps figure > canvas");
        canvas.scrollIntoView({block: "center"});
        const box = canvas.getBoundingClientRect(); return [box.x, box.y, box.width / 64]; })()""")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved",
                 x=box[0] + 2.5 * box[2], y=box[1] + 7.5 * box[2])  # fmt: skip
    told = re.search(r"Cell \(7, 2\): (\S+)", browser.text("#maps figure figcaption"))
    assert told and float(told[1]) == pytest.approx(cells[7, 2], rel=1e-4)


@in_browser
def test_keys_and_clicks(browser, path, trace):
    browser.open(path)
    n = len(trace.calls)
    step, last = "[step, Number($('step').value)]", 2 * n - 1
    for key, expected in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", last),
                          ("ArrowRight", last), ("Home", 0), ("ArrowLeft", 0)]:  # fmt: skip
        browser.press(key)
        assert browser.js(step) == [expected, expected], key
    reached = []  # by Tab, in this order
    for _ in range(6):
        browser.press("Tab")
        reached.append(browser.js("document.activeElement.id"))
    assert reached == ["first", "back", "play", "on", "last", "step"]
    assert browser.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("ArrowRight")  # on the slider itself: one step, not two
    assert browser.js(step) == [1, 1]
    browser.js("document.querySelector('#on').focus()")
    browser.press("Enter")
    assert browser.js(step) == [2, 2]
    # elements that use the arrow keys themselves keep them
    for element in ["#diamond-step", "#source", "[name=order]"]:
        browser.js(f"document.querySelector('{element}').focus()")
        browser.press("ArrowRight")
        assert browser.js(step) == [2, 2], element
    browser.js("document.activeElement.blur()")
    # a click on a node goes to its step; on a leaf, to the step that completes its gradient
    browser.press("End")
    leaf = next(node for node in trace.nodes if node.name == "h.2.mlp.c_fc.weight")
    for i in [trace.calls[5], leaf.index]:
        browser.js(f"buttons[{i}].button.click()")
        call = i if trace.nodes[i].parents else leaf.arrivals[0][0]
        assert browser.js(step)[0] == n + trace.calls.index(call)
        assert f"#{i}" in browser.text("#what")
        assert browser.js(f"buttons[{i}].button.ariaCurrent") == "true"
    norms = browser.js("[...document.querySelectorAll('#facts data')].map(d => Number(d.value))")
    assert norms == [length(leaf.value), length(leaf.cotangent)]


@in_browser
def test_the_graph_is_folded_except_around_the_shown_node(browser, path):
    browser.open(path)
    opened = "groups.filter(g => g.details.open).map(g => g.name)"
    assert browser.js(opened) == ["wte"]
    browser.js("jump(nodes.findIndex(node => node.op === 'causal_attention'))")
    assert browser.js(opened) == ["h.0", "attn"]
    assert browser.js("buttons[shown].button.checkVisibility()")
    browser.js("groups.find(g => g.name === 'wpe').summary.click()")  # a reader's choice stays
    browser.js("show(0)")
    assert browser.js(opened) == ["wte", "wpe"]
    summary = browser.text("#graph summary").split()
    assert summary == ["wte", "2", "of", "2"]  # done or given


@in_browser
def test_the_naive_recursion_shows_the_wrong_number(browser, path):
    browser.open(path)
    for i, order in enumerate(page.diamond()["orders"]):
        browser.js(f"document.querySelectorAll('[name=order]')[{i}].click()")
        assert browser.text("#verdict") == ""
        for k, event in enumerate(order["events"]):
            browser.js(f"$('diamond-step').value = {k};"
                       "$('diamond-step').dispatchEvent(new Event('input'))")  # fmt: skip
            assert browser.text("#events .live") == event["words"]
            assert (
                browser.js(
                    f"document.querySelector('[data-node={event['to']}] .holds').textContent"
                )
                == f"g = {event['holds']:g}"
            )
            edge = browser.js("document.querySelector('.edge.live').dataset.edge")
            assert edge == f"{event['from']} {event['to']}"
        right = order["gradient"] == 75.0
        verdict = browser.text("#verdict")
        assert verdict.startswith(
            f"dloss/dw = {order['gradient']:g}: {'right' if right else 'wrong'}"
        )
        assert ("the right value is 75" in verdict) != right
        assert f"{order['calls']} vjp calls, {order['calls_of_x']} of them for x" in verdict


@in_browser
@pytest.mark.parametrize("width", [320, 400, 700, 1200])
def test_no_horizontal_overflow(browser, path, trace, width):
    browser.open(path, width=width, mobile=width < 700)
    widest = f"""Math.max(...[0, {len(trace.calls)}, {2 * len(trace.calls) - 1}].map(k => {{
        show(k); return document.documentElement.scrollWidth; }}))"""
    assert browser.js(widest) <= width
    columns = browser.js("getComputedStyle($('columns')).gridTemplateColumns").split()
    assert len(columns) == (1 if width <= 700 else 2)


@in_browser
def test_light_and_dark(browser, path):
    """The contrast of text and background is at least 4.5 to 1 (WCAG 2.2, criterion 1.4.3)."""
    browser.open(path)
    for scheme in ["light", "dark"]:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", features=features)
        browser.js("show(60)")
        ground = luminance(browser.js("getComputedStyle($('detail')).backgroundColor"))
        assert (ground > 0.5) == (scheme == "light")
        for selector in ["#what", "#facts dt", "#flow .link", "#detail .state", "figcaption"]:
            text = luminance(browser.js(
                f"getComputedStyle(document.querySelector('{selector}')).color"))  # fmt: skip
            contrast = (max(text, ground) + 0.05) / (min(text, ground) + 0.05)
            assert contrast >= 4.5, (scheme, selector, contrast)
    browser.call("Emulation.setEmulatedMedia", features=[])


def luminance(colour):
    """Relative luminance of "rgb(r, g, b)"; WCAG 2.2, section "Terms and definitions"."""
    c = np.array([int(n) for n in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@in_browser
def test_a_page_without_pictures_and_with_numbers_that_are_not_finite(browser, tmp_path):
    x = Tensor(np.array([[np.nan, 1.0], [np.inf, -3.0]]), requires_grad=True)
    with np.errstate(all="ignore"):
        trace = Trace.of((x * x).sum())
    page.write_page(trace, tmp_path / "a.html")
    browser.open(tmp_path / "a.html")
    browser.js("show(3, 0)")
    assert "nan" in browser.text("#facts") and "2 cells (green)" in browser.text("#maps")
    page.write_page(trace, tmp_path / "b.html", budget=0)
    browser.open(tmp_path / "b.html")
    assert "3 of the nodes have no pictures" in browser.text("#left-out")
    assert "no picture, norm only" in browser.text("#maps")


def test_a_trace_without_calls_or_with_too_many_nodes_is_refused(tmp_path):
    x = Tensor(1.0, requires_grad=True)
    with pytest.raises(ValueError, match="the root is a leaf"):
        page.write_page(Trace.of(x), tmp_path / "page.html")
    for _ in range(page.NODES):
        x = -x
    with pytest.raises(ValueError, match="6,001 nodes is too large for a page, which .* 6,000"):
        page.write_page(Trace.of(x), tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_means_of_large_numbers_do_not_overflow():
    picture = page.heat_map(np.full((1, 200), 1e308))
    assert picture["scale"] == pytest.approx(1e308)
    assert set(np.frombuffer(base64.b64decode(picture["cells"]), np.int8)) == {127}


def test_a_report_is_without_dropout_and_the_model_stays_in_its_mode(tmp_path):
    config = GPT2Config(7, 4, 8, n_layer=1, n_head=2, embd_pdrop=0.5, resid_pdrop=0.5)
    model = GPT2Model(config).train()
    line = page.report(model, [[1, 2]], [[2, 3]], tmp_path / "page.html")
    assert all(module.training for module in model.modules())
    loss = model.eval().loss([[1, 2]], [[2, 3]]).item()
    assert f"loss {loss:.4f}, " in line
