// What every page does: keys, copying, the state of the language model. Text is only ever set as text.
"use strict";

const told = (text) => {
  const place = document.getElementById("told");
  place.textContent = text;
  place.hidden = false;
  clearTimeout(told.timer);
  told.timer = setTimeout(() => { place.hidden = true; }, 2500);
};

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};

const setup = () => JSON.parse(document.getElementById("setup").textContent);

const ask = async (address, data) => {
  const answer = await fetch(address, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data),
  });
  if (!answer.ok) throw new Error(await said(answer));
  return answer;
};

const said = async (answer) => {
  const text = await answer.text();
  try {
    const { error, hint } = JSON.parse(text);
    return hint ? `${error} ${hint}` : error;
  } catch {
    return text || `The server answered ${answer.status}.`;
  }
};

const heat = (value, largest) => (value > 0 && largest > 0 ? Math.max(1, Math.min(9, Math.ceil(9 * value / largest))) : 0);

// Where the table of all features was left: its search, order and filters, and how far it was scrolled.
const listing = {
  key: "saelab.listing",
  leave: (top) => {
    try { sessionStorage.setItem(listing.key, JSON.stringify({ path: location.pathname, asked: location.search, top })); } catch { /* no storage */ }
  },
  left: () => {
    const home = new URL(document.querySelector(".brand").href).pathname;
    try {
      const known = JSON.parse(sessionStorage.getItem(listing.key));
      return known && known.path === home ? known : null;
    } catch { return null; }
  },
  back: () => {
    const known = listing.left();
    location.assign(`${document.querySelector(".brand").href}${known ? `${known.asked}#left` : ""}`);
  },
};

const copyText = async (text, what) => {
  await navigator.clipboard.writeText(text);
  told(`${what} copied`);
};

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-copy]");
  if (!link || link.dataset.copy === "" || location.protocol === "file:") return;
  event.preventDefault();
  try {
    const answer = await fetch(link.href);
    if (!answer.ok) throw new Error(await said(answer));
    await copyText(await answer.text(), link.dataset.copy);
  } catch (error) {
    told(error.message);
  }
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inside = event.target.closest("input, textarea, select");
  if (event.key === "Escape") {
    if (inside) inside.blur();
    else if (document.body.dataset.after !== undefined) listing.back();
    return;
  }
  if (inside) return;
  if (event.key === "/") {
    event.preventDefault();
    const query = document.getElementById("query");
    if (query) { query.focus(); query.select(); } else location.assign(`${document.querySelector(".brand").href}#search`);
  }
  const way = { ArrowLeft: "before", ArrowRight: "after" }[event.key];
  const target = way && document.body.dataset[way];
  if (target && !event.target.closest(".scroll, .table")) location.assign(target);
});

const model = document.getElementById("model");
if (model) {
  const look = async () => {
    try {
      const state = await (await fetch("/api/state")).json();
      if (state.state !== model.dataset.state) document.dispatchEvent(new CustomEvent("model", { detail: state }));
      model.dataset.state = state.state;
      model.querySelector(".said").textContent = state.said;
      if (state.state === "loading") setTimeout(look, 700);
    } catch {
      model.dataset.state = "none";
      model.querySelector(".said").textContent = "the server has ended";
    }
  };
  if (model.dataset.state === "loading") setTimeout(look, 300);
}

// A page of a feature whose material is being made comes again by itself.
if (document.body.dataset.making) setTimeout(() => location.reload(), 3000);
