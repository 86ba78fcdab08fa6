// Sections 1 to 4: clocks, the table, a shift, RoPE.

import { bits, frequencies, kernel, phase, row } from "./positions.js";
import { byId, chart, follow, format, heat, knob } from "./draw.js";

const power10 = (v) => format(10 ** v);
const tokens = (v) => `${format(v)} token${v === 1 ? "" : "s"}`;

// A circle with hands: [angle, class, label]; angles from 12 o'clock, clockwise.
function dial(cx, cy, r, hands) {
  const parts = [`<circle class="circle" cx="${cx}" cy="${cy}" r="${r}"/>`];
  for (const [angle, kind, label, length = 1] of hands) {
    const [x, y] = [cx + r * length * Math.sin(angle), cy - r * length * Math.cos(angle)];
    parts.push(`<path class="hand ${kind}" d="M${cx} ${cy}L${x.toFixed(2)} ${y.toFixed(2)}"/>`);
    parts.push(`<circle class="tip ${kind}" cx="${x.toFixed(2)}" cy="${y.toFixed(2)}" r="3.5"/>`);
    if (label) parts.push(`<text class="note" text-anchor="middle" x="${(cx + (r + 15) * Math.sin(angle)).toFixed(1)}" y="${(cy - (r + 15) * Math.cos(angle) + 4).toFixed(1)}">${label}</text>`);
  }
  return parts.join("");
}

export function clocks() {
  const position = knob("clock-position"), base = knob("clock-base", power10), width = knob("clock-width");
  const draw = () => {
    const p = position.read();
    const table = frequencies({ channels: Number(width.read()), base: 10 ** base.read() });
    const shown = table.length <= 8 ? table.map((_, k) => k) : Array.from({ length: 8 }, (_, i) => Math.round((i * (table.length - 1)) / 7));
    const svg = byId("clock-hands");
    const across = Math.max(svg.parentElement.clientWidth, 260);
    const columns = Math.min(shown.length, across < 560 ? 4 : 8);
    const cell = across / columns, r = Math.min(cell * 0.36, 52), tall = 2 * r + 42;
    const rows = Math.ceil(shown.length / columns);
    svg.setAttribute("viewBox", `0 0 ${across} ${rows * tall}`);
    svg.setAttribute("height", rows * tall);
    svg.setAttribute("aria-label", `${shown.length} clocks at position ${p}`);
    svg.innerHTML = shown.map((k, i) => {
      const [cx, cy] = [(i % columns + 0.5) * cell, Math.floor(i / columns) * tall + r + 4];
      return dial(cx, cy, r, [[phase(p, table[k]), k === 0 ? "warm" : ""]]) +
        `<text text-anchor="middle" x="${cx}" y="${cy + r + 16}">pair ${k}</text><text text-anchor="middle" x="${cx}" y="${cy + r + 30}">${format((2 * Math.PI) / table[k])}</text>`;
    }).join("");
    const values = row(p, table);
    byId("clock-row").parentElement.style.setProperty("--n", values.length);
    heat(byId("clock-row"), 1, values.length, (_, j) => values[j]);
    const digits = bits(p, 11);
    byId("clock-bits").parentElement.style.setProperty("--n", digits.length);
    heat(byId("clock-bits"), 1, digits.length, (_, j) => digits[j] * 0.8);
    byId("clock-text").textContent = `Below each clock: tokens for one turn. Position ${p}: the fastest hand has turned ${format(phase(p, table[0]) / (2 * Math.PI))} times, the slowest ${format(phase(p, table.at(-1)) / (2 * Math.PI))}. In binary, lowest bit first: ${digits.map((d) => (d > 0 ? 1 : 0)).join("")}.`;
  };
  follow([position, base, width], draw);

  const play = byId("clock-play");
  let running = false, last = 0;
  const step = (now) => {
    if (!running) return;
    if (now - last > 90) {
      last = now;
      position.element.value = (position.read() + 1) % 1025;
      position.refresh();
      draw();
    }
    requestAnimationFrame(step);
  };
  play.addEventListener("click", () => {
    running = !running;
    play.setAttribute("aria-pressed", running);
    play.textContent = running ? "Stop" : "Let it run";
    if (running) requestAnimationFrame(step);
  });
}

