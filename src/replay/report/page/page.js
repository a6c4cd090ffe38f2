"use strict";
// Read-out, joint filter and steps through the chunks. Every number is on the page without this; values are read back from the curves.
(() => {
  const WIDTH = 1000, HEIGHT = 100;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const svgElement = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };

  // --- Read-out ---------------------------------------------------------------------------------------------------------------------

  const range = (svg, which) => svg.dataset[which].split(" ").map(Number);
  const parsed = new WeakMap();
  // The points of a path in the order of their x.
  const points = path => {
    if (!parsed.has(path)) {
      const numbers = (path.getAttribute("d").replaceAll("h0", "").match(/-?[\d.]+/g) || []).map(Number);
      parsed.set(path, numbers);
    }
    return parsed.get(path);
  };
  // Values of a curve at x: one, or the least and the largest of its column; none further away than `reach`.
  const valuesAt = (path, x, reach) => {
    const numbers = points(path), [low, high] = range(path.ownerSVGElement, "up");
    let from = 0, to = numbers.length / 2;
    while (from < to) {
      const middle = (from + to) >> 1;
      if (numbers[2 * middle] < x) from = middle + 1; else to = middle;
    }
    const distance = index => Math.abs((numbers[2 * index] ?? Infinity) - x);
    const nearest = distance(from) < distance(from - 1) ? from : from - 1;
    if (!(distance(nearest) <= reach)) return [];
    const found = [];
    for (const index of [nearest - 1, nearest, nearest + 1]) {
      if (numbers[2 * index] === numbers[2 * nearest]) found.push(high - numbers[2 * index + 1] / HEIGHT * (high - low));
    }
    return [...new Set([Math.min(...found), Math.max(...found)])];
  };
  const shown = value => {
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(1) : value.toPrecision(4);
  };
  const readOut = (figure, share) => {
    const output = figure.querySelector(".read"), first = figure.querySelector("svg");
    if (!output || !first) return;
    if (share === null) { output.textContent = ""; return; }
    const [low, high] = range(first, "across");
    const parts = [`${(low + share * (high - low)).toFixed(2)} s`];
    for (const [name, title] of [["baseline", "baseline"], ["now", "now"], ["delta", "difference"]]) {
      const path = figure.querySelector(`.chart path.${name}`);
      const values = path ? valuesAt(path, share * WIDTH, 20) : [];
      if (values.length) parts.push(`${title} ${values.map(shown).join("…")}`);
    }
    output.textContent = `${parts.join(" · ")} ${parts.length > 1 ? figure.dataset.unit : ""}`;
  };

  const overBag = all(".commands svg, .difference svg, .strip svg");
  const cursors = overBag.map(svg => svg.appendChild(svgElement("path", { class: "cursor", d: "" })));
  const setCursor = share => {
    const d = share === null ? "" : `M${(share * WIDTH).toFixed(1)} 0V${HEIGHT}`;
    for (const cursor of cursors) cursor.setAttribute("d", d);
  };
  const shareOf = (event, svg) => {
    const box = svg.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  let waiting = false;
  for (const svg of all(".joints svg, .strips svg, .close-up svg")) {
    const figure = svg.closest("figure"), bag = overBag.includes(svg);
    svg.addEventListener("pointermove", event => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        const share = shareOf(event, svg);
        if (bag) setCursor(share);
        readOut(figure, share);
      });
    });
    svg.addEventListener("pointerleave", () => requestAnimationFrame(() => { if (bag) setCursor(null); readOut(figure, chosenShare(bag)); }));
    if (bag) svg.addEventListener("click", event => chooseAt(shareOf(event, svg)));
  }

  // --- Chunks -----------------------------------------------------------------------------------------------------------------------

  const rows = all(".chunks tbody tr"), heads = all(".chunks thead th").map(head => head.textContent);
  const navigator = document.querySelector(".navigator");
  const bars = overBag.map(svg => svg.insertBefore(svgElement("rect", { class: "chosen", y: 0, height: HEIGHT, width: 0, visibility: "hidden" }), svg.firstChild));
  let chosen = -1;
  const span = row => [Number(row.dataset.from), Number(row.dataset.to)];
  const chosenShare = bag => (bag && chosen >= 0 ? span(rows[chosen])[0] : null);
  const choose = index => {
    rows[chosen]?.removeAttribute("aria-current");
    chosen = index;
    const row = rows[index];
    for (const bar of bars) {
      bar.setAttribute("visibility", row ? "visible" : "hidden");
      if (row) {
        const [from, to] = span(row);
        bar.setAttribute("x", from * WIDTH);
        bar.setAttribute("width", Math.max(1.5, (to - from) * WIDTH));
      }
    }
    for (const figure of all(".joints figure, .strips figure")) readOut(figure, chosenShare(true));
    const output = navigator.querySelector("output");
    if (!row) { output.textContent = "No chunk chosen"; return; }
    row.setAttribute("aria-current", "true");
    const list = row.closest(".scroll");
    list.scrollTop = row.offsetTop - list.clientHeight / 2;
    const cell = name => row.cells[heads.indexOf(name)]?.textContent;
    const parts = [`Chunk ${row.cells[0].textContent}, ${index + 1} of ${rows.length}`, `${cell("bag time / s")} s`, cell("outcome")];
    if (heads.includes("differs in")) parts.push(`differs in ${cell("differs in")}`, `${cell("furthest joint")} ${cell("of tolerance")} of its tolerance`);
    output.textContent = parts.join(" · ");
  };
  const chooseAt = share => {
    const index = rows.findIndex(row => { const [from, to] = span(row); return share >= from && share < to; });
    if (index >= 0) choose(index);
  };
  const step = by => choose(chosen < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, chosen + by)));
  if (navigator && rows.length) {
    navigator.hidden = false;
    navigator.addEventListener("click", event => {
      const by = event.target.closest("button")?.dataset.step;
      if (by === "different") {
        const after = rows.findIndex((row, index) => index > chosen && row.classList.contains("changed"));
        const next = after >= 0 ? after : rows.findIndex(row => row.classList.contains("changed"));
        if (next >= 0) choose(next); else navigator.querySelector("output").textContent = "No chunk differs";
      } else if (by) step(Number(by));
    });
    document.addEventListener("keydown", event => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.closest("input, .scroll")) return;
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        event.preventDefault();
        step(event.key === "ArrowLeft" ? -1 : 1);
      } else if (event.key === "Escape" && chosen >= 0) choose(-1);
    });
    document.querySelector(".chunks tbody").addEventListener("click", event => {
      const index = rows.indexOf(event.target.closest("tr"));
      if (index >= 0) choose(index);
    });
  }

  // --- Joint filter -----------------------------------------------------------------------------------------------------------------

  const filter = document.querySelector(".filter");
  if (filter) {
    filter.hidden = false;
    const input = filter.querySelector("input"), buttons = all("button", filter), joints = all(".joint");
    const apply = () => {
      const part = input.value.trim().toLowerCase();
      const outside = buttons.some(button => button.dataset.show === "outside" && button.getAttribute("aria-pressed") === "true");
      for (const joint of joints) {
        joint.hidden = !joint.dataset.joint.toLowerCase().includes(part) || (outside && !joint.classList.contains("is-outside"));
      }
      const seen = joints.filter(joint => !joint.hidden).length;
      filter.querySelector("output").textContent = seen === joints.length ? "" : `${seen} of ${joints.length} joints`;
    };
    input.addEventListener("input", apply);
    for (const button of buttons) {
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        apply();
      });
    }
  }

  // --- Print ------------------------------------------------------------------------------------------------------------------------

  addEventListener("beforeprint", () => { for (const details of all("details")) details.open = true; });
})();
