// What the live pictures share. __init__.py puts this before the script of a kind, within one function, so that
// nothing is global; `begin` finds pictures that no script has built yet, wherever a notebook has put them.

const MINUS = "\u2212";

/** A number with a true minus sign and no minus zero. */
const signed = (value, digits) => {
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) ? MINUS : "") + text;
};

const NAMESPACE = "http://www.w3.org/2000/svg"; // a name; nothing is fetched
const put = (node, attributes, text) => {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
};
/** A new element within `parent`, of SVG or of HTML. */
const draw = (parent, name, attributes = {}, text) =>
  parent.appendChild(put(document.createElementNS(NAMESPACE, name), attributes, text));
const add = (parent, name, attributes = {}, text) =>
  parent.appendChild(put(document.createElement(name), attributes, text));

/** An SVG picture that says what it shows. The book turns other SVG's colours in dark mode: no-invert. */
const picture = (parent, label) =>
  draw(parent, "svg", { class: "no-invert", role: "img", "aria-label": label });

/** A slider below its name and value: { input, output, swatch }. JupyterLab would take its arrow keys. */
function slider(parent, name, min, max, step, value) {
  const label = add(parent, "label"), head = add(label, "span");
  const swatch = add(add(head, "span", {}, name), "i");
  const output = add(head, "output", { "aria-hidden": "true" });
  const input = add(label, "input", { type: "range", min, max, step, value, autocomplete: "off",
    "aria-label": name, "data-lm-suppress-shortcuts": "" });
  return { input, output, swatch };
}

/** An axis of numbers along the bottom at height y: ticks at whole numbers within what `x` maps. */
function axis(svg, x, low, high, y, name) {
  draw(svg, "path", { class: "live-axis", d: `M${x(low)} ${y}H${x(high)}` });
  for (let tick = Math.ceil(low); tick <= high; tick++) {
    draw(svg, "path", { class: "live-axis", d: `M${x(tick)} ${y}v4` });
    draw(svg, "text", { x: x(tick), y: y + 16, "text-anchor": "middle" }, signed(tick, 0));
  }
  if (name) draw(svg, "text", { x: (x(low) + x(high)) / 2, y: y + 31, "text-anchor": "middle" }, name);
}

/** Build each new picture of a kind: build(box, data) returns a function that redraws it at another width. */
function begin(kind, build) {
  for (const root of document.querySelectorAll(`.mdr-live[data-kind="${kind}"]:not([data-built])`)) {
    root.dataset.built = "";
    const still = root.querySelector(".live-still"), box = root.querySelector(".live-box");
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    box.hidden = false;
    still.hidden = true;
    try {
      const redraw = build(box, data);
      redraw();
      let width = box.clientWidth;
      new ResizeObserver(() => {
        if (box.clientWidth && box.clientWidth !== width) { width = box.clientWidth; redraw(); }
      }).observe(box);
    } catch (error) { // the still picture is better than half of a live one
      box.hidden = true;
      still.hidden = false;
      throw error;
    }
  }
}
