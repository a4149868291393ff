// Building and updating elements. Everything that comes from outside becomes text or an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
}

/** Make an HTML element; children are nodes or texts, attributes `onclick` and the like are functions. */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** Make an SVG element. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const find = (id) => document.getElementById(id);

/** Set a text only if it changes, so that screen readers are not told twice. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Bring the children of an element in line with items, keeping those whose key stays (and the focus inside them).
 *  `make` makes an element for an item, `update(element, item)` shows the item in it. */
export function keyed(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let element = known.get(key);
    if (element === undefined) {
      element = make(item);
      element.dataset.key = key;
    }
    known.delete(key);
    update?.(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const gone of known.values()) gone.remove();
}

/** A table whose rows are updated in place. `columns` are {name, label?, number?, cell(item): node or text}. */
export function table(parent, caption, columns, items, keyOf, empty) {
  let element = parent.querySelector("table");
  let nothing = parent.querySelector(".nothing");
  if (element === null) {
    const head = h("tr", {}, columns.map((column) => h("th", { scope: "col", class: column.number && "number" }, column.name)));
    element = h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, head), h("tbody"));
    nothing = h("p", { class: "nothing" });
    parent.append(element, nothing);
  }
  element.hidden = items.length === 0;
  nothing.hidden = items.length !== 0;
  setText(nothing, empty);
  const make = () => h("tr", {}, columns.map((column) => h("td", { class: column.number && "number", "data-label": column.name })));
  keyed(element.tBodies[0], items, keyOf, make, (row, item) => {
    columns.forEach((column, number) => {
      const cell = row.children[number];
      const shown = column.cell(item);
      const mark = typeof shown === "string" ? shown : shown.dataset.mark ?? shown.outerHTML;
      if (cell.dataset.mark === mark) return;
      cell.dataset.mark = mark;
      cell.replaceChildren(shown);
    });
  });
}
