// Several features, each with a slider in shares of the norm; texts arrive as they are written, side by side.
"use strict";

(() => {
  const find = (id) => document.getElementById(id);
  const SET = ["scales", "tokens", "temperature", "seed"];
  const { features, most } = setup(), address = new URLSearchParams(location.search);
  for (const name of SET) if (address.has(name)) find(name).value = address.get(name);
  find("chat").checked = address.get("chat") === "1";
  let going = null;

  const data = (kind) => ({
    prompt: find("prompt").value, features: features.map(({ sae, feature, share }) => ({ sae, feature, share })),
    scales: find("scales").value.split(/[\s,;]+/).filter(Boolean).map(Number), tokens: Number(find("tokens").value),
    temperature: Number(find("temperature").value), seed: Number(find("seed").value), chat: find("chat").checked, kind,
  });

  const remember = () => {
    const wanted = new URLSearchParams({ prompt: find("prompt").value });
    for (const name of SET) wanted.set(name, find(name).value);
    if (find("chat").checked) wanted.set("chat", "1");
    for (const f of features) wanted.append("f", `${f.sae}:${f.feature}:${f.share}`);
    history.replaceState(null, "", `/steer?${wanted}`);
  };

  const draw = () => {
    find("sliders").replaceChildren(...features.map((f, i) => {
      const name = `${f.sae} ${f.feature}`;
      const range = make("input", { type: "range", min: -1, max: 1, step: 0.01, "aria-label": `share of the norm for ${name}` });
      const box = make("input", { type: "number", min: -8, max: 8, step: 0.01, "aria-label": `share for ${name}` });
      range.value = f.share;
      box.value = f.share;
      const set = (from, to) => { f.share = Number(from.value); to.value = from.value; };
      range.addEventListener("input", () => set(range, box));
      box.addEventListener("input", () => set(box, range));
      const away = make("button", { type: "button", text: "×", "aria-label": `remove ${name}` });
      away.addEventListener("click", () => { features.splice(i, 1); remember(); draw(); });
      const what = make("span", { class: "what", title: f.said },
        make("a", { href: `/sae/${encodeURIComponent(f.sae)}/${f.feature}`, text: f.feature }),
        make("span", { class: "said", text: ` ${f.sae} · ${f.said || "no term stands out"}` }));
      return make("li", {}, what, range, box, away);
    }));
    find("adding").hidden = features.length >= most;
    find("saving").hidden = features.length === 0;
  };

  const cards = (scales) => scales.map((scale) => make("article", { class: scale ? "card" : "card plain" },
    make("h3", { text: scale ? `× ${scale}` : "unsteered" }), make("p", { class: "note" }), make("p", { class: "text" })));

  const doses = (rows, places) => rows.forEach((row, i) => {
    const note = places[i].querySelector(".note");
    note.textContent = row.scale && row.nats !== null ? `${row.nats.toPrecision(2)} nats` : "the model as it is";
    if (row.warning) { note.textContent = row.warning; note.classList.add("warn"); }
  });

  const write = async () => {
    if (going) going.abort();
    const mine = going = new AbortController();
    const wanted = data(), places = cards([0, ...wanted.scales]);
    find("written").replaceChildren(...places);
    find("state").textContent = "writing…";
    find("stop").disabled = false;
    try {
      const answer = await fetch("/api/steer", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted), signal: mine.signal,
      });
      if (!answer.ok) throw new Error(await said(answer));
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let kept = ""; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        const lines = (kept + value).split("\n");
        kept = lines.pop();
        for (const line of lines.map((text) => JSON.parse(text))) {
          if (line.type === "doses") doses(line.rows, places);
          if (line.type === "text") places[line.row].querySelector(".text").textContent = wanted.prompt + line.text;
          if (line.type === "error") throw new Error(line.error);
          if (line.type === "end") line.texts.forEach((text, i) => { places[i].querySelector(".text").textContent = wanted.prompt + text; });
        }
      }
      find("state").textContent = "";
      find("written").dataset.done = "1";
    } catch (error) {
      if (going === mine) find("state").textContent = error.name === "AbortError" ? "stopped" : error.message;
    }
    if (going === mine) { going = null; find("stop").disabled = true; }
  };

  find("add").addEventListener("click", async () => {
    const one = { sae: find("sae").value, feature: parseInt(find("feature").value, 10), share: 0.2 };
    if (!Number.isInteger(one.feature)) { told("Give the number of a feature."); return; }
    try {
      const { said: text } = await (await ask("/api/describe", one)).json();
      features.push({ ...one, said: text });
      find("feature").value = "";
      remember();
      draw();
    } catch (error) { told(error.message); }
  });
  find("feature").addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); find("add").click(); }
  });
  find("ask").addEventListener("submit", (event) => { event.preventDefault(); remember(); write(); });
  find("stop").addEventListener("click", () => { if (going) going.abort(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && going) going.abort(); });
  for (const button of document.querySelectorAll("[data-code]")) button.addEventListener("click", async () => {
    try {
      const answer = await ask("/api/recipe", data(button.dataset.code));
      await copyText(await answer.text(), button.dataset.code === "python" ? "Python" : "Command");
    } catch (error) { told(error.message); }
  });
  let timer;
  find("ask").addEventListener("input", (event) => {
    if (["sae", "feature"].includes(event.target.id)) return;
    clearTimeout(timer);
    timer = setTimeout(remember, 150);
  });
  find("file").addEventListener("click", async () => {
    try {
      const answer = await ask("/api/directions", data());
      const link = make("a", { href: URL.createObjectURL(await answer.blob()), download: "directions.safetensors" });
      link.click();
      URL.revokeObjectURL(link.href);
    } catch (error) { told(error.message); }
  });
  if (features.length) find("sae").value = features.at(-1).sae;
  draw();

  // A feature that an address names and no SAE has is said at once, and left out.
  const known = async (f) => {
    try {
      await (await ask("/api/describe", { sae: f.sae, feature: f.feature })).json();
      return "";
    } catch (error) { return error.message; }
  };
  Promise.all(features.map(async (f) => [f, await known(f)])).then((found) => {
    for (const [f, why] of found.filter((one) => one[1])) {
      features.splice(features.indexOf(f), 1);
      find("state").textContent = why;
    }
    if (found.some((one) => one[1])) draw();
  });
})();
