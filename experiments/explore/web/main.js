import * as positions from "./positions.js";
import { clocks, rope, shift, table } from "./foundations.js";
import { listen, results, seenSection, stretch } from "./windows.js";

const measured = JSON.parse(document.getElementById("measured").textContent);
clocks();
table();
shift();
rope();
seenSection(measured);
stretch(measured);
results(measured);
listen();
globalThis.lab = positions; // for whoever wants the numbers
