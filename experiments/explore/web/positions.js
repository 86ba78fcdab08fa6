// The formulas of models/positions, in its notation: L trained window, s factor, w(k) frequency of pair k in radians per
// token. Arrays run from the fastest pair to the slowest. tests/test_explore.py compares them with the Python tables.

const indices = (count) => Array.from({ length: count }, (_, k) => k);
const shares = (count) => indices(count).map((k) => k / Math.max(count - 1, 1));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Spectra (models/positions/frequencies.py): K = channels/2 frequencies.
export const SPECTRA = {
  geometric: ({ count, base }) => indices(count).map((k) => base ** -(k / count)),
  linear: ({ count, slowest }) => shares(count).map((u) => 1 + (slowest - 1) * u),
  power: ({ count, slowest, exponent = 2 }) => {
    const stretch = (slowest ** (-1 / exponent) - 1) / Math.max(count - 1, 1);
    return indices(count).map((k) => (1 + stretch * k) ** -exponent);
  },
  cosine: ({ count, slowest }) => shares(count).map((u) => slowest + ((1 - slowest) * (1 + Math.cos(Math.PI * u))) / 2),
  cosh: ({ count, base, tau = 2 }) =>
    indices(count).map((k) => base ** -(1 - Math.asinh((1 - k / count) * Math.sinh(tau)) / tau)),
  harmonic: ({ count, length }) => indices(count).map((k) => ((count - k) * Math.PI) / length),
};

export function frequencies({ family = "geometric", channels, ...settings }) {
  return SPECTRA[family]({ count: channels / 2, ...settings });
}

export const phase = (position, frequency) => position * frequency;
export const turns = (frequency, length) => (frequency * length) / (2 * Math.PI);

// The row of the sinusoid at a position: sine and cosine of every pair, interleaved.
export const row = (position, table) => table.flatMap((w) => [Math.sin(phase(position, w)), Math.cos(phase(position, w))]);

// Mean score of an encoding with itself r tokens away: g(r) = mean over k of cos(w(k) r).
export const kernel = (table, r) => table.reduce((sum, w) => sum + Math.cos(w * r), 0) / table.length;

// Bit b of a whole position as -1 or 1, the lowest first.
export const bits = (position, count) => indices(count).map((b) => (Math.floor(position / 2 ** b) % 2) * 2 - 1);

// Extensions (models/positions/extensions.py, rescaled.py, longrope.py). Each returns the frequencies it turns at.
const ramp = (table, { L, s }, slow, fast) =>
  table.map((w) => {
    const share = clamp((turns(w, L) - slow) / (fast - slow), 0, 1);
    return w / s + share * (w - w / s);
  });

export const EXTENSIONS = {
  none: (table) => table,
  interpolate: (table, { s }) => table.map((w) => w / s),
  ntk: (table, { s }) => {
    const [fastest, slowest] = [Math.max(...table), Math.min(...table)];
    return table.map((w) => w / s ** (Math.log(fastest / w) / Math.log(fastest / slowest)));
  },
  yarn: (table, { L, s }) => ramp(table, { L, s }, 1, Math.max(Math.min(32, L / (8 * Math.PI)), 2)),
  llama3: (table, { L, s }) => ramp(table, { L, s }, 1, 4),
  longrope: (table, { long }) => table.map((w, k) => w / long[k]),
  self_extend: (table) => table,
};

export const extended = (method, table, settings) => EXTENSIONS[method](table, settings);
export const factors = (method, table, settings) => extended(method, table, settings).map((w, k) => table[k] / w);

// What scores are divided by; t: of factors that were found with another than LongRoPE's own.
export function temperature(method, { L, s, t }) {
  if (method === "yarn") return (0.1 * Math.log(s) + 1) ** -2;
  if (method === "longrope") return t ?? 1 / (1 + Math.log(s) / Math.log(L));
  return 1;
}

// Self-Extend (models/positions/grouped.py): distances below `near` stay, farther positions stand in groups.
export function groups({ L, s }) {
  const near = Math.max(1, Math.floor(L * 0.25));
  let group = 1;
  while (Math.floor((s * L - 1) / group) + near - Math.floor(near / group) >= L) group += 1;
  return { near, group };
}

// The distance at which a query at position p sees a key r tokens back.
export function distance(method, p, r, settings) {
  if (method !== "self_extend") return r;
  const { near, group } = groups(settings);
  if (r < near || group === 1) return r;
  return Math.floor(p / group) + near - Math.floor(near / group) - Math.floor((p - r) / group);
}

// Mean score of equal queries and keys, so many tokens back from position p, as [r, score]: the kernel of the extended
// frequencies over t.
export function scores(method, table, settings, p, distances) {
  const [turned, t] = [extended(method, table, settings), temperature(method, settings)];
  return distances.map((r) => [r, kernel(turned, distance(method, p, r, settings)) / t]);
}

// Whether pair k has met this phase in training: one whole turn within L, or an angle in the arc it went through.
export function seen(trained, turned, L) {
  const arc = trained * L;
  if (arc >= 2 * Math.PI) return true;
  const angle = turned % (2 * Math.PI);
  return angle <= arc + 1e-9;
}
