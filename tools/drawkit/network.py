"The road, and GEIIM. The numbers of the graph and of its hops are computed as the library computes them."
from .pen import Drawing, shade

N, ALPHA = 4, .7
PLACES = [49, 123, 197, 271]                    # of the four instances
WEIGHTS = [.12, .20, .48, .20]                  # w_n, sums to 1
A = [[.35, .30, .25, .10], [.20, .25, .45, .10], [.10, .25, .40, .25], [.05, .15, .45, .35]]
ROW = A[1]                                      # what instance 2 takes
APEX = [0, 0, 0, 0, 0, .1, .3, .6, .9, 1, 1, .9, .6, .3, .1, 0]    # of an expression, frame by frame


# --- what several drawings share
def made_up(seed, count, high=1.):
    "Numbers of a feature, to fill its cells."
    return [high * (.12 + .088 * ((7 * seed * seed + 5 * k * (seed + 2) + 3 * k * k) % 11)) for k in range(count)]


def two(v): return "1" if v > .995 else "0" if v < .005 else f"{v:.2f}".removeprefix("0")


def heading(d, y, number, words): d.text(14, y, f"{number}\u2002{words}", "head")


def face(d, x, y, open_, r=7):
    "A face of a few lines; the mouth opens and the brows rise with the expression."
    d.ring(x, y, r, "line soft")
    for side in (-1, 1):
        d.ring(x + side * r * .36, y - r * .2, r * .13, "solid ink")
        brow = f"M{x + side * r * .36 - 1.4:.1f} {y - r * (.44 + .14 * open_):.1f}h2.8"
        if open_ > .2: d.stroke(brow, "line ink", .9)
    if open_ > .2:
        d.put("ellipse", "solid ink", cx=x, cy=y + r * .45, rx=r * (.15 + .1 * open_), ry=r * (.06 + .26 * open_))
    else: d.stroke(f"M{x - r * .3:.1f} {y + r * .45:.1f}h{r * .6:.1f}", "line ink", 1)


def clip(d, y, places=PLACES):
    "The frames of the clip, four to an instance."
    for n, x in enumerate(places):
        d.box(x - 34, y, 68, 28, "tint soft", 5)
        for k in range(4): face(d, x - 25 + 16.6 * k, y + 14, APEX[4 * n + k])


def features(d, y, letter, seed, high=(1, 1, 1, 1), places=PLACES, look="ink", count=6):
    "A short row of cells for each instance, with its letter."
    for n, x in enumerate(places):
        d.text(x - 17, y + 12, f"${letter}_{n + 1}$", at="end")
        d.table(x - 13, y, [made_up(seed + n, count, high[n])], 7.5, 15, look)


def down(d, y0, y1, places=PLACES, look="ink"):
    for x in places: d.arrow((x, y0), (x, y1), look=look)


def nodes(d, y, labels, places, look="green", r=17, fills=None):
    "A node for each instance."
    for k, (x, name) in enumerate(zip(places, labels)):
        d.ring(x, y, r, "blank")
        if fills and fills[k]: d.put("circle", f"solid {look}", cx=x, cy=y, r=r, opacity=shade(fills[k]))
        d.ring(x, y, r, f"line {look}")
        d.text(x, y + 5, name, at="middle")


def scores(d, y, height): d.bars(22, y, [.18, .10, .22, .12, 1, .16, .42], 14, 5.5, height, "ink")


def product(A, h): return [sum(a * b for a, b in zip(row, h)) for row in A]


def hops(x, count):
    "h0, h1, ... as `propagate` computes them, for one number of each instance."
    h = [x]
    for _ in range(count): h.append([ALPHA * a + (1 - ALPHA) * b for a, b in zip(x, product(A, h[-1]))])
    return h


