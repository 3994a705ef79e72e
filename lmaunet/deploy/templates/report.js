/* The page is whole without this: it folds slices into a slider, sorts tables, and enlarges. */
(() => {
  "use strict";
  const make = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  /* tables: a button in each head, numbers by data-sort or by what they begin with */
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    const number = parseFloat(text.replace(/,/g, "").replace("\u2212", "-"));
    return { text, number };
  };
  for (const table of document.querySelectorAll("table.sort")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = make("button", "", { type: "button", class: "sorter" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => ({ row, ...value(row, column) }));
        rows.sort((a, b) => {
          /* what has no number stays last */
          if (isNaN(a.number) !== isNaN(b.number)) return isNaN(a.number) ? 1 : -1;
          const order = isNaN(a.number) ? a.text.localeCompare(b.text) : a.number - b.number;
          return up ? order : -order;
        });
        body.append(...rows.map((entry) => entry.row));
      });
    });
  }

  /* slices: one at a time, by slider, buttons or arrow keys */
  for (const viewer of document.querySelectorAll(".viewer")) {
    const slices = [...viewer.querySelectorAll("details.slice")];
    if (slices.length < 2) continue;
    const range = make("input", "", { type: "range", min: 1, max: slices.length, value: 1, id: "slice" });
    const before = make("button", "Previous", { type: "button" });
    const after = make("button", "Next", { type: "button" });
    const said = make("output", "", { for: "slice" });
    const bar = make("div", "", { class: "slider" });
    bar.append(before, make("label", "Slice", { for: "slice" }), range, said, after);
    viewer.prepend(bar);
    const show = (number) => {
      range.value = number;
      slices.forEach((slice, index) => {
        slice.hidden = index !== number - 1;
        if (!slice.hidden) slice.open = true;
      });
      said.textContent = `${number} of ${slices.length}`;
      range.setAttribute("aria-valuetext", `${number} of ${slices.length}: ${slices[number - 1].querySelector("summary").textContent}`);
      before.disabled = number === 1;
      after.disabled = number === slices.length;
    };
    range.addEventListener("input", () => show(+range.value));
    before.addEventListener("click", () => show(+range.value - 1));
    after.addEventListener("click", () => show(+range.value + 1));
    show(1);
  }

  /* pictures: a button around each opens it as large as the window */
  const dialog = make("dialog", "", { "aria-label": "Enlarged picture" });
  if (dialog.showModal) {
    const close = make("button", "Close", { type: "button" });
    const place = make("div", "", { class: "large" });
    const caption = make("p");
    dialog.append(place, caption, close);
    document.body.append(dialog);
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    for (const tile of document.querySelectorAll(".tile")) {
      const picture = tile.querySelector("img");
      const name = picture ? picture.alt : tile.getAttribute("aria-label");
      const button = make("button", "", { type: "button", class: "enlarge", "aria-label": `Enlarge ${name}` });
      tile.before(button);
      button.append(tile);
      button.addEventListener("click", () => {
        const style = getComputedStyle(tile);
        const copy = tile.cloneNode(true);
        for (const key of ["--w", "--h", "--image"]) copy.style.setProperty(key, style.getPropertyValue(key));
        place.replaceChildren(copy);
        caption.textContent = name;
        dialog.showModal();
      });
    }
  }

  /* a link into folded evidence unfolds it, and paper has no folds */
  const reveal = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!target) return;
    const folded = target.querySelector(":scope > details") ?? target.closest("details");
    if (folded) folded.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.slice)")];
    opened.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
})();
