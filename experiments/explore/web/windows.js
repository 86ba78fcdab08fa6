// Sections 5 to 7: which turns were seen, how methods stretch them, and what was measured.

import { distance, extended, frequencies, groups, kernel, scores, seen, temperature, turns } from "./positions.js";
import { byId, cells, chart, colour, escape, follow, format, knob, redrawAll } from "./draw.js";

const power2 = (v) => `${format(2 ** v)} tokens`;
const power10 = (v) => format(10 ** v);
const COLUMNS = 240;
const STILL = 0.1; // radians over the window, as in models/positions/diagnostics.py
const logSteps = (from, to, count) => Array.from({ length: count }, (_, i) => from * (to / from) ** (i / (count - 1)));

export function seenSection(measured) {
  const window = knob("seen-window", power2), family = knob("seen-family"), base = knob("seen-base", power10);
  follow([window, family, base], () => {
    const L = 2 ** window.read(), B = 10 ** base.read();
    const table = frequencies({ family: family.read(), channels: 64, base: B, slowest: 1 / B, length: L });
    cells(byId("seen-map"), table.length, COLUMNS, ["seen", "new"], (k, j) => !seen(table[k], (table[k] * j * 4 * L) / COLUMNS, L));
    byId("seen-edge").style.left = "25%";
    const points = logSteps(1, 4 * L, 300);
    chart(byId("seen-kernel"), {
      x: { min: 1, max: 4 * L, log: true, label: "distance r, tokens" }, y: { min: -0.5, max: 1, label: "mean score g(r)" },
      lines: [{ kind: "m2", points: points.map((r) => [r, kernel(table, r)]) }], marks: [{ x: L, label: `L = ${format(L)}` }],
      label: "Mean score of equal queries and keys against distance",
    });
    const round = table.filter((w) => turns(w, L) >= 1).length, still = table.filter((w) => w * L < STILL).length;
    byId("seen-text").textContent = `Of ${table.length} pairs, ${round} go round at least once in ${format(L)} tokens, ${table.length - round - still} go part of the way and ${still} turn by less than a tenth of a radian. Neighbours differ in score by ${(1 - kernel(table, 1)).toFixed(3)}.`;
  });
  byId("seen-measured").textContent = measured.spacing;
}

const METHODS = [
  ["none", "Extrapolation", "nothing is changed"], ["interpolate", "Interpolation (PI)", "every position divided by s"], ["ntk", "NTK", "the slower, the more it is slowed"],
  ["yarn", "YaRN", "by turns in the window"], ["llama3", "Llama 3", "by turns, a narrower ramp"], ["longrope", "LongRoPE", "factors found by a search"], ["self_extend", "Self-Extend", "far positions in groups"],
];

function checkboxes(id, entries, chosen) {
  byId(id).innerHTML = entries.map(([name, title], i) => `<label style="--c: var(--m${i % 7})"><input type="checkbox" id="${id}-${escape(name)}" ${chosen.includes(name) ? "checked" : ""}> ${escape(title)}</label>`).join("");
  return entries.map(([name]) => knob(`${id}-${name}`));
}

