"The contrastive losses: who is compared with whom, and at which scales."
from math import cos, radians, sin

from .pen import Drawing

BATCH = [0, 0, 1, 0, 1, 2]          # classes of six clips
COUNTS = [400, 100, 20]             # training clips of each class


def category_weights(n_c, beta=.999):
    "As `micacl.mccl.category_weights`: one over the effective number, scaled to sum to the number of classes."
    w = [(1 - beta) / (1 - beta ** n) for n in n_c]
    return [v * len(w) / sum(w) for v in w]


def signs(columns):
    "1 for a partner, -1 for a negative, 0 for the anchor itself: a row for each clip of the batch."
    return [[0 if k == i else 1 if c == own else -1 for k, c in enumerate(columns)] for i, own in enumerate(BATCH)]


def pair_table(d, x, y, size, columns):
    "Rows are the anchors. + a partner, - a negative; the anchor itself is left out."
    place = lambda k: x + size * k + (10 if k >= len(BATCH) else 0)
    for k, c in enumerate(columns):
        if k >= len(BATCH): d.ring(place(k) + size / 2, y - 14, 11, "line soft")
        d.mark(place(k) + size / 2, y - 14, c)
    for i, row in enumerate(signs(columns)):
        d.mark(x - 16, y + size * (i + .5), BATCH[i])
        for k, sign in enumerate(row):
            m, mid, r = place(k) + size / 2, y + size * (i + .5), size * .2
            if not sign: slash(d, m, mid, r); continue
            look = f"tint {('blue', 'vermilion', 'green')[BATCH[i]]}" if sign > 0 else "line pale"
            d.box(place(k) + 1, y + size * i + 1, size - 2, size - 2, look, 3)
            minus, bar = f"M{m - r:.1f} {mid}h{2 * r:.1f}", f"M{m} {mid - r:.1f}v{2 * r:.1f}"
            if sign > 0: d.stroke(minus + bar, "line ink", 2)
            else: d.stroke(minus, "line soft", 1.4)


def slash(d, x, y, r): d.stroke(f"M{x - r} {y + r}l{2 * r} {-2 * r}", "line pale", 1.6)


def legend(d, y):
    d.box(14, y - 12, 16, 16, "tint soft", 3); d.stroke(f"M18 {y - 4}h8M22 {y - 8}v8", "line ink", 2)
    d.text(37, y + 1, "partner, pulled")
    d.box(154, y - 12, 16, 16, "line pale", 3); d.stroke(f"M158 {y - 4}h8", "line soft", 1.4)
    d.text(177, y + 1, "negative, pushed")
    slash(d, 22, y + 21, 5)
    d.text(37, y + 25, "the clip itself, left out")


def pairs():
    """Who is compared with whom.

    A table of six clips of a batch against the same six. Each row is an anchor. Plus: a partner of the same class;
    minus: a negative of another class; the diagonal is left out. The last clip is the only one of its class: it
    has no partner, and its row is skipped."""
    d = Drawing(pairs.__doc__, 346)
    d.text(14, 28, "A batch, compared with itself", "head")
    size, x, y = 31, 48, 82
    d.text(14, 52, "rows: anchors $i$; columns: all clips $k$", "soft")
    pair_table(d, x, y, size, BATCH)
    d.text(250, 74, "$|P(i)|$")
    for i, own in enumerate(BATCH):
        n = BATCH.count(own) - 1
        d.text(262, y + size * (i + .5) + 5, str(n) if n else "0: skipped", "" if n else "bold")
    legend(d, y + 6 * size + 28)
    return d


def mccl_pairs():
    """MCCL: pairs, centres and the category weight.

    The same six clips against themselves and against three learned centres, one for each class. Every row now has
    a partner: the only clip of the rarest class has its centre. Beside each row stands its category weight W as a
    bar: .14 for the class of 400 clips, .49 for that of 100, 2.37 for that of 20."""
    W = category_weights(COUNTS)
    d = Drawing(mccl_pairs.__doc__, 394)
    d.text(14, 28, "A batch, and a centre for each class", "head")
    size, x, y = 25, 40, 88
    d.text(x, 56, "clips", "soft"); d.text(x + 6 * size + 12, 56, "centres", "soft"); d.text(288, 56, "weight", "soft")
    pair_table(d, x, y, size, [*BATCH, 0, 1, 2])
    d.text(288, 78, "$W_c$")
    for i, own in enumerate(BATCH):
        mid = y + size * (i + .5)
        d.put("rect", "solid purple", x=288, y=mid - 5, width=10 * W[own], height=10)
        d.text(292 + 10 * W[own], mid + 5, f"{W[own]:.2f}".removeprefix("0"), "small")
    y += 6 * size + 26
    for c, n in enumerate(COUNTS):
        d.mark(20 + 112 * c, y - 5, c); d.text(32 + 112 * c, y, f"{n} clips")
    legend(d, y + 30)
    d.text(14, y + 88, "Loss of a row: $W_c$ times the mean,")
    d.text(14, y + 108, "over its partners, of −log softmax($S_{ij}$)")
    return d


def sphere(d, x, y, r, spread):
    "A unit sphere with clips of three classes, each around its centre."
    d.ring(x, y, r, "tint soft")
    d.put("ellipse", "line pale", cx=x, cy=y, rx=r, ry=r * .3, style="stroke-width:1")
    for c, angle in enumerate(spread):
        a = radians(angle)
        cx, cy = x + r * .56 * cos(a), y - r * .56 * sin(a)
        for k in (40, 160, 280):
            b = radians(angle + k)
            d.mark(cx + r * .31 * cos(b), cy - r * .31 * sin(b), c, 2 + r * .04)
        for look in ("blank", "line ink"): d.ring(cx, cy, 3.5 + r * .08, look)
        d.mark(cx, cy, c, 2 + r * .04)


SPREADS = {1: [(100, 215, 325)], 2: [(45, 110, 250), (150, 275, 35)],
           4: [(120, 60, 265), (60, 190, 255), (150, 335, 275), (90, 205, 330)]}      # degrees of the three centres


def mccl_scales():
    """MCCL: one bag feature at three scales.

    The bag feature is compared at scale 1 as a whole, at scale 2 in two groups and at scale 4 in four. Each group
    has a projection and a unit sphere of its own, with the clips of three classes and a learned centre for each.
    The similarity at a scale is the mean cosine over its groups, divided by the temperature; the loss is the mean
    over the scales."""
    d = Drawing(mccl_scales.__doc__, 498)
    d.text(14, 28, "One feature, three scales", "head")
    y = 44
    for s, r in ((1, 42), (2, 38), (4, 34)):
        d.text(14, y + 15, f"$s$ = {s}")
        w = 286 / s
        for g in range(s):
            mid = 60 + w * (g + .5)
            d.box(mid - w / 2 + 1.5, y, w - 3, 21, "tint purple", 3)
            d.text(mid, y + 15, "the bag feature" if s == 1 else f"group {g + 1}", at="middle")
            d.arrow((mid, y + 21), (mid, y + 41))
            d.text(mid + 7, y + 37, f"$Q^{s}_{g + 1}$")
            sphere(d, mid, y + 43 + r, r, SPREADS[s][g])
        if s == 1:
            d.lines(62, y + 74, "ring: a", "learned", "centre $μ_c$", look="soft")
            d.lines(262, y + 74, "sphere:", "$z$ has", "length 1", look="soft")
        y += 43 + 2 * r + 16
    d.text(14, y + 10, "$S^s_{ij}$ = mean cosine over the $s$ groups, over $τ$")
    d.text(14, y + 34, "loss = mean of the losses at scales 1, 2 and 4")
    return d
