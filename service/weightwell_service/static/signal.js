// The signal and its gradient through a stack of layers, for several stacks at once.

import * as code from "./code.js";
import { field, filled, gains, parametersOf, refuse } from "./fields.js";
import * as plots from "./plots.js";
import { digits, element } from "./plots.js";
import { HOST, ask, later, latest, queryOf, table } from "./service.js";

const START = [
  "activation=relu&scheme=kaiming_normal",
  "activation=relu&scheme=xavier_normal",
  "activation=tanh&scheme=xavier_normal",
];
const MAIN = ["scheme", "activation", "depth", "width", "normalization", "residual"];
const MOST = plots.LINES.length;

const section = document.getElementById("signal");
const form = document.getElementById("signal-form");
const answers = new Map(); // by query
let runs = [];
let chosen = 0;
let schemes;
let described;
let activations;

/** Show the signals of some queries, as they are in the link of the page. */
export async function open(_, queries) {
  [{ schemes }, described, activations] = await Promise.all([
    table("schemes"), table("page/signal.json"), table("gain?source=quadrature").then(gains),
  ]);
  runs = (queries.length ? queries : START).slice(0, MOST).map((query) => Object.fromEntries(new URLSearchParams(query)));
  chosen = Math.min(chosen, runs.length - 1);
  edit();
  await draw();
}

/** Fill the form with the fields of the chosen run. */
function edit() {
  const run = runs[chosen];
  const usable = described.find((each) => each.name === "scheme").enum;
  const make = (name) => {
    const parameter = described.find((each) => each.name === name);
    const names = { scheme: usable, activation: activations }[name];
    return field(parameter, run[name] ?? "", names);
  };
  form.querySelector(".fields").replaceChildren(...MAIN.map(make));
  const { scheme, own } = parametersOf(schemes, run.scheme || "kaiming_normal");
  const known = new Set(schemes.flatMap((each) => each.parameters.map((one) => one.name)));
  const rest = described.filter((each) => !MAIN.includes(each.name) && !known.has(each.name));
  const taken = own.filter((each) => described.some((one) => one.name === each.name));
  form.querySelector(".parameters").replaceChildren(...taken.map((each) => field(each, run[each.name] ?? "")));
  form.querySelector(".more").replaceChildren(...rest.map((each) => field(each, run[each.name] ?? "")));
  form.querySelector(".about").replaceChildren(scheme.summary, element("br"), element("code", {}, scheme.formula));
  list();
}

/** Show the runs, of which one is edited. */
function list() {
  const rows = runs.map((run, at) => {
    const input = element("input", { type: "radio", name: "", "aria-label": `Edit ${title(run)}`, checked: at === chosen });
    input.addEventListener("change", () => { chosen = at; edit(); });
    const row = element("div", { class: "run" }, element("label", {}, input, element("span", { class: `mark c${at}` }), title(run)));
    if (runs.length > 1) {
      const remove = element("button", { type: "button", "aria-label": `Remove ${title(run)}` }, "×");
      remove.addEventListener("click", () => { runs.splice(at, 1); chosen = Math.min(chosen, runs.length - 1); edit(); draw(); });
      row.append(remove);
    }
    return row;
  });
  form.querySelector(".list").replaceChildren(...rows);
  form.querySelector(".add").disabled = runs.length >= MOST;
}

/** Return a name of a run: its scheme, its activation function and the fields that differ from the first run. */
function title(run) {
  const others = Object.entries(run).filter(([name]) => !["scheme", "activation"].includes(name)).map(([name, value]) => `${name} ${value}`);
  return [run.scheme || "kaiming_normal", run.activation || "relu", ...others].join(", ");
}

