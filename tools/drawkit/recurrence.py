"WIAN's cell and layer, and the output stage."
from .network import N, WEIGHTS, made_up, scores, two
from .pen import Drawing

STATES = .5, .65, 1, .65        # how much of each instance was written


def gate(d, x, y, name, look="grey"):
    d.box(x - 17, y, 34, 25, f"tint {look}", 5)
    d.text(x, y + 17, name, at="middle")


def cell(d, top, importance):
    "An LSTM cell; with the importance gate, WIAN's. What both have in common is drawn by the same lines."
    f, i, c, s, o = 78, 136, 182, 228, 282
    line, product, gates, bus = top + 34, top + 92, top + 128, top + 174
    new = "vermilion" if importance else "grey"
    d.box(46, top, 270, 196, "line grey", 12)
    d.text(8, line - 8, "$c_{t−1}$"); d.text(324, line - 8, "$c_t$"); d.text(324, product - 8, "$h_t$")
    d.text(8, bus - 8, "$x_t$"); d.text(8, bus + 17, "$h_{t−1}$")
    d.arrow((8, line), (352, line), look="grey", width=2.4, size=9)
    d.stroke(f"M8 {bus}H{o}V{gates + 27}", "line grey")
    for x in (f, i, c, o): d.arrow((x, bus), (x, gates + 27), look="grey")
    for x, name in ((f, "$f_t$"), (i, "$i_t$"), (c, "$ĉ_t$"), (o, "$o_t$")): gate(d, x, gates, name)
    d.arrow((f, gates), (f, line + 10), look="grey"); d.sign(f, line, "×", "grey")
    d.arrow((i, gates), (i, product), (c - 10, product), look="grey")
    d.arrow((c, gates), (c, product + 10), look="grey")
    d.arrow((c, product - 9), (c, line + 10), look=new)
    d.sign(c, line, "+", "grey"); d.sign(c, product, "×", new)
    d.arrow((o, line), (o, line + 13), look="grey")
    d.box(o - 22, line + 14, 44, 21, "tint grey", 10); d.text(o, line + 29, "tanh", "small", "middle")
    d.arrow((o, line + 35), (o, product - 10), look="grey")
    d.arrow((o, gates), (o, product + 10), look="grey"); d.sign(o, product, "×", "grey")
    d.arrow((o + 9, product), (352, product), look="grey")
    if not importance: return
    d.arrow((s, bus), (s, gates + 27), look=new); gate(d, s, gates, "$σ$", new)
    d.arrow((s, gates), (s, product), (c + 10, product), look=new)
    d.stroke(f"M255 {bus + 6}v-12M255 {top + 202}v-12", "gap")
    d.arrow((255, top + 212), (255, product + 19), (s + 9, product + 19), look=new)
    d.sign(s, product + 19, "×", new, 7)
    d.text(s - 17, product - 7, "$γ_t$", at="middle"); d.text(255, top + 228, "$N w_t$", at="middle")


def wian_cell():
    """The cell of an LSTM and the cell of WIAN.

    Two cells, one above the other, alike in all but one gate. In the LSTM the memory is multiplied by the forget
    gate, and the input gate times the candidate is added to it; the output gate times the tanh of the memory is
    the new state. In WIAN what is added is also multiplied by the importance gate, a learned sigmoid times N times
    the dependency weight."""
    d = Drawing(wian_cell.__doc__, 628)
    d.text(14, 28, "LSTM", "head")
    cell(d, 42, False)
    d.text(180, 262, "$c_t = f_t c_{t−1} + i_t ĉ_t$", at="middle")
    d.text(180, 286, "$f_t, i_t, o_t = σ(·)$,  $ĉ_t$ = tanh$(·)$", at="middle")
    d.text(14, 326, "WIAN: one gate more", "head")
    d.text(346, 326, "grey: the same", "soft", "end")
    cell(d, 340, True)
    d.text(180, 590, "$c_t = f_t c_{t−1} + i_t ĉ_t γ_t$", at="middle")
    d.text(180, 614, "$γ_t = σ(W_γ x_t + U_γ h_{t−1} + b_γ) · N w_t$", at="middle")
    return d


