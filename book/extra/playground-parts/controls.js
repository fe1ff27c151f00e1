/* The playground's controls: what the reader sets, drags and presses, and when the pictures are drawn. */
(function () {
  "use strict";
  const { layout, layouts, evaluate, step, weights, drawing } = globalThis.mdrPlayground;
  const { signed } = drawing;

  const NAMES = { clusters: "Clusters", mixed: "Mixed", outlier: "Outlier", line: "Line", collapsed: "Collapse" };
  const SPREADS = { 1: [0], 2: [-1, 1], 3: [-1.5, 0, 1.5], paper: [-3, 0, 3], 4: [-1.5, -0.5, 0.5, 1.5],
                    5: [-2, -1, 0, 1, 2] };
  const RATES = [0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1, 2];
  const DEFAULTS = { layout: "mixed", seed: 1, loss: "both", margin: 0.2, lambda: 0.2, spread: "3", learn: true,
                     nu: 0.01, momentum: 0.9, rate: 0.3 };
  // The experiments of the page: what differs from the defaults.
  const SETUPS = {
    silent: { layout: "clusters" },
    outlier: { layout: "outlier", loss: "triplet" },
    heaps: { layout: "mixed", loss: "mdr", lambda: 1, spread: "2", learn: false },
    tug: { layout: "mixed" },
    line: { layout: "line" },
    collapse: { layout: "collapsed", loss: "triplet" },
  };
  const STEPS_A_SECOND = 30, MOST_AT_ONCE = 4;
  const REMEMBERED = 3000;  // steps in the chart

  function start(root) {
    const find = selector => root.querySelector(selector);
    const plane = drawing.plane(find(".pg-plane")), strip = drawing.strip(find(".pg-strip"));
    const chart = drawing.chart(find(".pg-chart"));
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    const settings = { ...DEFAULTS };
    let state, now, history, steps, startLevels, shown = null, selected = -1, held = -1, playing = false, clock = 0;

    // What is drawn.

    /** Pulls, minus the weighted gradients, of the next step. While it plays, an average over some steps:
        the gradient of an absolute value jumps when a distance passes its level, and arrows would flicker. */
    function pulls() {
      const weight = weights(settings);
      const exact = { triplet: now.byTriplet.map(v => -weight.triplet * v), mdr: now.byMdr.map(v => -weight.mdr * v) };
      if (!playing || !shown) return exact;
      for (const name in exact) exact[name] = exact[name].map((v, k) => 0.15 * v + 0.85 * shown[name][k]);
      return exact;
    }

    function draw() {
      now = evaluate(state, settings);
      shown = pulls();
      const view = { ...state, now, pulls: shown, selected, held, playing };
      plane.draw(view);
      strip.draw(view);
      chart.draw([...history, [now.triplet, now.mdr]]);
      const { running, batch } = now, say = (name, text) => { find(`[data-say=${name}]`).textContent = text; };
      say("step", `Step ${steps}`);
      say("triplet", now.triplet.toFixed(3) + (settings.loss === "mdr" ? ", only watched" : ""));
      say("mdr", now.mdr.toFixed(3) + (settings.loss === "triplet" ? ", only watched" : ""));
      say("statistics", `Running mean ${running.mean.toFixed(2)}, deviation ${running.std.toFixed(2)}` +
        `; of these points alone ${batch.mean.toFixed(2)} and ${batch.std.toFixed(2)}.`);
    }

    /** What a screen reader is told after a change, not during play. */
    function tell(what) {
      find("[aria-live]").textContent = `${what} Step ${steps}. Triplet loss ${now.triplet.toFixed(3)}, ` +
        `MDR ${now.mdr.toFixed(3)}. Levels at ${state.levels.map(level => signed(level)).join(", ")}.`;
    }

    // Starting, stepping, playing.

    function reset(levels = startLevels) {
      startLevels = [...levels];
      const fresh = layout(settings.layout, settings.seed);
      const same = state && state.labels.join() === fresh.labels.join();
      state = { ...fresh, levels: [...levels], running: null };
      history = [];
      steps = 0;
      held = -1;
      if (!same) selected = -1;
      plane.start(state.labels);
      if (strip.handles.length !== levels.length) strip.start(levels.length);
      listen();
      draw();
    }

    function advance(count) {
      for (let k = 0; k < count; k++) {
        const { triplet, mdr } = step(state, settings, held);
        history.push([triplet, mdr]);
        steps++;
      }
      if (history.length > REMEMBERED) history.splice(0, history.length - REMEMBERED);
    }

    function frame(time) {
      if (!playing) return;
      // Those who asked for less motion get two still pictures a second instead of an animation.
      const wait = calm.matches ? 500 : 1000 / STEPS_A_SECOND;
      if (time - clock >= wait) {
        const due = Math.floor(((time - clock) * STEPS_A_SECOND) / 1000);
        advance(calm.matches ? STEPS_A_SECOND / 2 : Math.min(due, MOST_AT_ONCE));
        clock = calm.matches || due > MOST_AT_ONCE ? time : clock + (due * 1000) / STEPS_A_SECOND;
        draw();
      }
      requestAnimationFrame(frame);
    }

    function play(on) {
      if (on === playing) return;
      playing = on;
      root.classList.toggle("pg-playing", on);
      find("[data-do=play] span").textContent = on ? "Pause" : "Play";
      clock = performance.now();
      if (on) requestAnimationFrame(frame);
      else draw();
      tell(on ? "Playing." : "Paused.");
    }

    // Points and levels under the reader's hand.

    /** While a pointer drags `node`, or what `grab` returns in its stead, call move(dx, dy) in pixels from where it
        was taken, and `drop` in the end. */
    function draggable(node, grab, move, drop) {
      node.onpointerdown = event => {
        if (event.button) return;
        event.preventDefault();
        node.setPointerCapture(event.pointerId);
        grab(event).focus({ preventScroll: true });
        node.onpointermove = moved => { move(moved.clientX - event.clientX, moved.clientY - event.clientY); draw(); };
        node.onpointerup = node.onpointercancel = () => {
          node.onpointermove = node.onpointerup = node.onpointercancel = null;
          drop();
          draw();
        };
      };
    }

    /** Call move(dx, dy) at an arrow key, ten times as far with Shift. */
    function keys(node, move, told) {
      node.onkeydown = event => {
        const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        if (!arrow || event.ctrlKey || event.altKey || event.metaKey) return;
        event.preventDefault();
        event.stopPropagation();
        move(...arrow.map(v => v * (event.shiftKey ? 5 : 1)));
        draw();
        tell(told());
      };
    }

    function listen() {
      plane.nodes.forEach((node, i) => {
        const select = which => () => { selected = which; draw(); };
        node.onfocus = node.onpointerenter = select(i);
        node.onblur = select(-1);
        node.onpointerleave = () => { if (document.activeElement !== node) select(-1)(); };
        let from;
        // Points lie close: what counts is not which one lies on top, but which is nearest.
        draggable(node, event => {
          held = plane.pick(event.clientX, event.clientY);
          from = state.points[held];
          return plane.nodes[held];
        }, (dx, dy) => { state.points[held] = plane.moved(from, dx, dy); }, () => {
          tell(`Point ${held + 1} moved.`);
          held = -1;
        });
        keys(node, (dx, dy) => {
          state.points[i] = [state.points[i][0] + 0.02 * dx, state.points[i][1] + 0.02 * dy];
        }, () => `Point ${i + 1} at ${state.points[i].map(v => signed(v)).join(", ")}.`);
      });
      strip.handles.forEach((node, s) => {
        const put = level => {
          const rounded = Math.round(Math.max(-4, Math.min(4, level)) * 20) / 20;
          state.levels[s] = startLevels[s] = rounded;
        };
        let from;
        draggable(node, () => { from = state.levels[s]; return node; }, dx => put(strip.moved(from, dx)),
          () => tell(`Level ${s + 1} moved.`));
        keys(node, (dx, dy) => put(state.levels[s] + 0.05 * (dx + dy)), () => "");
      });
    }

    // Settings.

    const inputs = [...root.querySelectorAll("[data-setting]")];

    function read(input) {
      const name = input.dataset.setting;
      if (input.type === "radio") { if (input.checked) settings[name] = input.value; }
      else if (input.type === "checkbox") settings[name] = input.checked;
      else if (input.tagName === "SELECT") settings[name] = input.value;
      else settings[name] = name === "rate" ? RATES[input.value] : Number(input.value);
    }

    /** Show the settings in the controls. */
    function write() {
      for (const input of inputs) {
        const value = settings[input.dataset.setting];
        if (input.type === "radio") input.checked = input.value === value;
        else if (input.type === "checkbox") input.checked = value;
        else input.value = input.dataset.setting === "rate" ? RATES.indexOf(value) : value;
        const output = input.parentElement.querySelector("output");
        if (output) {
          output.textContent = value;
          input.setAttribute("aria-valuetext", value);
        }
      }
      // A setting that changes nothing now says so.
      const off = { margin: settings.loss === "mdr", lambda: settings.loss === "triplet",
                    nu: settings.loss === "triplet" || !settings.learn, learn: settings.loss === "triplet" };
      for (const input of inputs) {
        input.disabled = Boolean(off[input.dataset.setting]);
        input.closest("label").classList.toggle("pg-off", input.disabled);
      }
      for (const button of root.querySelectorAll("[data-layout]"))
        button.setAttribute("aria-pressed", button.dataset.layout === settings.layout);
    }

    /** Begin anew with some settings changed. */
    function change(changes) {
      Object.assign(settings, changes);
      write();
      reset("spread" in changes ? SPREADS[settings.spread] : startLevels);
    }

    for (const input of inputs)
      input.addEventListener("input", () => {
        const spread = settings.spread;
        read(input);
        write();
        if (settings.spread !== spread) {  // new levels; points and statistics stay
          startLevels = [...SPREADS[settings.spread]];
          state.levels = [...startLevels];
          strip.start(startLevels.length);
          listen();
        }
        draw();
      });

    for (const name of layouts) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.layout = name;
      drawing.thumbnail(button.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg")),
        layout(name, 1));
      button.append(NAMES[name]);
      button.addEventListener("click", () => {
        play(false);
        change({ layout: name, seed: 1 });
        tell(`${NAMES[name]}.`);
      });
      find(".pg-layouts").append(button);
    }

    const actions = {
      play: () => play(!playing),
      step: () => { play(false); advance(1); draw(); tell(""); },
      reset: () => { play(false); reset(); tell("Reset."); },
      draw: () => { play(false); change({ seed: settings.seed + 1 }); tell("Another draw of the points."); },
    };
    for (const button of root.querySelectorAll("[data-do]"))
      button.addEventListener("click", actions[button.dataset.do]);

    for (const button of document.querySelectorAll("button[data-setup]")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        play(false);
        change({ ...DEFAULTS, ...SETUPS[button.dataset.setup] });
        const title = button.closest("section")?.querySelector("h3");
        const back = find(".pg-back");
        back.hidden = !title;
        if (title) {
          back.href = `#${title.closest("section").id}`;
          back.textContent = `Back to \u201c${title.firstChild.textContent.trim()}\u201d`;
        }
        root.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: "start" });
        find("[data-do=play]").focus({ preventScroll: true });
        tell("Set up.");
      });
    }

    for (const still of document.querySelectorAll(".playground-still")) still.hidden = true;
    root.hidden = false;
    const resize = () => { for (const picture of [plane, strip, chart]) picture.resize(); };
    resize();
    change({ spread: settings.spread });
    new ResizeObserver(() => { resize(); draw(); }).observe(root);
    // For tests, and for the curious in the console.
    Object.assign(globalThis.mdrPlayground, { settings, setups: SETUPS, defaults: DEFAULTS, spreads: SPREADS,
      state: () => state, steps: () => steps, playing: () => playing });
  }

  const root = document.getElementById("mdr-playground");
  if (root) start(root);
})();