export function stretch(measured) {
  const presets = [
    { title: "Llama 2 7B", L: 4096, base: 1e4, width: 128, s: 8 }, { title: "Llama 3.1 8B", L: 8192, base: 5e5, width: 128, s: 8 },
    { title: "SmolLM2 135M", L: 8192, base: 1e5, width: 64, s: 4 }, { title: "Qwen2.5 7B", L: 32768, base: 1e6, width: 128, s: 4 },
    { title: "Gemma 3, global layers", L: 32768, base: 1e6, width: 256, s: 8 },
    { title: `this lab's nano, factors found`, ...measured.longrope },
  ];
  const select = byId("stretch-preset");
  select.innerHTML = [...presets.map((each, i) => `<option value="${i}">${escape(each.title)}</option>`), '<option value="own">your own</option>'].join("");
  const window = knob("stretch-window", power2), factor = knob("stretch-factor", (v) => format(2 ** v)), base = knob("stretch-base", power10), width = knob("stretch-width");
  const boxes = checkboxes("stretch-methods", METHODS, ["none", "interpolate", "yarn"]);
  byId("stretch-cards").innerHTML = METHODS.map(([name, title, what], i) => `<div><h3 style="color: var(--m${i})">${escape(title)}</h3><canvas id="card-${name}" role="img" aria-label="${escape(title)}: which angles are new, pairs by distances"></canvas><p id="note-${name}">${escape(what)}</p></div>`).join("");
  let exact = null; // the numbers of a preset, which the knobs only come near to
  const settings = () => exact ?? { L: 2 ** window.read(), s: 2 ** factor.read(), base: 10 ** base.read(), width: Number(width.read()) };

  const draw = () => {
    const { L, s, base: B, width: D } = settings();
    const table = frequencies({ channels: D, base: B });
    const found = { ...measured.longrope, L, s };
    const fits = exact?.long !== undefined;
    const reach = s * L;
    for (const [name, , what] of METHODS) {
      if (name === "longrope" && !fits) {
        cells(byId(`card-${name}`), 1, 1, ["line", "line"], () => false);
        byId(`note-${name}`).textContent = "factors belong to one model: choose this lab's nano";
        continue;
      }
      const turned = extended(name, table, found);
      const distances = Array.from({ length: COLUMNS }, (_, j) => distance(name, reach - 1, Math.round((j * (reach - 1)) / (COLUMNS - 1)), found));
      let fresh = 0;
      cells(byId(`card-${name}`), table.length, COLUMNS, ["seen", "new"], (k, j) => {
        const isNew = !seen(table[k], turned[k] * distances[j], L);
        fresh += isNew;
        return isNew;
      });
      const one = name === "self_extend" ? `near ${format(groups(found).near)} tokens stay, groups of ${groups(found).group}` : `distance 1 turns the fastest pair by ${format(turned[0])} rad`;
      byId(`note-${name}`).textContent = `${what}; ${one}; ${((100 * fresh) / (table.length * COLUMNS)).toFixed(0)} % new`;
    }
    const chosen = METHODS.map(([name], i) => ({ name, kind: `m${i}`, on: boxes[i].read() && (name !== "longrope" || fits) })).filter((each) => each.on);
    const waves = chosen.filter(({ name }) => name !== "self_extend").map(({ name, kind }) => ({ kind, points: extended(name, table, found).map((w, k) => [k, (2 * Math.PI) / w]) }));
    const longest = Math.max(...waves.flatMap((each) => each.points.map(([, y]) => y)), reach);
    chart(byId("stretch-waves"), {
      x: { min: 0, max: table.length - 1, label: "pair, fastest first" }, y: { min: 1, max: longest * 1.2, log: true, label: "tokens for one turn" },
      lines: [{ kind: "thin", label: `L = ${format(L)}`, points: [[0, L], [table.length - 1, L]] }, { kind: "thin", label: `s·L = ${format(reach)}`, points: [[0, reach], [table.length - 1, reach]] }, ...waves],
      label: "Tokens for one turn of every pair, by method; dashed: L and s times L",
    });
    const points = [...new Set(logSteps(1, reach - 1, 220).map(Math.round))];
    chart(byId("stretch-score"), {
      x: { min: 1, max: reach, log: true, label: "distance, tokens" }, y: { min: -0.4, max: 1.6, label: "mean score over t" },
      lines: chosen.map(({ name, kind }) => ({ kind, points: scores(name, table, found, reach - 1, points) })),
      marks: [{ x: L, label: `L = ${format(L)}` }],
      label: "Mean score of equal queries and keys against distance, by method",
    });
    const still = table.filter((w) => turns(w, L) < 1).length;
    byId("stretch-text").textContent = `${still} of ${table.length} pairs do not go round within L = ${format(L)}. YaRN divides scores by t = ${temperature("yarn", found).toFixed(3)} here, which sharpens them.`;
  };
  const run = follow([window, factor, base, width, ...boxes], draw);
  const take = () => {
    exact = presets[select.value] ?? null;
    if (exact) {
      window.element.value = Math.log2(exact.L);
      factor.element.value = Math.log2(exact.s);
      base.element.value = Math.log10(exact.base);
      width.element.value = exact.width;
      for (const each of [window, factor, base]) each.refresh();
    }
    run();
  };
  select.addEventListener("input", take);
  for (const each of [window, factor, base, width]) {
    each.element.addEventListener("input", () => {
      exact = null;
      select.value = "own";
    });
  }
  take();
}