def wian_layer():
    """A layer of WIAN reads the bag in two directions.

    In the middle the four instances, each with its feature x and N times its dependency weight, as a bar. Above,
    four cells read them from left to right, each handing its state to the next. Below, four others read from right
    to left. The state of an instance is what both cells made at its place, side by side."""
    d = Drawing(wian_layer.__doc__, 404)
    at = [64, 142, 220, 298]
    d.text(14, 28, "One layer, two directions", "head")
    for k, (y, way, out) in enumerate(((92, 1, 62), (234, -1, 292))):
        mid = y + 13
        for n, x in enumerate(at):
            d.box(x - 21, y, 42, 26, "tint blue", 6); d.text(x, mid + 5, "cell", at="middle")
            d.arrow((x, y + (0 if way > 0 else 26)), (x, out), look="blue")
            d.table(x - 15, out - 15 if way > 0 else out + 2, [made_up(60 + n + 9 * k, 4, STATES[n])], 7.5, 13,
                    "blue" if k == 0 else "sky")
            if 0 <= n + way < 4: d.arrow((x + 21 * way, mid), (at[n + way] - 23 * way, mid), look="blue")
        x, zero = (at[0] - 21, 16) if way > 0 else (at[3] + 21, 344)
        d.text(zero, mid + 5, "0", at="middle"); d.arrow((zero + 7 * way, mid), (x - 2 * way, mid), look="blue")
    for n, (x, w) in enumerate(zip(at, WEIGHTS)):
        d.box(x - 35, 136, 70, 82, "tint soft", 7)
        d.text(x - 29, 158, f"$x_{n + 1}$"); d.table(x - 2, 146, [made_up(21 + n, 4)], 7.5, 15)
        d.put("rect", "solid vermilion", x=x - 27, y=170, width=27 * N * w, height=10)
        d.stroke(f"M{x} 166v18", "line ink dash", 1.2)
        d.text(x - 29, 206, f"$N w_{n + 1}$")
        d.text(x + 32, 206, two(N * w) if w * N < 1 else f"{N * w:.1f}", "small", "end")
        d.arrow((x, 136), (x, 120)); d.arrow((x, 218), (x, 232))
    d.lines(14, 334, "state $h_t$: both halves, one after the other")
    for n, x in enumerate(at):
        d.text(x - 34, 362, f"$h_{n + 1}$", at="start")
        for k, look in enumerate(("blue", "sky")):
            d.table(x - 15 + 27 * k, 350, [made_up(60 + n + 9 * k, 4, STATES[n])], 6.5, 15, look)
    d.text(14, 390, "Dashed: 1, as with uniform weights.", "soft")
    return d


def tail():
    """The output stage.

    The states of WIAN are the four rows of a table h, each as long as the states of both directions together. In
    self-attention with eight heads each state collects from all of them; the result M is added to h and normalised.
    Each row is multiplied by N times its dependency weight. A convolution takes the four rows as channels and slides
    along the features, three wide: its result is one row, the bag feature, from which a linear layer makes the
    scores. Below, the other reading: M, normalised and squashed, is a gate on h."""
    d = Drawing(tail.__doc__, 672)
    x0, w, h, cols = 60, 19, 20, 9
    mid, right = x0 + w * cols / 2, x0 + w * cols
    d.text(14, 28, "From $N$ states to one bag feature", "head")
    for n in range(4): d.text(x0 - 8, 55 + h * n, f"$h_{n + 1}$", at="end")
    d.table(x0, 42, [made_up(60 + n, cols, STATES[n]) for n in range(4)], w, h)
    d.text(right + 12, 58, "$h$ from WIAN"); d.text(right + 12, 77, "$N$ × 2·hidden", "soft")
    d.arrow((mid, 122), (mid, 136))
    d.named(14, 138, 292, 67, "sky", "self-attention, 8 heads", "each state collects from all $N$:",
            "$M$ = softmax($QK^⊤/√d$) $V$, heads joined")
    d.arrow((right, 104), (332, 104), (332, 222), (mid + 11, 222))
    d.arrow((mid, 205), (mid, 213)); d.sign(mid, 222, "+")
    d.arrow((mid, 231), (mid, 244))
    d.box(14, 246, 292, 29, "tint sky"); d.text(25, 265, "LayerNorm", "bold"); d.text(295, 266, "$ĥ$", at="end")
    y = 298
    d.arrow((mid, 275), (mid, y - 2))
    for n in range(4): d.text(x0 - 8, y + 14 + h * n, f"$ĥ_{n + 1}$", at="end")
    d.table(x0, y, [made_up(80 + n, cols, 2 * wn) for n, wn in enumerate(WEIGHTS)], w, h)
    for n, wn in enumerate(WEIGHTS):
        d.put("rect", "solid vermilion", x=250, y=y + 4 + h * n, width=42 * N * wn, height=12)
    d.text(240.5, y + 45, "$×$", at="middle"); d.text(250, y - 5, "$N w_n$")
    d.box(x0 + 3 * w, y - 2, 3 * w, 4 * h + 4, "frame sky", 3)
    y = 400
    d.arrow((mid, y - 18), (mid, y + 4), look="sky", width=2.4, size=9)
    d.text(mid + 14, y - 3, "Conv1d", "bold")
    d.table(x0, y + 8, [made_up(3, cols)], w, 18); d.box(x0 + 4 * w, y + 7, w, 20, "frame sky", 2)
    d.text(x0 - 8, y + 22, "bag", "bold", "end")
    d.lines(right + 12, y - 3, "width 3,", "$N$ rows to one,", "at first their", "mean", look="soft")
    d.arrow((100, y + 27), (100, y + 64)); d.arrow((218, y + 27), (218, y + 64), look="purple", dash=" dash")
    d.named(14, y + 66, 180, 44, "grey", "linear layer", "after dropout")
    d.named(206, y + 66, 140, 44, "purple", "MCCL", "in training")
    d.arrow((82, y + 111), (82, y + 124)); scores(d, y + 160, 34)
    d.text(166, y + 160, "scores", "bold")
    d.stroke(f"M14 {y + 179}H346", "line pale", 1)
    d.text(14, y + 206, 'The other reading, tail="dmin"', "head")
    d.text(14, y + 230, "bag = Conv1d(sigmoid(DMIN($M$)) · $h$)")
    d.text(14, y + 252, "as M3DFEL has it; $w_n$ takes no part here.", "soft")
    return d
