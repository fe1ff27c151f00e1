/* The playground's state as text: what stands behind # in the address, so that a setting can be shared.

   `#play&layout=line&lambda=0.5` names what differs from the defaults; `moved` are points that the reader has put
   elsewhere at step 0, `levels` levels that are not those of `spread`. */
(function () {
  "use strict";
  const playground = (globalThis.mdrPlayground = globalThis.mdrPlayground || {});

  const SPREADS = { 1: [0], 2: [-1, 1], 3: [-1.5, 0, 1.5], paper: [-3, 0, 3], 4: [-1.5, -0.5, 0.5, 1.5],
                    5: [-2, -1, 0, 1, 2] };
  const RATES = [0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1, 2];
  const DEFAULTS = { layout: "mixed", seed: 1, loss: "both", margin: 0.2, lambda: 0.2, spread: "3", learn: true,
                     nu: 0.01, momentum: 0.9, rate: 0.3, compare: false };
  const FARTHEST = 4, WIDEST = 10;  // a level, a coordinate of a moved point

  /** A number within two others, or undefined. */
  const within = (low, high) => text => {
    const value = Number(text);
    return text.trim() !== "" && value >= low && value <= high ? value : undefined;
  };
  const oneOf = (...values) => text => (values.includes(text) ? text : undefined);
  const flag = text => ({ 1: true, 0: false })[text];
  const READERS = {
    layout: oneOf(...playground.layouts), loss: oneOf("both", "triplet", "mdr"), spread: oneOf(...Object.keys(SPREADS)),
    seed: text => { const value = within(1, 9999)(text); return Number.isInteger(value) ? value : undefined; },
    margin: within(0, 1), lambda: within(0, 1), nu: within(0, 0.1), momentum: within(0, 0.99),
    rate: text => (RATES.includes(Number(text)) ? Number(text) : undefined), learn: flag, compare: flag,
  };

  /** Settings, levels and moved points, {index: [x, y]}, as the end of an address. */
  function toHash(settings, levels, moved) {
    let hash = "#play";
    for (const name in DEFAULTS)
      if (settings[name] !== DEFAULTS[name])
        hash += `&${name}=${typeof settings[name] === "boolean" ? Number(settings[name]) : settings[name]}`;
    if (levels.join() !== SPREADS[settings.spread].join()) hash += `&levels=${levels.join()}`;
    const places = Object.entries(moved).map(([i, place]) => [i, ...place.map(v => +v.toFixed(3))].join("~"));
    return places.length ? `${hash}&moved=${places.join()}` : hash;
  }

  /** What `toHash` was given; null if the text is no state. Of a damaged one, what can be read. */
  function fromHash(hash) {
    if (!/^#play(&|$)/.test(hash)) return null;
    const settings = { ...DEFAULTS }, moved = {};
    let text;
    try { text = decodeURIComponent(hash); } catch { return null; }
    const parts = new Map(text.slice(1).split("&").slice(1).map(part => part.split("=", 2)));
    for (const [name, read] of Object.entries(READERS)) {
      const value = parts.has(name) ? read(parts.get(name) ?? "") : undefined;
      if (value !== undefined) settings[name] = value;
    }
    const usual = SPREADS[settings.spread], place = within(-WIDEST, WIDEST);
    const levels = (parts.get("levels") ?? "").split(",").map(within(-FARTHEST, FARTHEST));
    for (const entry of (parts.get("moved") ?? "").split(",")) {
      const [i, x, y, ...rest] = entry.split("~");
      const found = [x, y].map(value => place(value ?? ""));
      if (/^\d+$/.test(i) && !rest.length && !found.includes(undefined)) moved[i] = found;
    }
    const whole = levels.length === usual.length && !levels.includes(undefined);
    return { settings, levels: whole ? levels : [...usual], moved };
  }

  playground.sharing = { toHash, fromHash, SPREADS, RATES, DEFAULTS };
})();