export function results(measured) {
  const set = byId("results-set"), steps = byId("results-steps");
  set.innerHTML = measured.studies.map((each, i) => `<option value="${i}">${escape(each.title)}</option>`).join("");
  let boxes = [];
  const draw = () => {
    const study = measured.studies[set.value];
    const of = (name) => study.curves.find((c) => c.method === name && c.steps === Number(steps.value)) ?? study.curves.find((c) => c.method === name && c.steps === 0 && name === "none");
    const chosen = study.methods.map(([name], i) => ({ curve: of(name), kind: `m${i % 7}`, on: boxes[i].read() })).filter((each) => each.on && each.curve);
    const all = study.curves.flatMap((each) => each.points);
    const optimum = study.optimum.length ? [{ kind: "optimum", points: study.optimum }] : [];
    const x = { min: all[0][0], max: Math.max(...all.map(([c]) => c)), log: true, label: "context, tokens" };
    const highs = [...all.map((each) => each[3]), ...study.optimum.map(([, y]) => y)], lows = [...all.map((each) => each[2]), ...study.optimum.map(([, y]) => y)];
    chart(byId("results-chart"), {
      height: 300, x, y: { min: Math.min(...lows) * 0.95, max: Math.max(...highs) * 1.05, log: true, label: "perplexity" },
      lines: [...optimum, ...chosen.map(({ curve, kind }) => ({ kind, dots: true, band: curve.points.map(([c, , l, h]) => [c, l, h]), points: curve.points.map(([c, v]) => [c, v]) }))],
      marks: [{ x: study.window, label: `trained: ${study.window}` }], label: `Perplexity against context: ${study.title}`,
    });
    const effective = chosen.filter(({ curve }) => curve.effective.length);
    byId("results-second").hidden = !effective.length;
    if (effective.length) {
      chart(byId("results-effective"), {
        height: 280, x, y: { min: 1, max: x.max, log: true, label: "effective context" },
        lines: [{ kind: "thin", points: [[x.min, x.min], [x.max, x.max]] }, ...effective.map(({ curve, kind }) => ({ kind, dots: true, points: curve.effective }))],
        marks: [{ x: study.window, label: `trained: ${study.window}` }], label: `Effective against given context: ${study.title}`,
      });
    }
    byId("results-text").textContent = study.note;
  };
  const choose = () => {
    const study = measured.studies[set.value];
    steps.innerHTML = study.steps.map((n) => `<option value="${n}">${n === 0 ? "none" : n}</option>`).join("");
    steps.value = study.steps[0];
    boxes = checkboxes("results-methods", study.methods, study.methods.map(([name]) => name));
    for (const each of boxes) each.element.addEventListener("input", draw);
    draw();
  };
  set.addEventListener("input", choose);
  steps.addEventListener("input", draw);
  choose();
  follow([], draw);
  byId("results-verdicts").innerHTML = measured.claims.map(({ title, verdict, reason, scale }) => {
    const kind = { reproduced: "yes", "not reproduced": "no" }[verdict] ?? "open";
    return `<li><b class="${kind}">${escape(verdict)}</b>${escape(title)} <span class="small">${escape(reason)} (${escape(scale)})</span></li>`;
  }).join("");
}

export function listen() {
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      width = innerWidth;
      redrawAll();
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
}
