// Drawing: line charts as SVG, heat maps on a canvas, both in the colours of the style sheet and the width there is.

export const byId = (id) => document.getElementById(id);
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

export function format(value, digits = 3) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(digits))} M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(digits))} k`;
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(digits)));
}

const PAD = { left: 52, right: 14, top: 12, bottom: 40 };

function scale({ min, max, log }, from, to) {
  const f = log ? Math.log : (v) => v;
  return (value) => from + ((f(value) - f(min)) / (f(max) - f(min) || 1)) * (to - from);
}

function ticks({ min, max, log, values }, count) {
  if (values) return values;
  if (log) {
    const decades = [];
    const base = Math.log10(max / min) > 2.2 ? 10 : 2;
    for (let e = Math.ceil(Math.log(min) / Math.log(base) - 1e-9); base ** e <= max * 1.0001; e += 1) decades.push(base ** e);
    const every = Math.ceil(decades.length / count);
    return decades.filter((_, i) => i % every === 0);
  }
  const rough = (max - min) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough);
  const found = [];
  for (let v = Math.ceil(min / step - 1e-9) * step; v <= max + step * 1e-9; v += step) found.push(Math.abs(v) < step / 1e6 ? 0 : v);
  return found;
}

// lines: {points: [[x, y]], kind: class, band: [[x, low, high]], dots, label}; marks: vertical lines {x, label}.
export function chart(svg, { x, y, lines = [], marks = [], label, height = 250 }) {
  const width = Math.max(svg.parentElement.clientWidth, 260);
  const [sx, sy] = [scale(x, PAD.left, width - PAD.right), scale(y, height - PAD.bottom, PAD.top)];
  const parts = [];
  const text = (px, py, words, more = "") => parts.push(`<text x="${px.toFixed(1)}" y="${py.toFixed(1)}" ${more}>${escape(words)}</text>`);
  for (const value of ticks(x, Math.max(3, width / 110))) {
    parts.push(`<path class="grid" d="M${sx(value).toFixed(1)} ${PAD.top}V${height - PAD.bottom}"/>`);
    text(sx(value), height - PAD.bottom + 15, format(value), 'text-anchor="middle"');
  }
  for (const value of ticks(y, 5)) {
    parts.push(`<path class="grid" d="M${PAD.left} ${sy(value).toFixed(1)}H${width - PAD.right}"/>`);
    text(PAD.left - 6, sy(value) + 4, format(value), 'text-anchor="end"');
  }
  text((PAD.left + width - PAD.right) / 2, height - 6, x.label, 'text-anchor="middle" class="axis"');
  parts.push(`<text class="axis" transform="translate(13 ${(height - PAD.bottom + PAD.top) / 2}) rotate(-90)" text-anchor="middle">${escape(y.label)}</text>`);
  for (const mark of marks) {
    const at = sx(mark.x);
    parts.push(`<path class="mark" d="M${at.toFixed(1)} ${PAD.top}V${height - PAD.bottom}"/>`);
    const end = at > width - 130;
    text(at + (end ? -5 : 5), PAD.top + 11, mark.label, `class="note" text-anchor="${end ? "end" : "start"}"`);
  }
  const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${sx(a).toFixed(1)} ${sy(b).toFixed(1)}`).join("");
  for (const line of lines) {
    if (line.band) {
      const up = line.band.map(([a, , high]) => [a, high]);
      const down = line.band.map(([a, low]) => [a, low]).reverse();
      parts.push(`<path class="band ${line.kind}" d="${path([...up, ...down])}Z"/>`);
    }
    parts.push(`<path class="line ${line.kind}" d="${path(line.points)}"/>`);
    if (line.label) text(PAD.left + 6, sy(line.points[0][1]) - 5, line.label, 'class="note"');
    if (line.dots) for (const [a, b] of line.points) parts.push(`<circle class="dot ${line.kind}" cx="${sx(a).toFixed(1)}" cy="${sy(b).toFixed(1)}" r="3"/>`);
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.setAttribute("aria-label", label);
  svg.innerHTML = parts.join("");
  return { sx, sy };
}

function channels(hex) {
  const n = Number.parseInt(hex.slice(1), 16);
  return [n >> 16, (n >> 8) & 255, n & 255];
}

// values(row, column) in [-1, 1] on a grid, between the colours `cold`, `card` and `warm`.
export function heat(canvas, rows, columns, values) {
  const [cold, mid, warm] = ["cold", "card", "warm"].map((name) => channels(colour(name)));
  paint(canvas, rows, columns, (i, j) => {
    const v = values(i, j);
    const [end, size] = [v < 0 ? cold : warm, Math.min(1, Math.abs(v))];
    return packed(mid.map((m, c) => m + (end[c] - m) * size));
  });
}

// One of two named colours in each cell of a grid: the second where `second(row, column)` says so.
export function cells(canvas, rows, columns, names, second) {
  const [a, b] = names.map((name) => packed(channels(colour(name))));
  paint(canvas, rows, columns, (i, j) => (second(i, j) ? b : a));
}

// A colour as a pixel of ImageData holds it, red in the lowest byte.
const packed = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

function paint(canvas, rows, columns, pixel) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0, at = 0; i < rows; i += 1) for (let j = 0; j < columns; j += 1, at += 1) pixels[at] = pixel(i, j);
  context.putImageData(image, 0, 0);
}

// A knob is a labelled <input> or <select>; its output shows the value in words.
export function knob(id, show = format) {
  const element = byId(id);
  const output = document.querySelector(`output[for="${id}"]`);
  const read = () => (element.tagName === "SELECT" ? element.value : element.type === "checkbox" ? element.checked : Number(element.value));
  const refresh = () => {
    if (output) output.textContent = show(read());
    if (element.type === "range") element.setAttribute("aria-valuetext", show(read()));
  };
  refresh();
  return { element, read, refresh };
}

const redraws = [];

// Call `draw` now, when one of the knobs changes, and when the width or the colours of the page do.
export function follow(knobs, draw) {
  let waiting = false;
  const run = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
  for (const each of knobs) each.element.addEventListener("input", () => (each.refresh(), run()));
  redraws.push(draw);
  draw();
  return run;
}

export function redrawAll() {
  for (const draw of redraws) draw();
}
