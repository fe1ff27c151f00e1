/* The playground's pictures: planes with points and pulls, the strip of distances, the chart of losses.

   All are SVG with one unit a CSS pixel, so that text keeps its size on a phone. Colours that depend on the theme
   come from playground.css; those of levels are the book's (mdrbook.style), which serve both themes. */
(function () {
  "use strict";
  const playground = (globalThis.mdrPlayground = globalThis.mdrPlayground || {});

  const LEVELS = [[122, 92, 203], [42, 157, 106], [176, 125, 0]];  // mdrbook.style.LEVELS, near to far
  const SHAPES = ["M-6.5 0a6.5 6.5 0 1 0 13 0a6.5 6.5 0 1 0 -13 0z", "M-6 -6h12v12h-12z", "M0 -7.6L7 5.4H-7z"];
  const SHAPE_NAMES = ["circle", "square", "triangle"];
  const NAMES = { 1: ["only"], 2: ["near", "far"], 3: ["near", "middle", "far"],
                  4: ["near", "second", "third", "far"], 5: ["near", "second", "middle", "fourth", "far"] };
  const LONGEST = 72;  // pixels of the arrow in the legend, which none exceeds
  const NARROW = 600;  // a playground of fewer pixels has small pictures: all of them fit a phone's screen
  const SMALLEST = 0.005;  // a longest pull below this is drawn short instead of blown up

  /** The colour of level `rank` of `count`, 0 the nearest: as mdrbook.style.level_colors. */
  function levelColor(rank, count) {
    const where = count > 1 ? (2 * rank) / (count - 1) : 1, k = Math.min(1, Math.floor(where)), t = where - k;
    return `rgb(${LEVELS[k].map((v, c) => Math.round(v + t * (LEVELS[k + 1][c] - v))).join(",")})`;
  }

  /** Name of level `rank` of `count`, 0 the nearest. */
  const levelName = (rank, count) => NAMES[count][rank];

  /** Rank of each level from the nearest; a reader may drag one past another. */
  const ranks = levels => levels.map((a, i) => levels.filter((b, j) => b < a || (b === a && j < i)).length);

  const signed = (value, digits = 2) =>
    (Math.round(value * 10 ** digits) / 10 ** digits + 0).toFixed(digits).replace("-", "\u2212");

  function add(parent, name, attributes = {}, text = "") {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    set(node, attributes);
    node.textContent = text;
    return parent.appendChild(node);
  }

  function set(node, attributes) {
    for (const name in attributes) {
      const value = String(attributes[name]);  // comparing is cheaper than parsing a path again
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
  }

  /** Give `svg` as many units as it is pixels wide, before drawing and whenever that may have changed: asking for
      it in every step would make the browser lay the page out anew each time. Returns width and height. */
  function fit(svg, height) {
    const width = svg.clientWidth || 320, high = height(width);
    set(svg, { viewBox: `0 0 ${width} ${high}`, height: high });
    return [width, high];
  }

  const narrow = svg => (svg.closest(".mdr-playground") || svg).clientWidth < NARROW;

  /** The smallest of `steps`, times a power of ten, that is at least `value`. */
  function nice(value, steps = [1, 2, 5, 10]) {
    const power = 10 ** Math.floor(Math.log10(value));
    return power * steps.find(m => m * power >= value * (1 - 1e-9));
  }

  /** Arrows along vectors in pixels, from `gap` pixels beside places [x, y]: shafts and heads as two paths. */
  function arrows(places, vectors, gap) {
    let shafts = "", heads = "";
    places.forEach(([x, y], i) => {
      const dx = vectors[2 * i], dy = vectors[2 * i + 1], length = Math.hypot(dx, dy);
      if (length < 1) return;
      const head = Math.min(8, 0.6 * length + 1), ux = dx / length, uy = dy / length, w = 0.48 * head;
      const sx = x + gap * ux, sy = y + gap * uy, tx = sx + dx, ty = sy + dy, bx = tx - head * ux, by = ty - head * uy;
      shafts += `M${sx.toFixed(1)} ${sy.toFixed(1)}L${bx.toFixed(1)} ${by.toFixed(1)}`;
      heads += `M${tx.toFixed(1)} ${ty.toFixed(1)}L${(bx - w * uy).toFixed(1)} ${(by + w * ux).toFixed(1)}` +
        `L${(bx + w * uy).toFixed(1)} ${(by - w * ux).toFixed(1)}z`;
    });
    return [shafts, heads];
  }

  /** The longest of pulls {triplet, mdr}, each [x0, y0, x1, ...]. */
  function longest(pulls) {
    let most = 0;
    for (const name of ["triplet", "mdr"])
      for (let k = 0; k < pulls[name].length; k += 2)
        most = Math.max(most, Math.hypot(pulls[name][k], pulls[name][k + 1]));
    return most;
  }

  /** The scale of arrows, one for all planes: `fit(largest)` is the pull of an arrow of full length. It keeps still
      until arrows outgrow it or shrink far below it. */
  function arrowScale() {
    let reference = SMALLEST;
    return {
      reset() { reference = SMALLEST; },
      fit(largest) {
        if (largest > reference || largest < reference / 2)
          reference = nice(Math.max(SMALLEST, largest), [1, 1.5, 2, 3, 5, 7, 10]);
        return reference;
      },
    };
  }

  // Points and levels under the reader's hand.

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

  /** While a pointer drags `node`, or what `grab` returns in its stead, call move(dx, dy) in pixels from where it
      was taken, and `drop` in the end. */
  function draggable(node, grab, move, drop) {
    node.onpointerdown = event => {
      if (event.button) return;
      event.preventDefault();
      node.setPointerCapture(event.pointerId);
      grab(event).focus({ preventScroll: true });
      node.onpointermove = to => move(to.clientX - event.clientX, to.clientY - event.clientY);
      node.onpointerup = node.onpointercancel = () => {
        node.onpointermove = node.onpointerup = node.onpointercancel = null;
        drop();
      };
    };
  }

  /** Arrow keys choose a point, Space takes it and puts it down; arrow keys then move it: move([dx, dy]). */
  function keys(node, { taken, toggle, move, choose }) {
    node.onkeydown = event => {
      const arrow = ARROWS[event.key], switches = [" ", "Enter"].includes(event.key);
      const drop = event.key === "Escape" && taken();
      if (!(arrow || switches || drop) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      if (!arrow) toggle();
      else if (taken()) move(arrow.map(v => 0.02 * v * (event.shiftKey ? 5 : 1)));
      else choose(arrow);
    };
  }

  /** The point next to point `i` in a direction: by x for Left and Right, by y for Up and Down, so that every
      point can be reached. */
  function neighbour(points, i, [dx, dy]) {
    const axis = dx ? 0 : 1;
    const order = points.map((_, k) => k).sort((a, b) => points[a][axis] - points[b][axis] || a - b);
    return order[Math.max(0, Math.min(order.length - 1, order.indexOf(i) + dx + dy))];
  }

  /** A plane. `draw(view)` shows points, pulls and the selected point's pairs; `nodes` are the points, one of which
      the Tab key reaches: `rove(i)` says which. `tall(width)` is its height. */
  function plane(svg, tall = wide => Math.min(narrow(svg) ? 226 : 340, 1.3 * wide)) {
    const lines = add(svg, "g", { class: "pg-lines" });
    const kinds = ["triplet", "mdr"].map(name => ({
      name,
      shaft: add(svg, "path", { class: `pg-shaft pg-${name}` }),
      head: add(svg, "path", { class: `pg-head pg-${name}` }),
    }));
    const layer = add(svg, "g"), counts = add(svg, "g", { class: "pg-counts" });
    const scale = add(svg, "g", { class: "pg-scale" });
    const self = { nodes: [], span: 0, place, moved, pick, draw, start, resize, rove };
    let width = 320, height = 320, long = LONGEST, places = [];

    /** New points: the view goes back to its start. */
    function start(labels) {
      self.span = 1.12;
      layer.replaceChildren();
      self.nodes = labels.map(label => {
        const node = add(layer, "g", { class: `pg-point pg-class-${label}`, tabindex: -1, role: "button" });
        add(node, "circle", { class: "pg-hit", r: 18 });
        add(node, "circle", { class: "pg-ring", r: 12 });
        add(node, "path", { class: "pg-mark", d: SHAPES[label] });
        return node;
      });
      rove(0);
    }

    function rove(which) { self.nodes.forEach((node, i) => set(node, { tabindex: i === which ? 0 : -1 })); }

    function resize() {
      [width, height] = fit(svg, tall);
      long = Math.min(LONGEST, 0.27 * Math.min(width, height));
    }

    const pixels = () => Math.min(width, height) / (2 * self.span);
    function place([x, y]) { return [width / 2 + x * pixels(), height / 2 - y * pixels()]; }

    /** The coordinates of a point moved by some pixels, kept within the picture. */
    function moved([x, y], dx, dy) {
      const [farX, farY] = [width, height].map(size => (size / 2 - 10) / pixels());
      return [Math.max(-farX, Math.min(farX, x + dx / pixels())), Math.max(-farY, Math.min(farY, y - dy / pixels()))];
    }

    /** The point nearest to a place on the screen, the uppermost of a heap: fingers are wider than points. */
    function pick(clientX, clientY) {
      const box = svg.getBoundingClientRect();
      const gaps = places.map(([x, y]) => Math.hypot(x - clientX + box.left, y - clientY + box.top));
      return gaps.lastIndexOf(Math.min(...gaps));
    }

    function draw({ points, labels, levels, now, pulls, selected, held, playing, reference }) {
      const far = Math.max(...points.map(point => Math.max(Math.abs(point[0]), Math.abs(point[1]))));
      if (held < 0) self.span = Math.max(self.span, far / 0.93);
      places = points.map(place);
      for (const { name, shaft, head } of kinds) {
        const vectors = pulls[name].map((v, k) => (k % 2 ? -v : v) * (long / reference));
        const [shafts, heads] = arrows(places, vectors, 9);
        set(shaft, { d: shafts });
        set(head, { d: heads });
      }
      places.forEach(([x, y], i) => {
        set(self.nodes[i], { transform: `translate(${x.toFixed(2)} ${y.toFixed(2)})` });
        self.nodes[i].classList.toggle("pg-selected", i === selected);
        if (!playing)
          set(self.nodes[i], { "aria-label": `Point ${i + 1}, class ${"ABC"[labels[i]]}, ${SHAPE_NAMES[labels[i]]}, ` +
            `at ${signed(points[i][0])}, ${signed(points[i][1])}`, "aria-pressed": i === held });
      });
      lines.replaceChildren();
      if (selected >= 0)
        ranks(levels).forEach((rank, s) => {
          const ends = places.filter((_, j) => now.nearest[selected * points.length + j] === s);
          const d = ends.map(([x, y]) => `M${places[selected].join(" ")}L${x} ${y}`).join("");
          add(lines, "path", { d, stroke: levelColor(rank, levels.length) });
        });
      heaps();
      legend(reference, now.meanDistance * pixels());
    }

    /** Points that hide one another get their number beside them. */
    function heaps() {
      counts.replaceChildren();
      const done = new Set();
      places.forEach(([x, y], i) => {
        if (done.has(i)) return;
        const same = places.flatMap(([a, b], j) => (Math.hypot(a - x, b - y) < 12 && !done.has(j) ? [j] : []));
        same.forEach(j => done.add(j));
        if (same.length > 2) add(counts, "text", { x: x + 13, y: y - 11 }, `\u00d7${same.length}`);
      });
    }

    function legend(reference, mean) {
      scale.replaceChildren();
      const y = height - 14;
      const [shaft, head] = arrows([[12, y]], [long, 0], 0);
      add(scale, "path", { d: shaft, class: "pg-shaft" });
      add(scale, "path", { d: head, class: "pg-head" });
      add(scale, "text", { x: 12, y: y - 9 }, `a pull of ${+reference.toPrecision(2)}`);
      if (!(mean > 0) || width < 240) return;
      const x = width - 12, left = x - Math.min(mean, width / 2);
      add(scale, "path", { d: `M${left} ${y - 4}v8M${left} ${y}H${x}M${x} ${y - 4}v8`, class: "pg-shaft" });
      add(scale, "text", { x, y: y - 9, "text-anchor": "end" }, "mean distance");
    }

    return self;
  }

  /** The strip of normalized distances, same class up and different classes down, with levels to drag. */
  function strip(svg) {
    const TOP = 52, RUG = 7, BIN = 0.2;
    const bands = add(svg, "g"), bars = add(svg, "g"), rug = add(svg, "g"), axis = add(svg, "g");
    const chosen = add(svg, "path", { class: "pg-chosen" }), stems = add(svg, "g"), layer = add(svg, "g");
    const self = { handles: [], moved, draw, start, resize };
    let width = 320, room = 60, reach = 3.4, tallest = 8, middle, foot, high;

    function resize() {
      room = narrow(svg) ? 37 : 58;
      middle = TOP + room;
      foot = middle + room;
      high = foot + 32;
      [width] = fit(svg, () => high);
    }

    const x = z => width * (0.5 + (0.5 * Math.max(-reach, Math.min(reach, z))) / reach);

    /** A level moved by some pixels. */
    function moved(level, dx) { return level + (2 * reach * dx) / width; }

    /** `count` levels: a handle each. */
    function start(count) {
      stems.replaceChildren();
      layer.replaceChildren();
      self.handles = Array.from({ length: count }, (_, s) => {
        const node = add(layer, "g", { class: "pg-handle", tabindex: 0, role: "slider",
          "aria-valuemin": -4, "aria-valuemax": 4 });
        for (const part of ["pg-halo", "pg-stem"]) add(stems, "path", { class: part });
        add(node, "rect", { class: "pg-pill", x: -24, y: 0, width: 48, height: 24, rx: 12 });
        add(node, "text", { y: 16.5, "text-anchor": "middle" });
        return node;
      });
      tallest = 8;
    }

    function draw({ labels, levels, now, selected }) {
      const n = labels.length, count = levels.length, order = ranks(levels), pairs = [];
      let far = 0;
      for (let i = 0; i < n; i++)
        for (let j = 0; j < i; j++) {
          const k = i * n + j;
          far = Math.max(far, Math.abs(now.z[k]));
          pairs.push({ z: now.z[k], level: now.nearest[k], up: labels[i] === labels[j],
                       own: i === selected || j === selected });
        }
      reach = far > 3.4 ? Math.min(8, Math.ceil(far) + 0.4) : 3.4;
      drawBands(levels, order, pairs);
      drawBars(pairs, order, count);
      set(chosen, { d: pairs.filter(pair => pair.own).map(
        pair => `M${x(pair.z).toFixed(1)} ${middle}v${pair.up ? -RUG - 9 : RUG + 9}`).join("") });
      const sorted = levels.map((_, s) => s).sort((a, b) => order[a] - order[b]);
      let last = -100, low = true;
      for (const s of sorted) {  // pills that would overlap alternate between two rows
        const place = Math.max(25, Math.min(width - 25, x(levels[s])));
        low = place - last < 50 ? !low : true;
        last = place;
        const top = low ? 26 : 0, [pill, text] = self.handles[s].children;
        set(self.handles[s], { transform: `translate(${place.toFixed(1)} ${top})`,
          "aria-label": `The ${levelName(order[s], count)} level`,
          "aria-valuenow": levels[s].toFixed(2), "aria-valuetext": signed(levels[s]) });
        const color = levelColor(order[s], count);
        const d = `M${place.toFixed(1)} ${top + 24}L${x(levels[s]).toFixed(1)} ${TOP}V${foot}`;
        set(stems.children[2 * s], { d });
        set(stems.children[2 * s + 1], { d, stroke: color });
        set(pill, { stroke: color });
        text.textContent = signed(levels[s]);
      }
    }

    function drawBands(levels, order, pairs) {
      bands.replaceChildren();
      axis.replaceChildren();
      const sorted = [...levels].sort((a, b) => a - b);
      sorted.forEach((level, rank) => {
        const left = rank ? x((sorted[rank - 1] + level) / 2) : 0;
        const right = rank < sorted.length - 1 ? x((level + sorted[rank + 1]) / 2) : width;
        const fill = levelColor(rank, levels.length);
        add(bands, "rect", { class: "pg-band", x: left, y: TOP, width: right - left, height: foot - TOP, fill });
        if (rank) add(bands, "path", { class: "pg-border", d: `M${left} ${TOP}V${foot}` });
        const held = pairs.filter(pair => order[pair.level] === rank).length;
        const name = levelName(rank, levels.length), wide = right - left;
        add(axis, "text", { x: (left + right) / 2, y: high - 3, "text-anchor": "middle" },
          wide > 110 ? `${name}: ${held} pairs` : wide > 74 ? `${name}: ${held}` : held);
      });
      add(axis, "path", { class: "pg-axis", d: `M0 ${middle}H${width}` });
      for (let z = -Math.floor(reach); z <= reach; z++)
        add(axis, "text", { x: x(z), y: foot + 14, "text-anchor": "middle" }, signed(z, 0));
      add(axis, "text", { x: 6, y: TOP + 14 }, "same class");
      add(axis, "text", { x: 6, y: foot - 7 }, "different");
    }

    function drawBars(pairs, order, count) {
      bars.replaceChildren();
      rug.replaceChildren();
      const bins = new Map(), ticks = Array(count).fill(""), shapes = Array(count).fill("");
      for (const pair of pairs) {
        const bin = Math.round(Math.max(-reach, Math.min(reach, pair.z)) / BIN);
        const key = `${bin} ${pair.up ? 1 : 0}`;
        if (!bins.has(key)) bins.set(key, Array(count).fill(0));
        bins.get(key)[order[pair.level]]++;
        ticks[order[pair.level]] += `M${x(pair.z).toFixed(1)} ${middle}v${pair.up ? -RUG : RUG}`;
      }
      let most = 8;
      for (const held of bins.values()) most = Math.max(most, held.reduce((a, b) => a + b));
      // Room to spare, and changed seldom: bars should not jump when a single pair changes its bin.
      if (most > tallest || most < tallest / 2) tallest = Math.ceil(most / 8) * 8;
      for (const [key, held] of bins) {
        const [bin, up] = key.split(" ").map(Number), left = x((bin - 0.5) * BIN) + 0.5, wide = x((bin + 0.5) * BIN) - left - 0.5;
        let from = RUG + 1;
        held.forEach((number, rank) => {
          const tall = (number / tallest) * (room - RUG - 6);
          if (number) shapes[rank] += `M${left.toFixed(1)} ${middle + (up ? -from - tall : from)}h${wide.toFixed(1)}` +
            `v${tall.toFixed(1)}h${(-wide).toFixed(1)}z`;
          from += tall;
        });
      }
      for (let rank = 0; rank < count; rank++) {
        add(bars, "path", { class: "pg-bars", d: shapes[rank], fill: levelColor(rank, count) });
        add(rug, "path", { class: "pg-rug", d: ticks[rank], stroke: levelColor(rank, count) });
      }
    }

    return self;
  }

  /** The chart of losses over the steps: `draw([[triplet, mdr], ...])`, or [[triplet, mdr, triplet without MDR], ...]. */
  function chart(svg) {
    const LEFT = 34;
    const grid = add(svg, "g", { class: "pg-grid" });
    const names = ["triplet", "mdr", "alone"];
    const paths = names.map(name => add(svg, "path", { class: `pg-loss pg-${name}` }));
    const dots = names.map(name => add(svg, "circle", { class: `pg-dot pg-${name}`, r: 3.5 }));
    let width = 320, high = 132, foot = 112, drawn = "";

    function resize() {
      [width, high] = fit(svg, () => (narrow(svg) ? 92 : 120));
      foot = high - 20;
    }

    function draw(history) {
      const last = history.length - 1, end = Math.max(100, Math.ceil(last / 50) * 50);
      const top = nice(Math.max(0.1, ...history.flat()));
      const x = step => LEFT + ((width - LEFT - 8) * step) / end, y = loss => foot - ((foot - 8) * loss) / top;
      if (`${top} ${end} ${width} ${high}` !== drawn) {
        drawn = `${top} ${end} ${width} ${high}`;
        grid.replaceChildren();
        for (const share of [0, 0.5, 1]) {
          const across = y(share * top), anchor = ["start", "middle", "end"][2 * share];
          add(grid, "path", { d: `M${LEFT} ${across}H${width - 8}` });
          add(grid, "text", { x: LEFT - 6, y: across + 4, "text-anchor": "end" }, +(share * top).toPrecision(3));
          add(grid, "text", { x: x(share * end), y: high - 4, "text-anchor": anchor }, share * end || "step 0");
        }
      }
      const stride = Math.max(1, Math.ceil(history.length / width));
      paths.forEach((path, k) => {
        const there = history[last].length > k;
        for (const node of [path, dots[k]]) set(node, { visibility: there ? "visible" : "hidden" });
        if (!there) return;
        const shown = history.flatMap((losses, step) => (step % stride && step < last ? [] : [[step, losses[k]]]));
        set(path, { d: "M" + shown.map(([step, loss]) => `${x(step).toFixed(1)} ${y(loss).toFixed(1)}`).join("L") });
        set(dots[k], { cx: x(last), cy: y(history[last][k]) });
      });
    }

    return { draw, resize };
  }

  /** A small picture of a layout, for its button. */
  function thumbnail(svg, { points, labels }) {
    set(svg, { viewBox: "-1.1 -0.85 2.2 1.7", "aria-hidden": "true" });
    points.forEach(([x, y], i) => add(svg, "path", { class: `pg-class-${labels[i]} pg-mark`, d: SHAPES[labels[i]],
      transform: `translate(${x} ${-y}) scale(0.013)` }));
  }

  playground.drawing = { ARROWS, add, arrowScale, chart, draggable, fit, keys, levelColor, levelName, longest, narrow,
    neighbour, plane, ranks, set, signed, strip, thumbnail };
})();
