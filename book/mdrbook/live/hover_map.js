// A map whose points show their images: hover_map.py describes the data.

begin("hover_map", (box, data) => {
  const count = data.index.length, { columns, size, source } = data.sprite, zoom = Math.max(1, Math.round(96 / size));
  const NEAR = 24; // pixels from the pointer to a point that it means
  const SHAPES = { // of matplotlib's markers, 4 pixels about the middle
    o: "M4 0A4 4 0 1 1 -4 0A4 4 0 1 1 4 0z", s: "M-3.5 -3.5h7v7h-7z", "^": "M0 -4.4l4.4 8h-8.8z", D: "M0 -4.8l4.8 4.8l-4.8 4.8l-4.8 -4.8z",
    v: "M0 4.4l4.4 -8h-8.8z", P: "M-1.6 -4.5h3.2v2.9h2.9v3.2h-2.9v2.9h-3.2v-2.9h-2.9v-3.2h2.9z",
    "*": "M0 -5l1.2 3.4h3.6l-2.9 2.2l1.1 3.5l-3 -2.1l-3 2.1l1.1 -3.5l-2.9 -2.2h3.6z", "<": "M-4.4 0l8 -4.4v8.8z", ">": "M4.4 0l-8 4.4v-8.8z",
    X: "M-4.2 -2l2.2 -2.2l2 2l2 -2l2.2 2.2l-2 2l2 2l-2.2 2.2l-2 -2l-2 2l-2.2 -2.2l2 -2z",
  };
  const color = group => data.looks[group].color, shape = group => SHAPES[data.looks[group].marker];
  let method = data.start, only = -1, chosen = -1, kept = -1, at = []; // kept: chosen by a click, tap or key, until the next

  const tabs = add(box, "div", { class: "live-row", role: "group", "aria-label": "Method" });
  const buttons = data.names.map((name, k) => {
    const button = add(tabs, "button", { type: "button" }, name);
    button.addEventListener("click", () => { method = k; redraw(); });
    return button;
  });
  if (data.names.length < 2) tabs.hidden = true;
  const map = add(box, "div", { class: "live-map" });
  const svg = put(picture(map, "Map of images. Arrow keys move from point to point, Escape chooses none."),
    { tabindex: "0", role: "application", "data-lm-suppress-shortcuts": "" });
  const tip = add(map, "div", { class: "live-tip", "aria-hidden": "true" });
  tip.hidden = true;
  const drawing = add(tip, "div", { class: "live-drawing" }), name = add(tip, "div");
  drawing.style.cssText = `width:${size * zoom}px;height:${size * zoom}px;` +
    `background-image:url(${source});background-size:${columns * size * zoom}px auto`;
  const key = add(box, "div", { class: "live-row live-key", role: "group", "aria-label": "Highlight one group" });
  const groups = data.groups.length > 35 ? [] : data.groups.map((group, k) => {
    const button = add(key, "button", { type: "button" }), mark = draw(button, "svg", { class: "no-invert", viewBox: "-7 -7 14 14", "aria-hidden": "true" });
    draw(mark, "path", { d: shape(k), fill: color(k) });
    button.append(group);
    button.addEventListener("click", () => { only = only === k ? -1 : k; redraw(); });
    return button;
  });
  const spoken = add(box, "span", { class: "live-unseen", "aria-live": "polite" });

  function redraw() {
    const width = Math.max(map.clientWidth, 240), height = Math.min(width, 520), side = height - 20;
    at = data.xy[method].map(([x, y]) => [width / 2 + (x / 1000 - 0.5) * side, 10 + (y / 1000) * side]);
    put(svg, { viewBox: `0 0 ${width} ${height}`, height });
    svg.replaceChildren();
    for (let i = 0; i < count; i++)
      draw(svg, "path", { class: only < 0 || data.group[i] === only ? "live-mark" : "live-mark live-dim", d: shape(data.group[i]), fill: color(data.group[i]),
        transform: `translate(${at[i][0].toFixed(1)} ${at[i][1].toFixed(1)})` });
    draw(svg, "g", { class: "live-rings" });
    buttons.forEach((button, k) => put(button, { "aria-pressed": String(k === method) }));
    groups.forEach((button, k) => put(button, { "aria-pressed": String(k === only) }));
    choose(kept);
  }

  /** Show the image of point i next to it, and ring the others of its class; -1: none. */
  function choose(i, speak = false) {
    chosen = i;
    tip.hidden = i < 0;
    const rings = svg.querySelector(".live-rings");
    rings.replaceChildren();
    if (i < 0) return;
    for (let k = 0; k < count; k++)
      if (data.label[k] === data.label[i])
        draw(rings, "circle", { class: "live-line", cx: at[k][0], cy: at[k][1], r: k === i ? 10 : 7 });
    tip.dataset.index = data.index[i];
    name.textContent = data.classes[data.label[i]];
    drawing.style.backgroundPosition =
      `${-(i % columns) * size * zoom}px ${-Math.floor(i / columns) * size * zoom}px`;
    // To the side with more room, within the map: the book cuts off what sticks out.
    const [x, y] = at[i], room = map.clientWidth, right = x < room / 2;
    tip.style.left = `${right ? Math.min(x + 14, room - tip.offsetWidth) : Math.max(x - 14 - tip.offsetWidth, 0)}px`;
    tip.style.top = `${Math.max(0, Math.min(y - tip.offsetHeight / 2, map.clientHeight - tip.offsetHeight))}px`;
    if (speak) spoken.textContent = `${name.textContent}, image ${data.index[i]}`;
  }

  function keep(i, speak) {
    kept = i;
    choose(i, speak);
  }

  function point(event) {
    const frame = svg.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
    const gaps = at.map(([px, py]) => Math.hypot(px - x, py - y)), least = Math.min(...gaps);
    const i = least <= NEAR ? gaps.indexOf(least) : -1;
    if (event.type === "pointerdown") keep(i);
    else choose(i < 0 ? kept : i);
  }
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", () => choose(kept));

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  svg.addEventListener("keydown", event => {
    const step = STEPS[event.key];
    if (event.key === "Escape") return keep(-1);
    if (!step) return;
    event.preventDefault();
    if (chosen < 0) { // begin with the point in the middle
      const frame = svg.viewBox.baseVal, gaps = at.map(([x, y]) => Math.hypot(x - frame.width / 2, y - frame.height / 2));
      return keep(gaps.indexOf(Math.min(...gaps)), true);
    }
    // The nearest point that way; what lies aside counts as farther.
    let best = -1, least = Infinity;
    at.forEach(([x, y], i) => {
      const ahead = (x - at[chosen][0]) * step[0] + (y - at[chosen][1]) * step[1];
      const aside = Math.abs((x - at[chosen][0]) * step[1]) + Math.abs((y - at[chosen][1]) * step[0]);
      if (i !== chosen && ahead > 0.5 && ahead >= aside / 2 && ahead + 2 * aside < least) { best = i; least = ahead + 2 * aside; }
    });
    if (best >= 0) keep(best, true);
  });
  return redraw;
});
