// Sorts a table by the column whose head is clicked, within its groups; opens what is folded when the page is printed.
(() => {
  const worth = (row, i) => {
    const cell = row.cells[i];
    const text = (cell.querySelector(".main") || cell).textContent.trim();
    const number = parseFloat(text.replace(/,/g, "").replace("\u2212", "-").replace("<", ""));
    return cell.classList.contains("missing") || text === "" ? null : Number.isNaN(number) ? text : number;
  };
  const sort = (table, i, up) => {
    const body = table.tBodies[0];
    const groups = [[]];
    for (const row of body.rows) {
      if (row.className === "heading") groups.push([]);
      groups[groups.length - 1].push(row);
    }
    const order = (a, b) => {
      const [x, y] = [worth(a, i), worth(b, i)];
      if (x === null || y === null) return (x === null) - (y === null);
      const sign = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? sign : -sign;
    };
    for (const group of groups) {
      const heads = group.filter((row) => row.className === "heading");
      const rows = group.filter((row) => row.className !== "heading").sort(order);
      body.append(...heads, ...rows);
    }
  };
  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      if (head.classList.contains("strip")) return;
      head.tabIndex = 0;
      head.title = "Sort by this column";
      const act = () => {
        const up = head.getAttribute("aria-sort") === "descending" || (i === 0 && !head.hasAttribute("aria-sort"));
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        sort(table, i, up);
      };
      head.addEventListener("click", act);
      head.addEventListener("keydown", (event) => event.key === "Enter" && act());
    });
  }
  const folded = () => document.querySelectorAll("details:not([open])");
  window.addEventListener("beforeprint", () => folded().forEach((one) => (one.open = true)));
})();
