// A table of any number of rows: only those in sight exist. Rows come from the server, or from the folder's own file.
"use strict";

(() => {
  const HEIGHT = 34, STEP = 100;
  const { columns, several } = setup();
  const find = (id) => document.getElementById(id);
  const [table, head, body, rows, query, order, sae] = ["table", "head", "body", "rows", "query", "order", "sae"].map(find);
  const local = window.saelabFeatures || null;
  const address = new URLSearchParams(location.search);
  const state = { sort: address.get("sort") || "", desc: address.get("desc") !== "0", total: 0, turn: 0, pages: new Map() };
  const [visit] = performance.getEntriesByType("navigation"), left = listing.left();
  const returned = location.hash === "#left" || (visit && ["back_forward", "reload"].includes(visit.type));
  let top = returned && left && left.asked === location.search ? left.top : 0;
  query.value = address.get("q") || "";
  if (sae) sae.value = address.get("sae") || "";
  for (const box of document.querySelectorAll("[data-end]")) {
    const name = `${box.closest("fieldset").dataset.column}.${box.dataset.end === "name" ? "is" : box.dataset.end}`;
    box.name = name;
    if (address.has(name)) { box.value = address.get(name); find("filters").open = true; }
  }

  const shown = () => columns.filter((c) => document.querySelector(`[data-show="${CSS.escape(c.name)}"]`).checked);

  const asked = () => {
    const wanted = new URLSearchParams();
    if (query.value.trim()) wanted.set("q", query.value.trim());
    if (sae && sae.value) wanted.set("sae", sae.value);
    if (state.sort) { wanted.set("sort", state.sort); if (!state.desc) wanted.set("desc", "0"); }
    for (const box of document.querySelectorAll("[data-end]")) if (box.value !== "") wanted.set(box.name, box.value);
    return wanted;
  };

  const search = async (wanted, offset) => {
    if (local) return searchLocal(wanted, offset);
    wanted.set("offset", offset);
    wanted.set("limit", STEP);
    const answer = await fetch(`/api/features?${wanted}`);
    if (!answer.ok) throw new Error(await said(answer));
    return answer.json();
  };

  // The same table in an exported folder, whose rows are in order of interest: words are looked for in descriptions.
  let kept = { key: null, found: [] };
  const searchLocal = (wanted, offset) => {
    const key = wanted.toString();
    if (kept.key !== key) {
      const words = (wanted.get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
      const at = Object.fromEntries(local.columns.map((name, i) => [name, i]));
      let found = local.rows.filter((r) => {
        if (wanted.get("sae") && r.sae !== wanted.get("sae")) return false;
        if (!words.every((word) => r.words.includes(word))) return false;
        for (const c of columns) {
          const value = r.values[at[c.name]];
          const unit = c.share ? 100 : 1;
          const low = wanted.get(`${c.name}.low`), high = wanted.get(`${c.name}.high`), is = wanted.get(`${c.name}.is`);
          if (low && !(value !== null && value >= low / unit)) return false;
          if (high && !(value !== null && value <= high / unit)) return false;
          if (is && value !== is) return false;
        }
        return true;
      });
      if (wanted.get("sort") === "number") found = found.slice().sort((a, b) => a.number - b.number);
      else if (wanted.get("sort")) {
        const i = at[wanted.get("sort")], way = wanted.get("desc") === "0" ? 1 : -1;
        const known = found.filter((r) => r.values[i] !== null).sort((a, b) => way * (a.values[i] - b.values[i]));
        found = known.concat(found.filter((r) => r.values[i] === null));
      }
      kept = { key, found };
    }
    return { total: kept.found.length, rows: kept.found.slice(offset, offset + STEP) };
  };

  const layout = () => {
    const narrow = table.clientWidth < 640;
    let visible = shown();
    if (narrow) visible = [columns.find((c) => c.name === state.sort) || visible[0]].filter(Boolean);
    const middle = several ? (narrow ? [] : ["minmax(7rem, 14rem)"]) : [];
    const numbers = visible.map(() => narrow ? "7.4rem" : "6.6rem");
    const grid = ["4.2rem", ...middle, "minmax(6rem, 1fr)", ...numbers].join(" ");
    head.style.gridTemplateColumns = grid;
    const cell = (label, name, about, extra) => {
      const box = make("span", { role: "columnheader", class: extra });
      if (!name) { box.textContent = label; return box; }
      if (state.sort === name) box.setAttribute("aria-sort", state.desc ? "descending" : "ascending");
      const button = make("button", { type: "button", text: label, title: about });
      button.addEventListener("click", () => {
        state.desc = state.sort === name ? !state.desc : true;
        state.sort = name;
        order.value = name;
        again();
      });
      box.append(button);
      return box;
    };
    head.replaceChildren(
      cell("feature"), ...(several ? [cell("SAE", null, "", "wide")] : []), cell("description"),
      ...visible.map((c) => cell(c.label, c.numeric ? c.name : null, c.about, c.numeric ? "number" : "")),
    );
    return { grid, visible };
  };

  const line = (row, { grid, visible }) => {
    const node = make(row.href ? "a" : "div", {
      class: "line", role: "row", href: row.href || null, title: row.cells.description === "–" ? "" : row.cells.description,
    });
    node.style.gridTemplateColumns = grid;
    node.append(make("span", { role: "cell", class: "name", text: row.feature }));
    if (several) node.append(make("span", { role: "cell", class: "own wide", text: row.sae, title: row.sae }));
    node.append(make("span", { role: "cell", text: row.cells.description ?? "–" }));
    visible.forEach((c) => node.append(
      make("span", { role: "cell", class: c.numeric ? "number" : "", text: row.cells[c.name] ?? "–" }),
    ));
    return node;
  };

  const page = (number) => {
    if (!state.pages.has(number)) state.pages.set(number, Promise.resolve(search(asked(), number * STEP)));
    return state.pages.get(number);
  };

  const draw = async () => {
    const turn = ++state.turn;
    const first = Math.max(0, Math.floor(table.scrollTop / HEIGHT) - 8);
    const last = Math.min(Math.max(state.total, 1), first + Math.ceil(table.clientHeight / HEIGHT) + 20);
    const numbers = [];
    for (let n = Math.floor(first / STEP); n <= Math.floor(Math.max(first, last - 1) / STEP); n++) numbers.push(n);
    try {
      const found = await Promise.all(numbers.map(page));
      if (turn !== state.turn) return;
      if (found[0].total !== state.total) {
        state.total = found[0].total;
        body.style.height = `${state.total * HEIGHT}px`;
        table.setAttribute("aria-rowcount", state.total);
        find("count").textContent = state.total === 1 ? "1 feature" : `${state.total.toLocaleString("en")} features`;
        if (top) table.scrollTop = top;
        top = 0;
        draw();
        return;
      }
      const begin = numbers[0] * STEP, look = layout();
      const together = found.flatMap((p) => p.rows).slice(first - begin, last - begin);
      rows.style.transform = `translateY(${first * HEIGHT}px)`;
      rows.replaceChildren(...together.map((row) => line(row, look)));
      table.dataset.ready = turn;
      listing.leave(table.scrollTop);
    } catch (error) {
      if (turn === state.turn) told(error.message);
    }
  };

  const again = () => {
    state.pages.clear();
    table.scrollTop = 0;
    const wanted = asked();
    history.replaceState(null, "", `${location.pathname}${wanted.size ? `?${wanted}` : ""}`);
    draw();
  };

  let timer;
  const soon = () => { clearTimeout(timer); timer = setTimeout(again, 120); };
  find("search").addEventListener("submit", (event) => { event.preventDefault(); again(); });
  query.addEventListener("input", soon);
  order.value = state.sort;
  order.addEventListener("change", () => { state.sort = order.value; state.desc = true; again(); });
  if (sae) sae.addEventListener("change", again);
  find("filters").addEventListener("input", soon);
  let drawing = false;
  table.addEventListener("scroll", () => {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => { drawing = false; draw(); });
  });
  addEventListener("resize", draw);
  table.addEventListener("keydown", (event) => {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const lines = [...rows.querySelectorAll("a.line")];
    const at = lines.indexOf(document.activeElement);
    if (!way || (at < 0 && way < 0)) return;
    const next = lines[at + way];
    if (next) { event.preventDefault(); next.focus(); }
  });
  if (location.hash === "#search") query.focus();
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  draw();
})();