# --- the road
def road():
    """The whole road.

    From top to bottom: a file; sixteen frames are taken and grouped into a bag of four instances; a
    backbone makes a feature of each instance; GEIIM lets the instances exchange features and also gives a
    dependency weight for each instance; WIAN reads the instances forwards and backwards, and the weights say how
    much of each it writes down; the output stage makes one bag feature of the states, again with the weights; a
    linear layer makes scores of it. MCCL, a loss that is used in training only, stands beside the bag feature."""
    d = Drawing(road.__doc__, 654)
    d.put("path", "tint soft", d="M16 13h15l8 8v21h-23Z"); d.put("path", "solid soft", d="M23 24l10 6l-10 6Z")
    d.text(48, 25, "file", "bold"); d.text(48, 42, "all frames", "soft")
    d.arrow((118, 28), (148, 28))
    d.text(156, 25, "frames", "bold"); d.text(156, 42, "$T$ = 16, spread evenly", "soft")
    d.arrow((160, 48), (160, 61))
    d.box(8, 63, 304, 67, "line soft dash", 9)
    clip(d, 70)
    d.text(160, 120, "bag of $N$ = 4 instances, each $L$ = 4 frames", at="middle")
    down(d, 131, 144)
    d.named(14, 146, 292, 42, "grey", "backbone", "the same for every instance")
    down(d, 189, 201); features(d, 203, "x", 1)
    down(d, 219, 232)
    d.named(14, 234, 292, 44, "green", "GEIIM", "instances exchange features")
    d.arrow((307, 256), (329, 256), (329, 272), look="vermilion")
    d.bars(314.5, 306, WEIGHTS, 6, 2, 60)
    d.text(330, 323, "$w_n$", at="middle")
    d.arrow((329, 331), (329, 347), (308, 347), look="vermilion")
    d.arrow((329, 331), (329, 438), (308, 438), look="vermilion")
    down(d, 279, 292); features(d, 294, "G", 21)
    down(d, 310, 323)
    d.named(14, 325, 292, 44, "blue", "WIAN", "reads forwards and backwards")
    d.arrow((248, 338), (294, 338), look="blue"); d.arrow((294, 350), (248, 350), look="blue")
    down(d, 370, 383); features(d, 385, "h", 43, (.5, .65, 1, .65))
    down(d, 401, 414)
    d.named(14, 416, 292, 44, "sky", "output stage", "attention, then $N$ states become one")
    d.arrow((204, 461), (204, 474))
    d.text(14, 489, "bag feature", "bold"); d.table(108, 476, [made_up(3, 22)], 9, 16)
    d.arrow((128, 493), (128, 512)); d.arrow((262, 493), (262, 512), look="purple", dash=" dash")
    d.named(14, 514, 148, 44, "grey", "linear layer", "$W$ · bag + $b$")
    d.named(188, 514, 158, 44, "purple", "MCCL", "compares clips")
    d.arrow((88, 559), (88, 574)); d.arrow((262, 559), (262, 574), look="purple", dash=" dash")
    scores(d, 620, 42)
    d.text(14, 640, "scores", "bold")
    d.arrow((160, 607), (186, 607), dash=" dash")
    d.box(188, 576, 158, 64, "line soft dash")
    d.lines(199, 594, "loss, in training:", "cross entropy", "+ MCCL, weighted", look="soft", step=18)
    return d


# --- GEIIM
def geiim_graph():
    """GEIIM: the graph.

    Four instances as nodes. The second takes from the first with weight .20, from itself with .25, from the third
    with .45 and from the fourth with .10. These numbers are a row of the adjacency A, the softmax of the relu of the
    product of two small learned tables."""
    d = Drawing(geiim_graph.__doc__, 354)
    heading(d, 28, 1, "Graph: how much $i$ takes from $j$")
    at, y = [44, 130, 216, 302], 118
    d.arc((44, y - 18), (52, y - 44), (104, y - 48), (121, y - 16), "green", 1 + 7 * ROW[0], 9)
    d.arc((216, y - 18), (208, y - 44), (156, y - 48), (139, y - 16), "green", 1 + 7 * ROW[2], 11)
    d.arc((302, y - 18), (292, y - 92), (142, y - 100), (130, y - 19), "green", 1 + 7 * ROW[3], 8)
    d.arc((118, y + 13), (96, y + 46), (164, y + 46), (142, y + 14), "green", 1 + 7 * ROW[1], 9)
    for x, up, v in ((84, 46, ROW[0]), (177, 45, ROW[2]), (236, 56, ROW[3])): d.text(x, y - up, two(v), at="middle")
    d.text(160, y + 34, two(ROW[1]))
    nodes(d, y, [f"$x_{n}$" for n in range(1, 5)], at)
    d.lines(14, 180, "Drawn for $i$ = 2. Its four numbers sum to 1;", "they are row 2 of the adjacency $A$:")
    top = 206
    d.table(14, top + 34, [made_up(n + 1, 5) for n in range(4)], 11, 14, "green")
    d.text(41, top + 110, "$E_1$", at="middle"); d.text(41, top + 26, "$N×d$", at="middle")
    d.ring(76, top + 62, 1.8, "solid ink")
    d.table(84, top + 34, [made_up(n + 5, 4) for n in range(5)], 12, 11.2, "green")
    d.text(108, top + 110, "$E_2$", at="middle"); d.text(108, top + 26, "$d×N$", at="middle")
    d.arrow((140, top + 62), (228, top + 62))
    d.text(182, top + 52, "relu, then", at="middle"); d.lines(182, top + 79, "softmax of", "each row", at="middle")
    d.table(237, top + 8, A, 27, 27, "green")
    for i, row in enumerate(A):
        for j, v in enumerate(row): d.text(250.5 + 27 * j, top + 26 + 27 * i, two(v), "small", "middle")
    d.box(236, top + 35, 110, 27, "frame ink", 3)
    d.text(291, top + 134, "$A$", at="middle")
    return d


