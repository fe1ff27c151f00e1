// Levels and lambda: levels.py describes the data.

begin("levels", (box, data) => {
  const bins = data.same.length, unit = data.step / 2, half = (bins - 2) / 2;
  const total = list => list.reduce((sum, n) => sum + n, 0);
  const pairs = { same: total(data.same), other: total(data.other) }, all = pairs.same + pairs.other;
  let levels = [...data.levels], weight = data.weight, chosen = Math.floor(levels.length / 2), sliders = [];

  /** L_MDR, and each level's share of the pairs and the bins it owns [first, last). Levels are sorted. */
  function evaluate(sorted) {
    const shares = sorted.map(() => 0), owned = sorted.map(() => [bins, 0]);
    let sum = 0, k = 0;
    for (let b = 0; b < bins; b++) {
      const centre = (b - half - 0.5) * unit; // that of an open bin only needs the right side
      while (k + 1 < sorted.length && Math.abs(centre - sorted[k + 1]) < Math.abs(centre - sorted[k])) k++;
      const n = data.same[b] + data.other[b];
      sum += Math.abs(data.sum[b] - n * sorted[k]); // all of a bin lies on one side of the level
      shares[k] += n / all;
      owned[k] = [Math.min(owned[k][0], b), b + 1];
    }
    return { value: sum / all, shares, owned };
  }

  const buttons = add(box, "div", { class: "live-row", role: "group", "aria-label": "Settings of the levels" });
  for (const setting of data.settings) {
    const short = setting.map(level => signed(level, level % 1 ? 1 : 0)).join(", ");
    const button = add(buttons, "button", { type: "button", "aria-label": `levels ${short}` }, short);
    button.addEventListener("click", () => choose(setting));
  }
  const controls = add(box, "div", { class: "live-controls" });
  const said = add(box, "p");
  said.innerHTML = "<i>L</i><sub>MDR</sub>, the mean |<i>z</i> \u2212 nearest level|, is <b data-say='mdr'></b>; " +
    "\u03bb <i>L</i><sub>MDR</sub> is <b data-say='weighted'></b>.";
  const svg = picture(box, "");

  function choose(setting) {
    levels = [...setting];
    chosen = Math.floor(levels.length / 2);
    controls.replaceChildren();
    sliders = levels.map((level, k) => {
      const made = slider(controls, `level ${k}`, -data.reach, data.reach, data.step, level);
      made.swatch.classList.add("live-swatch");
      made.input.addEventListener("input", () => { levels[k] = Number(made.input.value); chosen = k; redraw(); });
      return made;
    });
    const lambda = slider(controls, "lambda", 0, 1, 0.05, weight);
    lambda.input.addEventListener("input", () => { weight = Number(lambda.input.value); redraw(); });
    sliders.push(lambda);
    redraw();
  }

  function redraw() {
    const sorted = [...levels].sort((a, b) => a - b), now = evaluate(sorted);
    const colors = data.colors[sorted.length], rank = sorted.indexOf(levels[chosen]);
    for (const [name, value] of [["mdr", now.value], ["weighted", weight * now.value]]) {
      const node = said.querySelector(`[data-say=${name}]`);
      node.textContent = value.toFixed(3);
      node.dataset.value = value;
    }
    sliders.forEach(({ input, output, swatch }, k) => {
      const text = k < levels.length ? signed(levels[k], 2) : weight.toFixed(2);
      output.textContent = text;
      if (k < levels.length) swatch.style.background = colors[sorted.indexOf(levels[k])];
      put(input, { "aria-valuetext": `${text}; L_MDR ${now.value.toFixed(3)}` });
    });
    [...buttons.children].forEach((button, k) =>
      put(button, { "aria-pressed": String(data.settings[k].join() === sorted.join()) }));
    paint(sorted, now, colors, rank);
  }

  function paint(sorted, now, colors, rank) {
    const width = Math.max(box.clientWidth, 260), left = 34, right = width - 10, reach = data.reach;
    const x = z => left + ((z + reach) / (2 * reach)) * (right - left);
    svg.replaceChildren();
    // Labels of levels that are close together lie in several rows.
    const ends = [], rows = sorted.map(level => {
      let row = ends.findIndex(end => x(level) - 22 > end);
      if (row < 0) row = ends.length;
      ends[row] = x(level) + 22;
      return row;
    });
    const top = 18 + 30 * ends.length, zero = top + 105, bottom = zero + 105;
    histogram(x, zero, 100, now.owned, colors);
    for (const [text, y] of [["one class, up", top + 10], ["two classes, down", bottom - 6]])
      draw(svg, "text", { x: right, y, "text-anchor": "end" }, text);
    sorted.forEach((level, k) => {
      const y = top - 18 - 30 * rows[k];
      draw(svg, "path", { class: "live-line", d: `M${x(level)} ${y + 17}V${bottom}`, "stroke-dasharray": "2 3" });
      draw(svg, "path", { class: "live-mark", d: `M${x(level) - 6} ${y + 8}h12l-6 9z`, fill: colors[k] });
      const text = draw(svg, "text", { x: x(level), y: y - 8, "text-anchor": "middle", class: "live-share" });
      for (const [line, dy] of [[signed(level, 2), 0], [`${(100 * now.shares[k]).toFixed(0)} %`, 13]])
        draw(text, "tspan", { x: x(level), dy }, line);
    });
    draw(svg, "path", { class: "live-axis", d: `M${left} ${zero}H${right}` });
    axis(svg, x, -reach, reach, bottom, "normalized distance z");
    const height = curve(x, left, right, pull(x, left, right, bottom + 62, sorted, now.owned, colors), sorted, rank, colors);
    put(svg, { viewBox: `0 0 ${width} ${height}`, height,
      "aria-label": `Histogram of normalized distances by level, and MDR's pull on them. ` +
        sorted.map((s, k) => `${(100 * now.shares[k]).toFixed(0)} % of the pairs at level ${signed(s, 2)}`).join(", ") +
        `. L_MDR ${now.value.toFixed(3)}, lambda times L_MDR ${(weight * now.value).toFixed(3)}.` });
  }

  /** Bars of eight bins, one class upwards and two classes downwards, each in the colours of its levels. */
  function histogram(x, zero, height, owned, colors) {
    const inner = bins - 2, bars = inner / 8, shares = {};
    for (const kind of ["same", "other"])
      shares[kind] = Array.from({ length: bars }, (_, i) =>
        total(data[kind].slice(1 + 8 * i, 9 + 8 * i)) / Math.max(pairs[kind], 1));
    const peak = Math.max(...shares.same, ...shares.other);
    owned.forEach(([first, end], k) => {
      const low = Math.max(first - 1, 0), high = Math.min(end - 1, inner); // inner bins, from 0
      for (const [kind, sign] of [["same", -1], ["other", 1]]) {
        let d = "";
        for (let i = Math.floor(low / 8); 8 * i < high; i++) {
          const from = Math.max(low, 8 * i), to = Math.min(high, 8 * i + 8);
          const y = sign * (shares[kind][i] / peak) * height;
          if (y) d += `M${x(from * unit - data.reach)} ${zero}v${y}H${x(to * unit - data.reach)}V${zero}z`;
        }
        if (d) draw(svg, "path", { class: "live-bar", d, fill: colors[k] });
      }
    });
  }

  /** -lambda sign(z - s): steps that turn round at each level. Returns where it ends. */
  function pull(x, left, right, top, sorted, owned, colors) {
    const zero = top + 42, y = value => zero - 36 * value;
    draw(svg, "text", { x: left + 2, y: top - 4 }, `pull on z: ${signed(weight, 2)} towards the level`);
    draw(svg, "path", { class: "live-axis", d: `M${left} ${zero}H${right}` });
    for (const value of [-1, 0, 1]) draw(svg, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, signed(value, 0));
    sorted.forEach((level, k) => {
      const from = Math.max((owned[k][0] - 1) * unit - data.reach, -data.reach);
      const to = Math.min((owned[k][1] - 1) * unit - data.reach, data.reach);
      if (to < from) return; // one of two levels at one place owns nothing
      draw(svg, "path", { class: "live-pull", stroke: colors[k], fill: "none", "stroke-width": 2.5,
        "data-from": from, "data-to": to, "data-level": level, "data-zero": zero, "data-one": 36,
        d: `M${x(from)} ${y(weight)}H${x(level)}V${y(-weight)}H${x(to)}` });
      for (const side of [-1, 1])
        if (Math.abs((side < 0 ? from : to) - level) > 0.3)
          draw(svg, "path", { class: "live-mark", fill: colors[k],
            d: `M${x(level) + 6 * side} ${zero}l${9 * side} -5v10z` });
      draw(svg, "circle", { class: "live-mark", cx: x(level), cy: zero, r: 4, fill: colors[k] });
    });
    return zero + 62;
  }

  /** L_MDR over all places of the level moved last, the others where they are. Returns the height of it all. */
  function curve(x, left, right, top, sorted, rank, colors) {
    const others = sorted.filter((_, k) => k !== rank), places = [];
    for (let at = -data.reach; at <= data.reach + 1e-9; at += 2 * data.step)
      places.push([at, evaluate([...others, at].sort((a, b) => a - b)).value]);
    const most = Math.max(...places.map(([, value]) => value)), bottom = top + 76;
    const y = value => bottom - (value / most) * 66, here = evaluate(sorted).value;
    draw(svg, "text", { x: left + 2, y: top - 2 }, `L_MDR if level ${chosen} moves`);
    draw(svg, "text", { x: left - 6, y: bottom + 4, "text-anchor": "end" }, "0");
    draw(svg, "text", { x: left - 6, y: y(most) + 4, "text-anchor": "end" }, most.toFixed(1));
    draw(svg, "path", { class: "live-curve", fill: "none", stroke: colors[rank], "stroke-width": 2.5,
      d: "M" + places.map(([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("L") });
    draw(svg, "circle", { class: "live-mark", cx: x(sorted[rank]), cy: y(here), r: 5, fill: colors[rank] });
    axis(svg, x, -data.reach, data.reach, bottom, `place of level ${chosen}`);
    return bottom + 38;
  }

  choose(levels);
  return redraw;
});
