/* The playground's mathematics: what mdrlib computes, for some twenty points in the plane.

   The points are a network's outputs before normalization. `evaluate` is one forward and backward pass of the
   trainer on them; `step` is evaluate and plain gradient descent. Checked against mdrlib by
   tests/mdrbook/test_playground_mathematics.py. A classic script and no module: browsers load no modules from a
   file:// page. */
(function () {
  "use strict";
  const playground = (globalThis.mdrPlayground = globalThis.mdrPlayground || {});

  // A deviation below this is rounding, not spread: mdrlib.mdr.module has the same two floors.
  const RELATIVE_FLOOR = 1e-4, ABSOLUTE_FLOOR = 1e-8;

  /** Uniform numbers in [0, 1) from a seed (mulberry32): the same layout for every reader. */
  function generator(seed) {
    let a = seed >>> 0;
    return () => {
      a = (a + 0x6d2b79f5) >>> 0;
      let t = Math.imul(a ^ (a >>> 15), 1 | a);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  const gaussian = uniform => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());

  function clusters(uniform, spread) {
    const points = [], labels = [];
    for (let k = 0; k < 3; k++) {
      const angle = Math.PI * (7 / 6 + (2 * k) / 3);
      for (let i = 0; i < 7; i++) {
        points.push([0.62 * Math.cos(angle) + spread * gaussian(uniform),
                     0.62 * Math.sin(angle) - 0.1 + spread * gaussian(uniform)]);
        labels.push(k);
      }
    }
    return { points, labels };
  }

  // Name of a starting layout: what makes its points and labels from a source of uniform numbers.
  const LAYOUTS = {
    clusters: uniform => clusters(uniform, 0.09),
    mixed: uniform => {
      const points = Array.from({ length: 21 }, () => [0.38 * gaussian(uniform), 0.34 * gaussian(uniform)]);
      return { points, labels: points.map((_, i) => Math.floor(i / 7)) };
    },
    outlier: uniform => {
      const layout = clusters(uniform, 0.09);
      layout.points[6] = [0.52, -0.27];
      return layout;
    },
    line: uniform => {
      const points = Array.from({ length: 20 }, (_, i) => [-0.76 + 0.08 * i + 0.05 * (uniform() - 0.5), 0]);
      return { points, labels: points.map((_, i) => i % 2) };
    },
    collapsed: () => ({
      points: Array.from({ length: 21 }, () => [0, 0]),
      labels: Array.from({ length: 21 }, (_, i) => Math.floor(i / 7)),
    }),
  };

  /** The points [[x, y], ...] and labels [0, ...] of a layout by name. */
  const layout = (name, seed) => LAYOUTS[name](generator(seed));

  /** Mean and unbiased deviation of the entries i != j of an n x n matrix. */
  function statistics(d, n) {
    const count = n * (n - 1);
    let mean = 0, squares = 0;
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) if (i !== j) mean += d[i * n + j] / count;
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) if (i !== j) squares += (d[i * n + j] - mean) ** 2;
    return { mean, std: Math.sqrt(squares / (count - 1)) };
  }

  /** TripletLoss(margin, miner=all_triplets): the mean over all triplets, those without loss included.

      Adds the derivative by each distance to `slopes`. */
  function tripletLoss(d, labels, margin, slopes) {
    const n = labels.length;
    let total = 0, count = 0;
    for (let a = 0; a < n; a++)
      for (let p = 0; p < n; p++) {
        if (p === a || labels[p] !== labels[a]) continue;
        for (let q = 0; q < n; q++) {
          if (labels[q] === labels[a]) continue;
          count++;
          const hinge = d[a * n + p] - d[a * n + q] + margin;
          if (hinge <= 0) continue;
          total += hinge;
          slopes[a * n + p]++;
          slopes[a * n + q]--;
        }
      }
    for (let k = 0; k < n * n; k++) slopes[k] /= count;
    return total / count;
  }

  /** L_MDR for given statistics; adds its derivatives to `slopes` and `byLevel`, fills `z` and `nearest`. */
  function mdrLoss(d, n, levels, { mean, std }, slopes, byLevel, z, nearest) {
    const spread = Math.max(std, RELATIVE_FLOOR * Math.abs(mean), ABSOLUTE_FLOOR);
    const count = n * (n - 1);
    let total = 0;
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) {
        const k = i * n + j;
        if (i === j) continue;
        z[k] = (d[k] - mean) / spread;
        let best = 0;
        for (let s = 1; s < levels.length; s++) {
          const closer = Math.abs(z[k] - levels[s]) - Math.abs(z[k] - levels[best]);
          if (closer < 0 || (closer === 0 && levels[s] < levels[best])) best = s;
        }
        nearest[k] = best;
        const residual = z[k] - levels[best];
        total += Math.abs(residual);
        slopes[k] = Math.sign(residual) / (spread * count);
        byLevel[best] -= Math.sign(residual) / count;
      }
    return total / count;
  }

  /** From slopes by normalized distance to the gradient by point, [x0, y0, x1, ...].

      With u_ij the unit vector from j to i, dL/dy_i = sum_j (s_ij + s_ji) u_ij for the normalized points y;
      since y = x / mean, dL/dx = (dL/dy - (sum_ij s_ij d_ij) dmean/dx) / mean. Coincident points have
      no direction: u = 0, as in mdrlib. */
  function byPoint(slopes, d, units, meanDistance, n) {
    const gradient = new Float64Array(2 * n);
    const scale = meanDistance > 0 ? meanDistance : 1;
    let along = 0;  // what stretching all distances alike would do, which normalization undoes
    for (let k = 0; k < n * n; k++) along += slopes[k] * d[k];
    if (!(meanDistance > 0)) along = 0;
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) {
        const w = slopes[i * n + j] + slopes[j * n + i] - (2 * along) / (n * (n - 1));
        gradient[2 * i] += (w * units[2 * (i * n + j)]) / scale;
        gradient[2 * i + 1] += (w * units[2 * (i * n + j) + 1]) / scale;
      }
    return gradient;
  }

  /** Losses and gradients of the next step, which change nothing yet.

      state: points, labels, levels, running (null before the first step, else mean and std);
      settings: margin, momentum. Returns triplet and mdr (the bare losses), byTriplet and byMdr (gradients by
      point), byLevel (that of mdr by level), batch and running (mean and std), z and nearest (n x n). */
  function evaluate({ points, labels, levels, running }, { margin, momentum }) {
    const n = points.length;
    const d = new Float64Array(n * n), units = new Float64Array(2 * n * n);
    let meanDistance = 0;
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) {
        const k = i * n + j, dx = points[i][0] - points[j][0], dy = points[i][1] - points[j][1];
        d[k] = Math.hypot(dx, dy);
        if (d[k] > 0) { units[2 * k] = dx / d[k]; units[2 * k + 1] = dy / d[k]; }
        meanDistance += d[k] / (n * (n - 1));
      }
    if (meanDistance > 0) for (let k = 0; k < n * n; k++) d[k] /= meanDistance;
    const batch = statistics(d, n);
    const mix = name => (running ? momentum * running[name] + (1 - momentum) * batch[name] : batch[name]);
    const next = { mean: mix("mean"), std: mix("std") };
    const tripletSlopes = new Float64Array(n * n), mdrSlopes = new Float64Array(n * n);
    const byLevel = new Float64Array(levels.length), z = new Float64Array(n * n);
    const nearest = new Int8Array(n * n).fill(-1);
    const triplet = tripletLoss(d, labels, margin, tripletSlopes);
    const mdr = mdrLoss(d, n, levels, next, mdrSlopes, byLevel, z, nearest);
    return {
      triplet, mdr, batch, running: next, meanDistance, z, nearest, byLevel,
      byTriplet: byPoint(tripletSlopes, d, units, meanDistance, n),
      byMdr: byPoint(mdrSlopes, d, units, meanDistance, n),
    };
  }

  /** Weights of the two losses in the total: L = L_triplet + lambda L_MDR + nu sum of s^2. */
  const weights = ({ loss, lambda }) => ({ triplet: loss === "mdr" ? 0 : 1, mdr: loss === "triplet" ? 0 : lambda });

  /** One step of gradient descent, in place: running statistics, points (but the `held` one), levels.

      Returns what `evaluate` said of the points before the step. */
  function step(state, settings, held = -1) {
    const now = evaluate(state, settings), { triplet, mdr } = weights(settings);
    state.running = now.running;
    state.points.forEach((point, i) => {
      if (i === held) return;
      for (const c of [0, 1])
        point[c] -= settings.rate * (triplet * now.byTriplet[2 * i + c] + mdr * now.byMdr[2 * i + c]);
    });
    if (settings.learn && settings.loss !== "triplet")
      state.levels = state.levels.map(
        (level, s) => level - settings.rate * (mdr * now.byLevel[s] + 2 * settings.nu * level));
    return now;
  }

  Object.assign(playground, { layout, layouts: Object.keys(LAYOUTS), evaluate, step, weights });
})();
