/* The playground's controls: what the reader sets, drags and presses, and when the pictures are drawn. */
(function () {
  "use strict";
  const { layout, layouts, evaluate, step, weights, drawing, sharing } = globalThis.mdrPlayground;
  const { ARROWS, neighbour, signed } = drawing, { SPREADS, RATES, DEFAULTS } = sharing;

  const NAMES = { clusters: "Clusters", mixed: "Mixed", outlier: "Outlier", line: "Line", collapsed: "Collapse" };
  // The experiments of the page: what differs from the defaults, and for how many steps a prediction is tried.
  const SETUPS = {
    silent: { layout: "clusters" },
    outlier: { layout: "outlier", loss: "triplet" },
    heaps: { layout: "mixed", loss: "mdr", lambda: 1, spread: "2", learn: false },
    tug: { layout: "mixed", compare: true },
    line: { layout: "line" },
    collapse: { layout: "collapsed", loss: "triplet" },
  };
  const TRIALS = { silent: 100, outlier: 60, heaps: 200, tug: 150, line: 150, collapse: 50 };
  const STEPS_A_SECOND = 30, MOST_AT_ONCE = 4;
  const REMEMBERED = 3000;  // steps in the chart
  const NOTHING = { side: null, point: -1, byKey: false };

  function start(root) {
    const find = selector => root.querySelector(selector);
    // The training that the settings describe, and the same without MDR, which is there while both are compared.
    const withMdr = { plane: drawing.plane(find(".pg-with")), loss: () => settings.loss };
    const without = { plane: drawing.plane(find(".pg-without")), loss: () => "triplet" };
    const strip = drawing.strip(find(".pg-strip")), chart = drawing.chart(find(".pg-chart"));
    const scale = drawing.arrowScale();
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    const settings = { ...DEFAULTS };
    let history, steps, startLevels, moved = {}, selected = -1, held = NOTHING, playing = false, clock = 0;
    let trial = null;  // a prediction that is tried: {button, until}
    let written = "";  // the state that the address has

    const compared = () => settings.compare && settings.loss !== "triplet";
    const sides = () => (compared() ? [withMdr, without] : [withMdr]);

    // What is drawn.

    /** Pulls, minus the weighted gradients, of the next step. While it plays, an average over some steps:
        the gradient of an absolute value jumps when a distance passes its level, and arrows would flicker. */
    function pulls({ now, shown, loss }) {
      const weight = weights({ ...settings, loss: loss() });
      const exact = { triplet: now.byTriplet.map(v => -weight.triplet * v), mdr: now.byMdr.map(v => -weight.mdr * v) };
      if (!playing || !shown) return exact;
      for (const name in exact) exact[name] = exact[name].map((v, k) => 0.15 * v + 0.85 * shown[name][k]);
      return exact;
    }

    const say = (name, text) => { find(`[data-say=${name}]`).textContent = text; };

    function draw() {
      for (const side of sides()) {
        side.now = evaluate(side.state, settings);
        side.shown = pulls(side);
      }
      const reference = scale.fit(Math.max(...sides().map(side => drawing.longest(side.shown))));
      for (const side of sides())
        side.plane.draw({ ...side.state, now: side.now, pulls: side.shown, selected, playing, reference,
                          held: held.side === side ? held.point : -1 });
      const { state, now } = withMdr, { running, batch } = now;
      strip.draw({ ...state, now, selected });
      chart.draw([...history, losses()]);
      say("step", `Step ${steps}`);
      say("triplet", now.triplet.toFixed(3));
      say("mdr", now.mdr.toFixed(3));
      say("alone", compared() ? without.now.triplet.toFixed(3) : "");
      say("statistics", `Running mean ${running.mean.toFixed(2)}, standard deviation ${running.std.toFixed(2)}` +
        `; of these points alone ${batch.mean.toFixed(2)} and ${batch.std.toFixed(2)}.`);
    }

    const losses = () => [withMdr.now.triplet, withMdr.now.mdr, ...(compared() ? [without.now.triplet] : [])];

    /** What a screen reader is told after a change, not during play. */
    function tell(what) {
      const { levels } = withMdr.state, order = drawing.ranks(levels);
      const named = levels.map((level, s) => `${drawing.levelName(order[s], levels.length)} ${signed(level)}`);
      find("[aria-live]").textContent = `${what} Step ${steps}. Triplet loss ${withMdr.now.triplet.toFixed(3)}, ` +
        (compared() ? `without MDR ${without.now.triplet.toFixed(3)}, ` : "") +
        `MDR ${withMdr.now.mdr.toFixed(3)}. Levels: ${named.join(", ")}.`;
    }

    // Starting, stepping, playing.

    function reset(levels = startLevels) {
      startLevels = [...levels];
      for (const side of sides()) {
        const fresh = layout(settings.layout, settings.seed), old = side.state;
        for (const i in moved) if (i in fresh.points) fresh.points[i] = [...moved[i]];
        if (side === withMdr && old && old.labels.join() !== fresh.labels.join()) selected = -1;
        side.state = { ...fresh, levels: [...levels], running: null };
        side.shown = null;
        side.plane.start(fresh.labels);
      }
      scale.reset();
      history = [];
      steps = 0;
      held = NOTHING;
      if (strip.handles.length !== levels.length) strip.start(levels.length);
      listen();
      draw();
    }

    function advance(count) {
      for (let k = 0; k < count; k++) {
        const told = sides().map(side =>
          step(side.state, { ...settings, loss: side.loss() }, held.side === side ? held.point : -1));
        history.push([told[0].triplet, told[0].mdr, ...told.slice(1).map(now => now.triplet)]);
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
        const count = calm.matches ? STEPS_A_SECOND / 2 : Math.min(due, MOST_AT_ONCE);
        advance(trial ? Math.min(count, trial.until - steps) : count);
        clock = calm.matches || due > MOST_AT_ONCE ? time : clock + (due * 1000) / STEPS_A_SECOND;
        draw();
        if (trial && steps >= trial.until) return outcome();
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

    /** Put a point elsewhere: before the first step it is the start of all sides, later it is moved on one. */
    function put(side, i, place) {
      forget();
      if (steps) side.state.points[i] = place;
      else {
        moved[i] = place;
        for (const each of sides()) each.state.points[i] = [...place];
      }
    }

    const draggable = (node, grab, move, drop) => drawing.draggable(node, grab,
      (dx, dy) => { move(dx, dy); draw(); }, () => { drop(); draw(); share(); });

    function listen() {
      for (const side of sides()) side.plane.nodes.forEach((node, i) => listenToPoint(side, node, i));
      strip.handles.forEach(listenToLevel);
    }

    function listenToPoint(side, node, i) {
      const { plane } = side, select = which => () => { selected = which; draw(); };
      const taken = () => held.byKey && held.side === side && held.point === i;
      node.onfocus = () => { plane.rove(i); select(i)(); };
      node.onblur = () => { if (taken()) held = NOTHING; select(-1)(); };
      node.onpointerenter = select(i);
      node.onpointerleave = () => { if (document.activeElement !== node) select(-1)(); };
      let from;
      // Points lie close: what counts is not which one lies on top, but which is nearest.
      draggable(node, event => {
        held = { side, point: plane.pick(event.clientX, event.clientY), byKey: false };
        from = side.state.points[held.point];
        return plane.nodes[held.point];
      }, (dx, dy) => put(side, held.point, plane.moved(from, dx, dy)), () => {
        tell(`Point ${held.point + 1} moved.`);
        held = NOTHING;
      });
      drawing.keys(node, {
        taken,
        toggle() {
          held = taken() ? NOTHING : { side, point: i, byKey: true };
          draw();
          tell(taken() ? `Point ${i + 1} taken: arrow keys move it.` : `Point ${i + 1} put down.`);
          share();
        },
        move(by) {
          put(side, i, side.state.points[i].map((v, c) => v + by[c]));
          draw();
          tell(`Point ${i + 1} at ${side.state.points[i].map(v => signed(v)).join(", ")}.`);
        },
        choose: arrow => plane.nodes[neighbour(side.state.points, i, arrow)].focus({ preventScroll: true }),
      });
    }

    function listenToLevel(node, s) {
      const put = level => {
        forget();
        const rounded = Math.round(Math.max(-4, Math.min(4, level)) * 20) / 20;
        startLevels[s] = rounded;
        for (const side of sides()) side.state.levels[s] = rounded;
      };
      let from;
      draggable(node, () => { from = withMdr.state.levels[s]; return node; }, dx => put(strip.moved(from, dx)),
        () => tell("Level moved."));
      node.onkeydown = event => {
        const arrow = ARROWS[event.key];
        if (!arrow || event.ctrlKey || event.altKey || event.metaKey) return;
        event.preventDefault();
        event.stopPropagation();
        put(withMdr.state.levels[s] + 0.05 * (arrow[0] + arrow[1]) * (event.shiftKey ? 5 : 1));
        draw();
        tell("");
        share();
      };
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
      const plain = settings.loss === "triplet";
      const off = { margin: settings.loss === "mdr" && !settings.compare, lambda: plain, learn: plain,
                    nu: plain || !settings.learn, compare: plain };
      for (const input of inputs) {
        input.disabled = Boolean(off[input.dataset.setting]);
        input.closest("label").classList.toggle("pg-off", input.disabled);
      }
      for (const button of root.querySelectorAll("[data-layout]"))
        button.setAttribute("aria-pressed", button.dataset.layout === settings.layout);
      if (root.classList.toggle("pg-comparing", compared()) !== without.sized) {
        without.sized = compared();
        resize();
      }
    }

    /** Begin again with some settings changed, from the points of the layout. */
    function change(changes, levels) {
      Object.assign(settings, changes);
      moved = {};
      write();
      reset(levels || ("spread" in changes ? SPREADS[settings.spread] : startLevels));
    }

    for (const input of inputs)
      input.addEventListener("input", () => {
        const { spread } = settings, before = compared();
        forget();
        read(input);
        write();
        if (settings.spread !== spread) {  // new levels; points and statistics stay
          startLevels = [...SPREADS[settings.spread]];
          for (const side of sides()) side.state.levels = [...startLevels];
          strip.start(startLevels.length);
          listen();
        }
        if (compared() !== before) reset();  // both sides start from the same points
        draw();
        share();
      });

    for (const name of layouts) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.layout = name;
      drawing.thumbnail(button.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg")),
        layout(name, 1));
      button.append(NAMES[name]);
      button.addEventListener("click", () => act(`${NAMES[name]}.`, () => change({ layout: name, seed: 1 })));
      find(".pg-layouts").append(button);
    }

    /** What a button does: stop, act, tell, and give the address the new state. */
    function act(what, action) {
      forget();
      play(false);
      action();
      tell(what);
      share();
    }

    const actions = {
      play: () => { if (!playing && trial && steps >= trial.until) forget(); play(!playing); },
      step: () => act("", () => { advance(1); draw(); }),
      // A second time it also forgets which points and levels were moved.
      reset: () => act("Reset.", () => (steps ? reset() : change({}, SPREADS[settings.spread]))),
      draw: () => act("Another draw of the points.", () => change({ seed: settings.seed + 1 })),
      share: copy,
    };
    for (const button of root.querySelectorAll("[data-do]"))
      button.addEventListener("click", actions[button.dataset.do]);

    // The address.

    /** Give the address the present state. An address that leads to a part of the page stays while nothing is set. */
    function share() {
      const hash = sharing.toHash(settings, startLevels, moved);
      if (hash === written || (hash === "#play" && !location.hash.startsWith("#play"))) return;
      written = hash;
      // Browsers refuse it where pages are files, and when there are too many changes a second.
      try { window.history.replaceState(window.history.state, "", hash); } catch { written = ""; }
    }

    async function copy() {
      written = sharing.toHash(settings, startLevels, moved);
      location.hash = written;
      let done = "Link copied";
      try { await navigator.clipboard.writeText(location.href); } catch { done = "Copy it from the address bar"; }
      find("[data-do=share]").textContent = done;
      setTimeout(() => { find("[data-do=share]").textContent = "Copy link"; }, 2500);
    }

    /** Take the state of the address, if it has one. */
    function follow() {
      const shared = sharing.fromHash(location.hash);
      if (!shared || location.hash === written) return;
      written = location.hash;
      play(false);
      forget();
      Object.assign(settings, shared.settings);
      moved = shared.moved;
      write();
      reset(shared.levels);
      find(".pg-columns").scrollIntoView({ block: "start" });
    }

    // Predict, then play.

    /** Set an experiment up, show it and put the keyboard's focus on Play. */
    function setUp(button) {
      const about = button.closest("[data-setup]");
      play(false);
      forget();
      change({ ...DEFAULTS, ...SETUPS[about.dataset.setup] });
      const title = about.closest("section")?.querySelector("h3");
      const back = find(".pg-back");
      back.hidden = !title;
      if (title) {
        back.href = `#${title.closest("section").id}`;
        back.textContent = `Back to \u201c${title.firstChild.textContent.trim()}\u201d`;
      }
      find(".pg-columns").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: "start" });
      find("[data-do=play]").focus({ preventScroll: true });
      tell("Set up.");
      share();
    }

    function predict(button) {
      setUp(button);
      trial = { button, until: TRIALS[button.closest("[data-setup]").dataset.setup] };
      say("prediction", `You predict: ${button.textContent}. ${trial.until} steps will show.`);
      play(true);
    }

    function outcome() {
      play(false);
      const right = "right" in trial.button.dataset;
      const said = `You predicted: ${trial.button.textContent}. ${right ? "So it is." : "It is not so."}`;
      say("prediction", said);
      tell(said);
    }

    /** Whoever takes the playground in hand is no longer trying a prediction. */
    function forget() {
      trial = null;
      say("prediction", "");
    }

    for (const choice of document.querySelectorAll(".pg-predict")) choice.hidden = false;
    for (const button of document.querySelectorAll("[data-setup] button"))
      button.addEventListener("click", () => predict(button));

    for (const still of document.querySelectorAll(".playground-still")) still.hidden = true;
    root.hidden = false;
    const pictures = () => [...sides().map(side => side.plane), strip, chart];
    function resize() { for (const picture of pictures()) picture.resize(); }
    change({ spread: settings.spread });
    resize();
    draw();
    follow();
    window.addEventListener("hashchange", follow);
    new ResizeObserver(() => { resize(); draw(); }).observe(root);
    // For tests, and for the curious in the console.
    Object.assign(globalThis.mdrPlayground, { settings, setups: SETUPS, defaults: DEFAULTS, spreads: SPREADS,
      trials: TRIALS, state: () => withMdr.state, other: () => (compared() ? without.state : null),
      steps: () => steps, playing: () => playing });
  }

  const root = document.getElementById("mdr-playground");
  if (root) start(root);
})();