def geiim_hops():
    """GEIIM: hops over the graph.

    Three rows of four nodes. In the first row the third node has the value 1, the others 0. In the next row each node
    has 0.7 times its first value and 0.3 times what it takes over the graph: .08, .14, .82 and .14; in the last row
    .09, .13, .82 and .13. All rows side by side go through a linear layer."""
    d = Drawing(geiim_hops.__doc__, 350)
    y = 28
    heading(d, y, 2, "Hops: keep a share, take the rest")
    d.text(14, y + 25, "$h^{(k)} = α x + (1−α) A h^{(k−1)}$   with $α$ = 0.7")
    at, h = [88, 148, 208, 268], hops([0, 0, 1, 0], 2)
    for k in range(3):
        r = y + 60 + 68 * k
        if k:
            for x1 in at:
                for x0 in at: d.stroke(f"M{x0} {r - 50}L{x1} {r - 18}", "line pale", 1)
            for j, x0 in enumerate(at):
                n = ((x0 - 148) ** 2 + 60 ** 2) ** .5
                d.arrow((x0, r - 51), (148 + (x0 - 148) / n * 19, r - 60 / n * 19), look="green",
                        width=1 + 7 * ROW[j], size=7 + 8 * ROW[j])
            d.arrow((320, y + 60), (320, r), (290, r))
        else: d.stroke(f"M286 {r}H320", "line ink")
        nodes(d, r, [two(v) for v in h[k]], at, fills=h[k])
        d.text(14, r + 5, f"$h^{{({k})}}$" + (" $= x$" if not k else ""))
    d.text(326, y + 98, "$α x$")
    d.text(14, y + 240, "Instance 2, first hop: .7 · 0 + .3 · .45 · 1 = .14")
    for x in at: d.arrow((x, y + 250), (x, y + 264))
    d.named(14, y + 266, 332, 44, "green", "linear layer", "mixes all hops of an instance, $D$ numbers again")
    return d


def geiim_scales():
    """GEIIM: convolutions, features and weights.

    Above, three convolutions over the instances, with kernels 1, 3 and 5, around instance 2: the first reads this
    instance, the second its neighbours too, the third all four and one place of zeros. GELU is applied to each,
    then a linear layer fuses them. Below, the output is added to x and normalised, which gives the features. A softmax
    over the instances of one score each gives the dependency weights. Both go on to WIAN, the weights also to the
    output stage."""
    d = Drawing(geiim_scales.__doc__, 556)
    heading(d, 28, 3, "Convolutions over the instances")
    d.text(14, 56, "$h$ around $n$ = 2")
    at = [106 + 30 * j for j in range(6)]
    for j, x in enumerate(at[1:5]): d.text(x + 13, 56, f"${j + 1}$", at="middle")
    for i, k in enumerate((1, 3, 5)):
        y = 66 + 42 * i
        d.text(14, y + 17, f"kernel {k}")
        for j, x in enumerate(at):
            inside = abs(j - 2) <= k // 2
            if 0 < j < 5: d.box(x, y + 1, 26, 23, "tint " + ("green" if inside else "soft"), 3)
            elif inside: d.box(x, y + 1, 26, 23, "line soft dash", 3); d.text(x + 13, y + 17, "0", "soft", "middle")
        first, last = max(0, 2 - k // 2), 2 + k // 2
        d.box(at[first] - 3, y - 2, at[last] - at[first] + 32, 29, "frame green", 5)
        d.arrow((262, y + 12), (280, y + 12), look="ink")
        d.box(282, y, 52, 25, "tint green", 12); d.text(308, y + 17, "GELU", at="middle")
        d.stroke(f"M334 {y + 12.5}H347", "line ink")
    d.arrow((347, 78), (347, 215), (308, 215))
    d.named(14, 193, 292, 44, "green", "linear layer", "fuses the three responses: out")
    heading(d, 270, 4, "Two exits: features and weights")
    d.text(14, 297, "features = LayerNorm($x$ + out)")
    for n, x in enumerate(PLACES):
        d.text(x - 19, 322, str(n + 1), at="end"); d.table(x - 13, 310, [made_up(21 + n, 6)], 7.5, 15)
    down(d, 326, 342)
    d.named(14, 344, 292, 44, "vermilion", "softmax over the instances", "of one score each, $v^⊤$ features")
    down(d, 389, 403, look="vermilion")
    for n, (x, w) in enumerate(zip(PLACES, WEIGHTS)):
        d.bars(x - 16, 464, [w], 32, 0, 120)
        d.text(x, 483, f"$w_{n + 1}$ = {two(w)}", at="middle")
    d.arrow((307, 318), (332, 318), (332, 510)); d.arrow((270, 493), (270, 510), look="vermilion")
    d.text(14, 505, "sum 1; before training 1/$N$ each", "soft")
    d.box(14, 512, 332, 30, "tint blue"); d.text(25, 532, "WIAN", "bold")
    d.text(74, 532, "weights: also to the output stage", "soft")
    return d
