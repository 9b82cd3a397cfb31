// Which features fire on a text: a strip of tokens, the features of one token, and those of the whole text.
"use strict";

(() => {
  const find = (id) => document.getElementById(id);
  const chosen = new Set();
  let found = null, turn = 0, about = find("ask").dataset.about;
  const number = (v) => (v >= 100 || v === 0 ? v.toFixed(0) : v.toPrecision(3));

  const colour = (values) => {
    const largest = Math.max(...values, 0);
    [...find("strip").children].forEach((node, i) => {
      node.className = heat(values[i], largest) ? `h${heat(values[i], largest)}` : "";
      node.title = `${values[i] > 0 ? number(values[i]) : "0"}; ${found.active[i]} features`;
    });
  };
  const strongest = () => found.top.map((top) => (top.length ? top[0][1] : 0));
  const usual = () => (about ? found.features[0].values : strongest());
  const answer = () => {
    if (!about) return found.features.length ? "" : "No feature fires on this text.";
    const { feature, largest, at } = found.features[0];
    return largest > 0 ? `Feature ${feature} fires, at most ${number(largest)}, on “${found.tokens[at].trim()}”.`
      : `Feature ${feature} does not fire on this text.`;
  };

  const ofToken = (i) => {
    [...find("strip").children].forEach((node, k) => node.setAttribute("aria-pressed", String(k === i)));
    const rows = found.top[i].map(([f, v]) => make("li", {}, tick(f),
      make("a", { href: `/sae/${encodeURIComponent(found.sae)}/${f}`, text: f }),
      make("span", { class: "value", text: number(v) }), make("span", { class: "said", text: found.said[f] })));
    const title = make("h3", { text: `“${found.tokens[i]}”: ${found.active[i]} features` });
    find("token").replaceChildren(title, make("ol", {}, ...rows));
    find("token").hidden = false;
  };

  const strip = (values) => {
    const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", `0 0 ${values.length} 18`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const largest = Math.max(...values);
    values.forEach((v, i) => {
      if (!(v > 0)) return;
      const bar = document.createElementNS(space, "rect"), tall = Math.max(1, 18 * v / largest);
      for (const [n, x] of [["x", i], ["y", 18 - tall], ["width", 1], ["height", tall]]) bar.setAttribute(n, x);
      svg.append(bar);
    });
    return svg;
  };

  const link = () => {
    const wanted = new URLSearchParams({ prompt: find("text").value });
    for (const f of chosen) wanted.append("f", `${found.sae}:${f}:0.2`);
    find("steer").href = `/steer?${wanted}`;
    find("steer").setAttribute("aria-disabled", String(chosen.size === 0));
    find("chosen").textContent = chosen.size ? `${chosen.size} chosen.` : "Choose up to 8.";
  };

  // A feature may stand in both lists: its boxes are one choice.
  const tick = (feature) => {
    const box = make("input", { type: "checkbox", "data-feature": feature, "aria-label": `steer with feature ${feature}` });
    box.checked = chosen.has(feature);
    box.addEventListener("change", () => {
      if (box.checked && chosen.size >= 8) { box.checked = false; told("Choose up to 8."); return; }
      if (box.checked) chosen.add(feature); else chosen.delete(feature);
      for (const other of document.querySelectorAll(`[data-feature="${feature}"]`)) other.checked = box.checked;
      link();
    });
    return box;
  };

  const fired = () => found.features.map((row) => {
    const item = make("li", {}, tick(row.feature), make("a", { href: row.href, text: row.feature }),
      make("span", { class: "value", text: number(row.largest) }),
      make("span", { class: "said", text: row.said || "no term stands out", title: row.said }), strip(row.values));
    item.addEventListener("mouseenter", () => colour(row.values));
    item.addEventListener("mouseleave", () => colour(usual()));
    item.addEventListener("focusin", () => colour(row.values));
    return item;
  });

  const read = async () => {
    const mine = ++turn;
    find("state").textContent = "reading…";
    try {
      const answer = await ask("/api/text", { text: find("text").value, sae: find("sae").value, ...(about && { about: Number(about) }) });
      const read = await answer.json();
      if (mine !== turn) return;
      found = read;
    } catch (error) {
      if (mine === turn) find("state").textContent = error.message;
      return;
    }
    find("state").textContent = answer();
    chosen.clear();
    link();
    find("token").hidden = true;
    find("strip").replaceChildren(...found.tokens.map((text, i) => {
      const node = make("button", { type: "button", text });
      node.addEventListener("click", () => ofToken(i));
      return node;
    }));
    colour(usual());
    find("fired").replaceChildren(...fired());
    find("read").hidden = false;
    const wanted = new URLSearchParams({ text: find("text").value, sae: find("sae").value, ...(about && { f: about }) });
    history.replaceState(null, "", `/text?${wanted}`);
  };

  find("sae").addEventListener("change", () => {  // what another SAE read is no answer of this one
    turn++;
    about = "";
    find("read").hidden = true;
    find("state").textContent = "";
    if (found && find("text").value.trim()) read();
  });
  find("ask").addEventListener("submit", (event) => { event.preventDefault(); read(); });
  find("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); read(); }
  });
  if (find("text").value) {
    if (document.getElementById("model").dataset.state === "ready") read();
    else document.addEventListener("model", (event) => { if (event.detail.state === "ready") read(); });
  }
})();
