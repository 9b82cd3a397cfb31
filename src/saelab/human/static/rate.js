// Shows one trial after another, keeps each answer before the next is shown, and the table at the end.
"use strict";

(() => {
  const find = (id) => document.getElementById(id);
  let trial = null, busy = false;

  const number = (value) => (value === null ? "" : value.toFixed(2));
  const cells = (row) => [
    row.what, row.of, number(row.value), row.low === null ? "" : `${number(row.low)} to ${number(row.high)}`,
    row.n, row.neither, row.undecided ?? "", number(row.chance), number(row.by_hits), row.says,
  ];
  const HEAD = ["", "of", "share", "95 % interval", "n", "neither", "undecided", "chance", "by both hit rates", ""];

  const finish = async (state) => {
    const answer = await fetch("/api/report");
    if (!answer.ok) throw new Error(await said(answer));
    const { rows, notes } = await answer.json();
    find("summary").textContent = `${state.total} trials, rated by ${state.rater}. The answers are kept in the run folder.`;
    find("columns").replaceChildren(make("tr", {}, ...HEAD.map((text) => make("th", { text }))));
    find("rows").replaceChildren(...rows.map((row) => make("tr", {}, ...cells(row).map((text) => make("td", { text })))));
    find("notes").replaceChildren(...notes.map((text) => make("li", { text })));
  };

  const show = async (state) => {
    trial = state.trial;
    find("progress").textContent = trial ? `${state.rater} · ${state.done + 1} of ${state.total}` : `${state.rater} · ${state.total} of ${state.total}`;
    if (trial) {
      find("terms").textContent = trial.terms;
      find("before").textContent = trial.terms ? "as in" : "what these have in common";
      find("examples").replaceChildren(...trial.examples.map((text) => make("li", { text })));
      find("prompt").textContent = `${trial.answer ? "Both answer" : "Both go on from"}: “${trial.prompt}”`;
      for (const side of ["left", "right"]) find(side).textContent = trial[side];
    } else {
      await finish(state);
    }
    find("trial").hidden = !trial;
    find("done").hidden = Boolean(trial);
    for (const button of document.querySelectorAll(".undo")) button.disabled = state.done === 0;
    scrollTo(0, 0);
  };

  // One request at a time: a key that is held down answers one trial.
  const act = async (work) => {
    if (busy) return;
    busy = true;
    try {
      await show(await work());
      find("failed").hidden = true;
    } catch (error) {
      find("failed").textContent = error.message;
      find("failed").hidden = false;
    }
    busy = false;
  };
  const post = async (address, data) => (await ask(address, data)).json();
  const choose = (answer) => trial && act(() => post("/api/answer", { trial: trial.key, answer }));
  const undo = () => act(() => post("/api/undo", {}));

  for (const button of document.querySelectorAll("[data-answer]")) {
    button.addEventListener("click", () => { button.blur(); choose(button.dataset.answer); });
  }
  for (const button of document.querySelectorAll(".undo")) button.addEventListener("click", undo);
  const keys = { 1: "left", 2: "right", 0: "neither", s: "skip" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.key === "u") undo();
    else if (keys[event.key]) choose(keys[event.key]);
  });
  act(async () => {
    const answer = await fetch("/api/trial");
    if (!answer.ok) throw new Error(await said(answer));
    return answer.json();
  });
})();
