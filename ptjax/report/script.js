// What a page does beyond being read: it sorts tables, picks one submission out of the charts, and saves its numbers.
"use strict";

const by = (row, column) => row.cells[column].dataset.by;

// Cells without a value stay last in either order; equal ones keep their order.
function sort(table, heading) {
  const column = heading.cellIndex;
  const before = heading.getAttribute("aria-sort");
  const other = { ascending: "descending", descending: "ascending" };
  const order = before === "none" ? heading.dataset.first : other[before];
  const sign = order === "ascending" ? 1 : -1;
  const words = heading.matches(".is-name, .is-word");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [x, y] = [by(a, column), by(b, column)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (words ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  });
  for (const each of heading.parentElement.cells) each.setAttribute("aria-sort", each === heading ? order : "none");
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) sort(table, button.closest("th"));
  });
}

let picked = null;
function pick(series) {
  if (series === picked) return;
  picked = series;
  document.body.classList.toggle("picking", series !== null);
  for (const each of document.querySelectorAll("[data-s]")) each.classList.toggle("picked", each.dataset.s === series);
}
addEventListener("pointerover", (event) => {
  const found = event.target.closest?.("[data-s]");
  pick(found && !found.closest("summary") ? found.dataset.s : null);
});

const data = document.getElementById("data").textContent;
if (data !== "null") {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Save the numbers as JSON";
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([data], { type: "application/json" }));
    link.download = `${document.title}.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  document.querySelector("footer")?.append(button);
}

// Paper has no disclosure triangles: differences print, whole configs do not.
addEventListener("beforeprint", () => {
  for (const run of document.querySelectorAll("#configs .run:has(> .scroll)")) run.open = true;
});
