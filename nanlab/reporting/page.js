// Interactive maps: hovering shows the runs of a cell, a click or Enter why they failed.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const announced = document.getElementById("announced");
  const blame = document.getElementById("blame");
  const cells = data.cells.map(([panel, column, row, box, counts, blames, fault, example, ids]) =>
    ({ panel, column, row, box, counts, blames, fault, example, ids }));
  const maps = document.querySelectorAll("svg.map");
  const current = new Map();
  let before = null;

  const element = (name, text) => {
    const created = document.createElement(name);
    if (text !== undefined) created.textContent = text;
    return created;
  };
  const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
  const runsOf = (cell) => cell.counts.reduce((sum, [, n]) => sum + n, 0);
  const where = (cell) => [data.panels[cell.panel],
    data.y.name && `${data.y.name} = ${data.y.labels[cell.row]}`,
    data.x.name && `${data.x.name} = ${data.x.labels[cell.column]}`].filter(Boolean).join(", ");
  const ended = (cell) => cell.counts.map(([o, n]) => `${n.toLocaleString("en")} ${data.outcomes[o]}`).join(", ");
  const short = (cell) => {
    const lines = [where(cell), `${plural(runsOf(cell), "run")}: ${ended(cell)}`];
    if (cell.fault !== null) lines.push(`first fault at step ${cell.fault} (median)`);
    if (cell.blames.length) {
      const [i, n] = cell.blames[0];
      lines.push(`${data.blames[i].origin} (${plural(n, "run")})`);
    }
    return lines.join("\n");
  };

  const mark = (svg, kind, cell) => {
    const rect = svg.querySelector(kind);
    ["x", "y", "width", "height"].forEach((name, i) => rect.setAttribute(name, cell ? cell.box[i] : 0));
  };
  const frame = (svg, cell) => mark(svg, ".cursor", cell);
  const select = (cell) => maps.forEach((svg) =>
    mark(svg, ".selected", cell && cell.panel === +svg.dataset.panel ? cell : null));
  const showTip = (cell, x, y) => {
    tip.textContent = short(cell);
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const wide = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, Math.min(x + 14, wide - width - 4))}px`;
    tip.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 12) : y + 18}px`;
  };
  const at = (svg, event) => {
    const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const x = (event.clientX - box.left) * view.width / box.width;
    const y = (event.clientY - box.top) * view.height / box.height;
    return cells.find((c) => c.panel === +svg.dataset.panel && x >= c.box[0] && x < c.box[0] + c.box[2]
      && y >= c.box[1] && y < c.box[1] + c.box[3]);
  };

  const idsOf = (cell) => {
    const found = [];
    for (let i = 0; i < cell.ids.length; i += 13) {
      found.push([cell.ids.slice(i, i + 12), data.outcomes[+cell.ids[i + 12]]]);
    }
    return found;
  };
  const showBlame = (cell) => {
    before = document.activeElement;
    select(cell);
    blame.replaceChildren();
    const close = element("button", "Close");
    close.className = "close";
    close.onclick = hideBlame;
    blame.append(element("h3", where(cell) || "all runs"), close);
    blame.append(element("p", `${plural(runsOf(cell), "run")}: ${ended(cell)}.`));
    if (!cell.blames.length) blame.append(element("p", "None of them failed."));
    for (const [i, n] of cell.blames) {
      const site = data.blames[i], list = element("ul");
      list.append(element("li", `first inf or NaN: ${site.origin}`));
      list.append(element("li", `first NaN: ${site.culprit}`));
      if (site.witness) list.append(element("li", `witness (JAX debug checks): ${site.witness}`));
      const head = element("p", `Blame ${site.id}, ${plural(n, "run")} here and ${site.runs.toLocaleString("en")} in the study:`);
      blame.append(head, list);
    }
    const runs = cell.ids ? idsOf(cell) : [[cell.example, ""]];
    const names = runs.slice(0, 40).map(([id, outcome]) => outcome ? `${id} ${outcome}` : id).join(", ");
    const more = runsOf(cell) - Math.min(runs.length, 40);
    blame.append(element("p", `Runs: ${names}${more > 0 ? `, and ${more} more` : ""}.`));
    blame.append(element("pre", `python -m nanlab.replay ${data.folder} ${cell.example}`));
    blame.hidden = false;
    blame.focus({ preventScroll: true });
    // The cell stays in sight, above the panel.
    const svg = document.querySelector(`svg.map[data-panel="${cell.panel}"]`);
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const below = svg.getBoundingClientRect().top + (cell.box[1] + cell.box[3]) * scale + 24;
    const over = below - blame.getBoundingClientRect().top;
    if (over > 0) scrollBy(0, over);
  };
  const hideBlame = () => {
    select(null);
    blame.hidden = true;
    if (before) before.focus({ preventScroll: true });
  };

  const go = (svg, cell) => {
    current.set(svg, cell);
    frame(svg, cell);
    announced.textContent = short(cell);
    const box = svg.querySelector(".cursor").getBoundingClientRect();
    showTip(cell, box.right, box.bottom);
  };
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const neighbor = (cell, [right, down]) => {
    const middle = (c) => [c.box[0] + c.box[2] / 2, c.box[1] + c.box[3] / 2];
    const [x, y] = middle(cell);
    const away = (c) => {
      const [cx, cy] = middle(c), ahead = right ? (cx - x) * right : (cy - y) * down;
      const aside = right ? Math.abs(cy - y) : Math.abs(cx - x);
      return ahead < 0.01 || aside > 4 * ahead ? Infinity : ahead + 3 * aside;
    };
    const others = cells.filter((c) => c.panel === cell.panel && c !== cell);
    const best = others.reduce((b, c) => away(c) < away(b) ? c : b, others[0] ?? cell);
    return away(best) === Infinity ? cell : best;
  };
  maps.forEach((svg) => {
    svg.addEventListener("pointermove", (event) => {
      const cell = at(svg, event);
      frame(svg, cell);
      if (cell) showTip(cell, event.clientX, event.clientY); else tip.hidden = true;
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; frame(svg, null); });
    svg.addEventListener("click", (event) => {
      const cell = at(svg, event);
      if (cell) { current.set(svg, cell); showBlame(cell); }
    });
    svg.addEventListener("keydown", (event) => {
      const here = current.get(svg) ?? cells.find((c) => c.panel === +svg.dataset.panel);
      if (event.key in steps) go(svg, current.has(svg) ? neighbor(here, steps[event.key]) : here);
      else if (event.key === "Enter" || event.key === " ") showBlame(here);
      else return;
      event.preventDefault();
    });
    svg.addEventListener("focus", () => frame(svg, current.get(svg)));
    svg.addEventListener("blur", () => { tip.hidden = true; frame(svg, null); });
  });
  document.querySelectorAll("button[data-cell]").forEach((button) => {
    button.addEventListener("click", () => showBlame(cells[+button.dataset.cell]));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { tip.hidden = true; if (!blame.hidden) hideBlame(); }
  });
})();
