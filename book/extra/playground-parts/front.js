/* The picture of the first page: points under the reader's hand, their normalized distances, and where gradient
   descent on MDR alone takes these. Mathematics, plane, pointer and keys are the playground's. */
(function () {
  "use strict";
  const { layout, evaluate, step, drawing } = globalThis.mdrPlayground;
  const { add, levelColor, narrow, neighbour, set, signed } = drawing;

  const LEVELS = [-1.5, 0, 1.5], EACH = 4;  // points of each class: lines of more would cover each other
  const STEPS = 120, RATE = 0.6;
  const SETTINGS = { loss: "mdr", lambda: 1, margin: 0.2, momentum: 0.9, learn: false };
  const REACH = 3.45, BIN = 0.3;  // levels in the middle of a bin, their borders between two
  const ABOVE = 20, BELOW = 36, RUG = 8;  // pixels: the loss above the bars, ticks under them, then the axis

  /** A histogram of z by level, with a tick for each pair: draw(what evaluate said, count of the tallest bar). */
  function histogram(svg) {
    let width, height;
    const x = z => (width * (1 + Math.max(-1, Math.min(1, z / REACH)))) / 2;
    const resize = () => { [width, height] = drawing.fit(svg, () => (narrow(svg) ? 150 : 206)); };

    function draw(now, tallest) {
      const foot = height - BELOW, floor = foot - RUG, bars = counts(now.z), said = `L_MDR = ${now.mdr.toFixed(2)}`;
      svg.replaceChildren();
      LEVELS.forEach((level, s) => {
        const color = levelColor(s, LEVELS.length), owns = pairs(now.nearest).filter(k => now.nearest[k] === s);
        const [left, right] = [s ? level - 0.75 : -REACH, s < 2 ? level + 0.75 : REACH];
        const band = { x: x(left), y: ABOVE, width: x(right) - x(left), height: foot - ABOVE };
        add(svg, "rect", { class: "pg-band", fill: color, ...band });
        add(svg, "path", { class: "pg-stem", stroke: color, d: `M${x(level)} ${ABOVE}V${foot}` });
        let d = "";
        bars.forEach((count, b) => {
          const from = b * BIN - REACH, tall = (count / tallest) * (floor - ABOVE - 6);
          if (count && from > left - 0.1 && from < right - 0.1)
            d += `M${x(from)} ${floor}v${-tall}H${x(from + BIN)}v${tall}z`;
        });
        add(svg, "path", { class: "pg-bars", fill: color, d });
        add(svg, "path", { class: "pg-rug", stroke: color,
          d: owns.map(k => `M${x(now.z[k]).toFixed(2)} ${floor}V${foot}`).join("") });
        add(svg, "text", { x: x(level), y: foot + 15, "text-anchor": "middle" }, signed(level, level ? 1 : 0));
      });
      add(svg, "path", { class: "pg-axis", d: `M0 ${foot}H${width}` });
      add(svg, "text", { x: width / 2, y: height - 4, "text-anchor": "middle" }, "normalized distance z");
      add(svg, "text", { class: "pg-loss-now", x: 0, y: ABOVE - 7 }, said);
      set(svg, { "aria-label": `Histogram of normalized distances at the levels \u22121.5, 0 and 1.5. ${said}` });
    }
    return { resize, draw };
  }

  /** Places of the pairs i > j in an n x n array. */
  function pairs(list) {
    const n = Math.sqrt(list.length);
    return Array.from(list.keys()).filter(k => k % n < Math.floor(k / n));
  }

  /** How many pairs each bin has; the outer ones also hold what is beyond. */
  function counts(z) {
    const bins = Array(Math.round((2 * REACH) / BIN)).fill(0);
    for (const k of pairs(z)) bins[Math.max(0, Math.min(bins.length - 1, Math.floor((z[k] + REACH) / BIN)))]++;
    return bins;
  }

  /** Gradient descent on MDR alone, in place, the rate falling linearly to 0. */
  function descend(state, from, to) {
    for (let t = from; t < to; t++) step(state, { ...SETTINGS, rate: RATE * (1 - t / STEPS) });
    return state;
  }

  function start(root) {
    const find = selector => root.querySelector(selector);
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    const plane = drawing.plane(find(".pg-plane"), () => (narrow(root) ? 176 : 206));
    const web = add(find(".pg-plane"), "g", { class: "pg-web" });
    find(".pg-plane").prepend(web);
    const histograms = [...root.querySelectorAll(".pg-histogram")].map(histogram);
    let seed = 1, first, state, end, done, timer = null, selected = -1, held = -1, waiting = false;

    /** Step 0 from these points. */
    function begin(points) {
      const labels = state ? state.labels : [];
      const fresh = () => ({ points: points.map(point => [...point]), labels, levels: LEVELS, running: null });
      [first, state, end, done] = [points.map(point => [...point]), fresh(), descend(fresh(), 0, STEPS), 0];
      draw();
    }

    function draw() {
      const now = evaluate(state, SETTINGS), last = evaluate(end, SETTINGS), n = state.points.length;
      const still = Array(2 * n).fill(0);
      plane.draw({ ...state, now, pulls: { triplet: still, mdr: still }, reference: 1, selected, held,
                   playing: Boolean(timer) });
      const places = state.points.map(plane.place), owned = pairs(now.nearest);
      web.replaceChildren(...LEVELS.map((_, s) => add(web, "path", { stroke: levelColor(s, LEVELS.length),
        d: owned.filter(k => now.nearest[k] === s).map(
          k => `M${places[Math.floor(k / n)].join(" ")}L${places[k % n].join(" ")}`).join("") })));
      const tallest = Math.max(...counts(now.z), ...counts(last.z));
      histograms[0].draw(now, tallest);
      histograms[1].draw(last, tallest);
      find("[data-say=step]").textContent = `Step ${done} of ${STEPS}`;
    }

    function tell(what) {
      find("[aria-live]").textContent = `${what} Step ${done} of ${STEPS}. Mean distance to the nearest level ` +
        `${evaluate(state, SETTINGS).mdr.toFixed(2)}, after the last step ${evaluate(end, SETTINGS).mdr.toFixed(2)}.`;
    }

    function play(on) {
      clearInterval(timer);
      timer = on ? setInterval(() => {
        const to = Math.min(STEPS, done + (calm.matches ? STEPS / 8 : 1));
        descend(state, done, to);
        done = to;
        if (done === STEPS) play(false);
        else draw();
      }, calm.matches ? 500 : 33) : null;
      root.classList.toggle("pg-playing", on);
      find("[data-do=play] span").textContent = on ? "Pause" : "Play";
      draw();
      if (!on) tell("");
    }

    /** The point goes where the hand is; all that follows is computed once a frame. */
    function put(i, place) {
      state.points[i] = place;
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; begin(state.points); });
    }

    const focus = i => plane.nodes[i].focus({ preventScroll: true });
    function listen(node, i) {
      let from;
      node.onfocus = () => { plane.rove(i); selected = i; draw(); };
      node.onblur = () => { if (held === i) held = -1; selected = -1; draw(); };
      drawing.draggable(node, event => {
        if (timer) play(false);
        held = plane.pick(event.clientX, event.clientY);
        from = state.points[held];
        return plane.nodes[held];
      }, (dx, dy) => put(held, plane.moved(from, dx, dy)), () => { held = -1; draw(); tell("Point moved."); });
      drawing.keys(node, {
        taken: () => held === i,
        toggle() {
          held = held === i ? -1 : i;
          draw();
          tell(held === i ? "Point taken: arrow keys move it." : "Point put down.");
        },
        move: by => put(i, state.points[i].map((v, c) => v + 2 * by[c])),
        choose: arrow => focus(neighbour(state.points, i, arrow)),
      });
    }

    /** New points: those of three classes that overlap. */
    function draft() {
      const { points, labels } = layout("clusters", seed), noise = layout("mixed", seed + 100).points;
      const chosen = labels.map((_, i) => i).filter(i => i % 7 < EACH);
      state = { labels: chosen.map(i => labels[i]) };
      plane.start(state.labels);
      plane.nodes.forEach(listen);
      begin(chosen.map(i => points[i].map((v, c) => v + 0.8 * noise[i][c])));
    }

    find("[data-do=play]").onclick = () => {
      if (done === STEPS) begin(first);
      play(!timer);
    };
    find("[data-do=draw]").onclick = () => {
      play(false);
      seed++;
      draft();
      tell("Other points.");
    };
    root.hidden = false;
    const resize = () => [plane, ...histograms].forEach(part => part.resize());
    resize();
    draft();
    new ResizeObserver(() => { resize(); draw(); }).observe(root);
    document.documentElement.classList.add("pg-live");  // the still picture goes
    globalThis.mdrPlayground.front = { levels: LEVELS, steps: STEPS, rate: RATE, points: () => state.points };  // for tests
  }

  start(document.getElementById("mdr-front"));
})();
