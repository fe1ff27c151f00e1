// Distances during training: training.py describes the data.

begin("training", (box, data) => {
  const last = data.iterations.length - 1, [low, high] = data.limits;
  const wait = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1600 : 700; // milliseconds an evaluation
  let at = last, timer = null;

  const shares = data.runs.map(run => run.counts.map(rows => rows.map(row => {
    const pairs = Math.max(row.reduce((sum, n) => sum + n, 0), 1);
    return row.map(n => n / pairs);
  })));
  const peak = Math.max(...shares.flat(3));

  const row = add(box, "div", { class: "live-row" });
  const button = add(row, "button", { type: "button" }, "Play");
  const { input, output } = slider(row, "iteration", 0, last, 1, at);
  const key = add(box, "p", { class: "live-key" });
  for (const [k, name] of ["pairs of one class, up", "pairs of two classes, down"].entries()) {
    const span = add(key, "span");
    const mark = draw(span, "svg", { class: "no-invert", viewBox: "0 0 14 14", "aria-hidden": "true" });
    draw(mark, "path", { d: "M1 1h12v12h-12z", fill: data.colors[k] });
    span.append(name);
  }
  const panels = add(box, "div", { class: "live-panels" });
  const shown = data.runs.map(run => {
    const panel = add(panels, "div"), head = add(panel, "div");
    add(head, "b", {}, run.name);
    return { said: add(head, "span"), svg: picture(panel, "") };
  });
  const spoken = add(box, "span", { class: "live-unseen", "aria-live": "polite" });

  function show(next) {
    at = next;
    input.value = at;
    output.textContent = String(data.iterations[at]);
    put(input, { "aria-valuetext": `iteration ${data.iterations[at]} of ${data.iterations[last]}` });
    redraw();
  }

  function redraw() {
    data.runs.forEach((run, r) => {
      const [one, two] = shares[r].map(rows => rows[at]);
      const both = one.reduce((sum, share, b) => sum + Math.min(share, two[b]), 0);
      shown[r].said.textContent = ` overlap ${(100 * both).toFixed(0)} %`;
      shown[r].said.dataset.value = both;
      paint(shown[r].svg, run, [one, two]);
    });
  }

  function paint(svg, run, kinds) {
    const width = Math.max(svg.parentNode.clientWidth, 200), left = 8, right = width - 8, top = 12, zero = 92, bottom = 172;
    const x = z => left + ((z - low) / (high - low)) * (right - left);
    svg.replaceChildren();
    kinds.forEach((share, k) => {
      let d = "";
      share.forEach((part, b) => {
        const from = Math.max(data.edges[b], low), to = Math.min(data.edges[b + 1], high);
        const y = ((k ? 1 : -1) * part * (zero - top - 8)) / peak;
        if (part && from < to) d += `M${x(from).toFixed(2)} ${zero}v${y.toFixed(2)}H${x(to).toFixed(2)}V${zero}z`;
      });
      draw(svg, "path", { class: "live-bar", d, fill: data.colors[k] });
    });
    const levels = run.levels[at];
    levels.forEach((level, k) => {
      draw(svg, "path", { class: "live-line", d: `M${x(level)} ${top}V${bottom}`, "stroke-dasharray": "2 3" });
      draw(svg, "path", { class: "live-mark", d: `M${x(level) - 6} ${top - 8}h12l-6 9z`, fill: run.colors[k], "data-level": level });
    });
    draw(svg, "path", { class: "live-axis", d: `M${left} ${zero}H${right}` });
    axis(svg, x, low, high, bottom, "normalized distance z");
    put(svg, { viewBox: `0 0 ${width} ${bottom + 38}`, height: bottom + 38,
      "aria-label": `Histogram of ${run.name} at iteration ${data.iterations[at]}` +
        (levels.length ? `, levels at ${levels.map(level => signed(level, 2)).join(", ")}` : "") });
  }

  /** What a screen reader is told when it stands still: not at every step of play. */
  const tell = () => {
    spoken.textContent = `Iteration ${data.iterations[at]}. ` +
      data.runs.map((run, r) => `${run.name}:${shown[r].said.textContent}`).join("; ");
  };

  function play(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => {
      if (!box.isConnected) return play(false);
      show(at + 1);
      if (at === last) play(false);
    }, wait) : null;
    button.textContent = on ? "Pause" : "Play";
    if (!on) tell();
  }

  button.addEventListener("click", () => {
    if (!timer && at === last) show(0);
    play(!timer);
  });
  input.addEventListener("input", () => { play(false); show(Number(input.value)); });
  return () => show(at);
});