const draw = latest(async (signal) => {
  const queries = runs.map(queryOf);
  history.replaceState(null, "", `#signal?${queries.map((query) => `run=${encodeURIComponent(query)}`).join("&")}`);
  section.classList.add("busy");
  section.querySelector(".status").textContent = "Measuring …";
  try {
    for (const [at, query] of queries.entries()) {
      if (answers.has(query)) continue;
      try {
        answers.set(query, await (await ask(`signal?${query}`, { signal })).json());
      } catch (error) {
        if (runs.length > 1 && !signal.aborted) error.message = `${title(runs[at])}: ${error.message}`;
        throw error;
      }
    }
    refuse(section, null);
    render(queries.map((query, at) => ({ query, fields: runs[at], name: title(runs[at]), answer: answers.get(query) })));
    section.querySelector(".status").textContent = `Measured: ${runs.length} ${runs.length === 1 ? "stack" : "stacks"}.`;
  } catch (error) {
    if (signal.aborted) return;
    section.querySelector(".status").textContent = "";
    section.querySelector(".drawn").hidden = true;
    refuse(section, error);
  } finally {
    if (!signal.aborted) section.classList.remove("busy");
  }
});

function render(shown) {
  section.querySelector(".drawn").hidden = false;
  const depth = Math.max(...shown.map(({ answer }) => answer.layers.length));
  const x = Array.from({ length: depth + 1 }, (_, at) => at);
  const curve = (name, log, yLabel, text, measured, theory) => {
    const pad = (values) => x.map((at) => values[at] ?? null);
    const lines = shown.flatMap(({ answer, name: label }, colour) => [
      { name: label, values: pad([measured(answer.input), ...answer.layers.map(measured)]), colour },
      { values: pad([null, ...answer.layers.map((layer) => theory(layer.theory, answer))]), colour, dash: true },
    ]);
    const place = section.querySelector(`[data-plot="${name}"]`);
    plots.curves(place, { x, lines, log, xLabel: "layer (0 is the input)", yLabel, range: log ? undefined : [-0.05, 1.05] }, text);
  };
  curve("forward", true, "rms", ends(shown, (layer) => layer.forward.rms, "rms after the last layer"), (layer) => layer.forward.rms, (theory) => theory.rms);
  curve("backward", true, "ratio", ends(shown, (layer, answer) => answer.input.backward.ratio, "ratio at the input"), (layer) => layer.backward.ratio, (theory) => theory.backward_rms);
  curve("correlation", false, "correlation", ends(shown, (layer) => layer.correlation, "after the last layer"), (layer) => layer.correlation, (theory) => theory.correlation);
  const place = (answer) => answer.first_not_finite.forward ?? answer.first_not_finite.backward;
  const rows = shown.map(({ answer: { theory, ...answer }, name }) => [
    name, [theory.verdict ?? "–", "text"], digits(theory.chi_1), digits(theory.q), digits(theory.xi_c),
    place(answer) === null ? "none" : String(place(answer)), [theory.reason ?? "", "text wrap"],
  ]);
  plots.fill(section.querySelector(".verdicts"), "What mean-field theory says", ["stack", ["phase", "text"], "χ₁", "q", "depth scale ξ", "first layer not finite", ["note", "text"]], rows);
  code.show(section.querySelector(".code"), code.forSignals(HOST, shown));
}

function ends(shown, value, what) {
  return `${what}: ${shown.map(({ answer, name }) => `${digits(value(answer.layers.at(-1), answer), 3)} (${name})`).join("; ")}`;
}

const changed = () => {
  runs[chosen] = filled(form);
  list();
  draw();
};
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", (event) => {
  if (!event.target.name) return;
  runs[chosen] = filled(form);
  if (event.target.name === "scheme") {
    const { own } = parametersOf(schemes, event.target.value || "kaiming_normal");
    const every = new Set(schemes.flatMap((each) => each.parameters.map((one) => one.name)));
    runs[chosen] = Object.fromEntries(Object.entries(runs[chosen]).filter(([name]) => !every.has(name) || own.some((each) => each.name === name)));
    edit();
  }
  list();
  draw();
});
form.addEventListener("input", later((event) => { if (event.target.name && event.target.tagName === "INPUT") changed(); }, 500));
form.querySelector(".add").addEventListener("click", () => {
  runs.push({ ...runs[chosen] });
  chosen = runs.length - 1;
  edit();
  form.querySelector('[name="scheme"]').focus();
});
