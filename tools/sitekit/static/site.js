// Light and dark, the contents on a phone, the search, and boxes that scroll. Without it the site is still all there to read.
(() => {
  const script = document.currentScript, root = script.dataset.root, page = document.documentElement;
  const $ = (s, e = document) => e.querySelector(s), all = (s, e = document) => [...e.querySelectorAll(s)];

  // --- light and dark: the system's choice until the reader makes one
  const system = matchMedia("(prefers-color-scheme: dark)"), button = $(".theme");
  const dark = () => page.dataset.theme ? page.dataset.theme === "dark" : system.matches;
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
  button.hidden = false; name(); system.addEventListener("change", name);
  button.addEventListener("click", () => { page.dataset.theme = dark() ? "light" : "dark"; try { localStorage.setItem("theme", page.dataset.theme); } catch (e) {} name(); });

  // --- the contents on a phone
  const menu = $(".menu"), book = $("#book");
  const open = yes => { book.classList.toggle("open", yes); menu.setAttribute("aria-expanded", yes); };
  menu.hidden = false;
  menu.addEventListener("click", () => open(!book.classList.contains("open")));
  document.addEventListener("keydown", e => { if (e.key === "Escape" && book.classList.contains("open")) { open(false); menu.focus(); } });
  const here = $("[aria-current]", book);
  if (here && here.offsetParent && here.offsetTop > book.clientHeight - 80) book.scrollTop = here.offsetTop - book.clientHeight / 2;

  // --- what scrolls sideways can be reached with the keyboard
  const reach = () => all("pre, .scroll, .math.block, .output-html").forEach(e => {
    const needs = e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1;
    if (needs) { e.tabIndex = 0; if (!e.hasAttribute("role")) { e.setAttribute("role", "group"); e.setAttribute("aria-label", e.matches(".scroll") ? "Table, scrolls sideways" : e.matches("pre") ? "Code or output, scrolls" : "Scrolls sideways"); } }
    else { e.removeAttribute("tabindex"); if (e.getAttribute("role") === "group") { e.removeAttribute("role"); e.removeAttribute("aria-label"); } }
  });
  addEventListener("load", reach); addEventListener("resize", reach); document.addEventListener("toggle", reach, true);

  // --- code can be taken along
  if (navigator.clipboard) all("pre.code").forEach(pre => {
    const box = document.createElement("div"), b = document.createElement("button");
    box.className = "taken"; b.className = "copy"; b.type = "button"; b.textContent = "Copy"; b.setAttribute("aria-label", "Copy this code");
    pre.replaceWith(box); box.append(pre, b);
    b.addEventListener("click", () => navigator.clipboard.writeText(pre.textContent.trimEnd()).then(() => { b.textContent = "Copied"; setTimeout(() => { b.textContent = "Copy"; }, 1500); }));
  });

  // --- a link into a fold opens it
  const unfold = () => { const e = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1))); for (let d = e && e.closest("details"); d; d = d.parentElement.closest("details")) d.open = true; if (e && e.closest("details")) e.scrollIntoView(); };
  unfold(); addEventListener("hashchange", unfold);

  // --- where on the page we are
  const marks = new Map(all(".toc a").map(a => [decodeURIComponent(a.hash.slice(1)), a]));
  if (marks.size && "IntersectionObserver" in window) {
    const heads = [...marks.keys()].map(id => document.getElementById(id)).filter(Boolean);
    const follow = () => {
      const past = heads.filter(h => h.getBoundingClientRect().top < 140);
      marks.forEach(a => a.classList.remove("here"));
      const last = past[past.length - 1]; if (last) marks.get(last.id).classList.add("here");
    };
    let waiting = false;
    addEventListener("scroll", () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; follow(); }); } }, {passive: true}); follow();
  }

  // --- search: every section is looked through; all words must be found, as beginnings of words
  const dialog = $("dialog.search"), input = $("#q"), hits = $("#hits"), count = $("dialog .count"), find = $(".find");
  let index = null, chosen = -1;
  const fold = s => s.toLowerCase().normalize("NFD").replace(/[\u0300-\u036f]/g, "");
  const load = () => index || new Promise((done, fail) => {
    const s = document.createElement("script"); s.src = `${root}search.js?${script.dataset.version}`; s.onerror = fail;
    s.onload = () => { index = window.SEARCH.map(([url, title, heading, words]) => ({url, title, heading, words, t: fold(title), h: fold(heading), w: fold(words)})); done(index); };
    document.head.append(s);
  });
  const starts = (text, word) => { let i = text.indexOf(word); while (i > 0 && /[\p{L}\p{N}]/u.test(text[i - 1])) i = text.indexOf(word, i + 1); return i; };
  const score = (s, words) => {
    let sum = 0;
    for (const w of words) {
      let n = 0;
      if (s.h === w) n += 60; else if (starts(s.h, w) >= 0) n += 20; else if (s.h.includes(w)) n += 8;
      if (s.t === w) n += s.url.includes("#") ? 10 : 60; else if (starts(s.t, w) >= 0) n += 6;
      const i = starts(s.w, w); if (i >= 0) n += 4 + Math.max(0, 2 - i / 200); else if (!n && s.w.includes(w)) n += 1;
      if (!n) return 0;
      sum += n;
    }
    return s.url.startsWith("api/") ? sum * .7 : sum;
  };
  const piece = (text, words) => {   // words of a section around the first hit, hits marked
    const at = Math.max(0, Math.min(...words.map(w => { const i = starts(fold(text), w); return i < 0 ? 1e9 : i; }).filter(i => i < 1e9), 1e9)), from = at > 1e8 ? 0 : Math.max(0, at - 50);
    const out = document.createElement("span"), cut = (from ? "… " : "") + text.slice(from, from + 150) + (text.length > from + 150 ? " …" : "");
    const re = new RegExp(`(${words.map(w => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "ig");
    cut.split(re).forEach((x, i) => { if (i % 2) { const m = document.createElement("mark"); m.textContent = x; out.append(m); } else out.append(x); });
    return out;
  };
  const choose = i => {   // the one that Enter follows; Tab reaches them all as well
    const items = all("li", hits); chosen = items.length ? (i + items.length) % items.length : -1;
    items.forEach((li, k) => li.classList.toggle("chosen", k === chosen));
    if (chosen >= 0) items[chosen].scrollIntoView({block: "nearest"});
  };
  const search = async () => {
    await load();
    const words = fold(input.value).split(/\s+/).filter(Boolean);
    const best = words.length ? index.map(s => [score(s, words), s]).filter(x => x[0] > 0).sort((a, b) => b[0] - a[0]).slice(0, 20) : [];
    hits.replaceChildren(...best.map(([, s]) => {
      const li = document.createElement("li"), a = document.createElement("a"), b = document.createElement("b"), where = document.createElement("small");
      a.href = root + s.url;
      b.textContent = s.heading; where.textContent = s.heading === s.title ? "" : s.title;
      a.append(b, " ", where, piece(s.words, words)); li.append(a);
      a.addEventListener("click", () => dialog.close());
      return li;
    }));
    count.textContent = words.length ? (best.length ? `${best.length === 20 ? "the best 20" : best.length} ${best.length === 1 ? "place" : "places"}` : "Nothing found.") : "";
    choose(0);
  };
  const ask = () => { if (!dialog.open) { dialog.showModal(); input.select(); search(); } };
  find.hidden = false; find.addEventListener("click", ask); input.addEventListener("input", search);
  dialog.addEventListener("click", e => { if (e.target === dialog) dialog.close(); });
  input.addEventListener("keydown", e => {
    if (e.key === "ArrowDown" || e.key === "ArrowUp") { e.preventDefault(); choose(chosen + (e.key === "ArrowDown" ? 1 : -1)); }
    else if (e.key === "Enter") { e.preventDefault(); const a = all("li a", hits)[chosen]; if (a) a.click(); }
  });
  document.addEventListener("keydown", e => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName) || e.target.isContentEditable;
    if ((e.key === "/" && !typing && !e.ctrlKey && !e.metaKey) || (e.key.toLowerCase() === "k" && (e.ctrlKey || e.metaKey))) { e.preventDefault(); ask(); }
  });
})();