export function table() {
  const rows = 128, channels = 64;
  const spectrum = frequencies({ channels, base: 10000 });
  const values = Array.from({ length: rows }, (_, p) => row(p, spectrum));
  const p = knob("table-row"), c = knob("table-column"), n = knob("table-terms");
  const wave = () => {
    const [at, channel, terms] = [p.read(), c.read(), n.read()];
    const [across, down] = byId("table-map").querySelectorAll("i");
    across.style.top = `${((at + 0.5) / rows) * 100}%`;
    down.style.left = `${((channel + 0.5) / channels) * 100}%`;
    chart(byId("table-wave"), {
      height: 160, x: { min: 0, max: rows - 1, label: "position r" }, y: { min: -1, max: 1, label: `channel ${channel}` },
      lines: [{ kind: "m1", points: values.map((v, r) => [r, v[channel]]) }], marks: [{ x: at, label: `p = ${at}` }],
      label: `Channel ${channel} of the table over positions`,
    });
    const some = spectrum.slice(0, terms);
    chart(byId("table-sum"), {
      height: 180, x: { min: 0, max: rows - 1, label: "position r" }, y: { min: -1, max: 1, label: "sum of waves" },
      lines: [{ kind: "m2", points: values.map((_, r) => [r, kernel(some, at - r)]) }], marks: [{ x: at, label: `p = ${at}` }],
      label: `Sum of ${terms} waves of row ${at}`,
    });
    const k = Math.floor(channel / 2);
    byId("table-text").textContent = `Channel ${channel} is the ${channel % 2 ? "cosine" : "sine"} of pair ${k}, one turn in ${tokens((2 * Math.PI) / spectrum[k])}. Row ${at}, summed over its first ${terms} waves, is highest at position ${at}.`;
  };
  const draw = () => {
    heat(byId("table-heat"), rows, channels, (i, j) => values[i][j]);
    wave();
  };
  follow([p, c, n], draw);
  byId("table-map").addEventListener("pointermove", (event) => {
    const box = byId("table-heat").getBoundingClientRect();
    p.element.value = Math.floor(((event.clientY - box.top) / box.height) * rows);
    c.element.value = Math.floor(((event.clientX - box.left) / box.width) * channels);
    p.refresh();
    c.refresh();
    wave();
  });
}

export function shift() {
  const spectrum = frequencies({ channels: 32, base: 10000 });
  const position = knob("shift-position"), by = knob("shift-by"), pair = knob("shift-pair");
  follow([position, by, pair], () => {
    const [p, f, w] = [position.read(), by.read(), spectrum[pair.read()]];
    const svg = byId("shift-circle");
    const across = Math.max(svg.parentElement.clientWidth, 240), r = Math.min(across / 2 - 42, 120), tall = 2 * r + 60;
    svg.setAttribute("viewBox", `0 0 ${across} ${tall}`);
    svg.setAttribute("height", tall);
    svg.setAttribute("aria-label", `Pair ${pair.read()} at positions ${p} and ${p + 30}, before and after a shift by ${f}`);
    svg.innerHTML = dial(across / 2, tall / 2, r, [
      [phase(p, w), "cold", "p"], [phase(p + f, w), "cold", "p+φ", 0.8], [phase(p + 30, w), "warm", "p+30"], [phase(p + 30 + f, w), "warm", "p+30+φ", 0.8],
    ]);
    const [cos, sin] = [Math.cos(f * w), Math.sin(f * w)];
    byId("shift-matrix").innerHTML = [[cos, sin], [-sin, cos]].map((line) => `<tr>${line.map((v) => `<td>${v.toFixed(3)}</td>`).join("")}</tr>`).join("");
    const a = row(p, spectrum), b = row(p + f, spectrum);
    const dot = a.reduce((sum, v, i) => sum + v * b[i], 0) / spectrum.length;
    byId("shift-score").textContent = `Turn of this pair: ${format(f * w)} rad. Score of rows p and p + φ over all pairs: ${dot.toFixed(4)}, whatever p is.`;
  });
}

export function rope() {
  const spectrum = frequencies({ channels: 64, base: 10000 });
  const query = knob("rope-query"), apart = knob("rope-distance"), pairs = knob("rope-pairs");
  const content = 0.7; // the angle between query and key before any rotation
  follow([query, apart, pairs], () => {
    const [m, d, count] = [query.read(), apart.read(), pairs.read()];
    const n = m - d;
    const some = spectrum.slice(0, count), w = spectrum[4];
    const svg = byId("rope-plane");
    const across = Math.max(svg.parentElement.clientWidth, 240), r = Math.min(across / 2 - 42, 110), tall = 2 * r + 60;
    svg.setAttribute("viewBox", `0 0 ${across} ${tall}`);
    svg.setAttribute("height", tall);
    svg.setAttribute("aria-label", `Query turned by ${m} positions, key by ${n}`);
    svg.innerHTML = dial(across / 2, tall / 2, r, [[phase(m, w), "cold", "q"], [phase(n, w) + content, "warm", "k"]]);
    const distances = Array.from({ length: 129 }, (_, i) => i);
    const bound = (r) => {
      let [re, im, total] = [0, 0, 0];
      for (const f of some) {
        re += Math.cos(f * r);
        im += Math.sin(f * r);
        total += Math.hypot(re, im);
      }
      return total / ((some.length * (some.length + 1)) / 2);
    };
    chart(byId("rope-score"), {
      x: { min: 0, max: 128, label: "distance m − n, tokens" }, y: { min: -1, max: 1, label: "score, share of its largest" },
      lines: [
        { kind: "thin", points: distances.map((r) => [r, bound(r)]) },
        { kind: "m2", points: distances.map((r) => [r, kernel(some, r)]) },
      ],
      marks: [{ x: d, label: `m − n = ${d}` }],
      label: `Score against distance, ${count} pairs; dashed: the shape of RoFormer's bound`,
    });
    const angle = (((phase(m - n, w) - content) * 180) / Math.PI).toFixed(0);
    byId("rope-text").textContent = `Left, pair 4: query and key stand ${angle}° apart, ${((phase(m - n, w) * 180) / Math.PI).toFixed(0)}° of it by distance. Right: ${count} pairs, equal query and key, score ${kernel(some, d).toFixed(3)}; dashed, the curve that bounds the score of any content, up to a constant.`;
  });
}
