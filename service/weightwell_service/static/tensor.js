// One tensor: its numbers, its law, its spectrum.

import * as code from "./code.js";
import { field, filled, gains, parametersOf, refuse } from "./fields.js";
import * as plots from "./plots.js";
import { digits, element } from "./plots.js";
import { parse } from "./safetensors.js";
import { HOST, ask, later, latest, queryOf, table } from "./service.js";

// Files up to this many bytes are read; of larger ones, the service computes the statistics.
const READ = 2 ** 16;

const START = { shape: "96,64", scheme: "kaiming_normal", seed: "42", dtype: "float32" };

const section = document.getElementById("tensor");
const form = document.getElementById("tensor-form");
let catalogue;

/** Show the tensor of some fields, as they are in the link of the page. */
export async function open(fields) {
  table("gain").catch(() => {}); // at the same time; most schemes need it
  catalogue = await table("schemes");
  const wanted = Object.keys(fields).length ? fields : START;
  const choose = (name, names, value) => {
    form.elements[name].replaceChildren(...names.map((each) => element("option", { value: each }, each)));
    form.elements[name].value = names.includes(value) ? value : names[0];
  };
  const canonical = catalogue.schemes.find((each) => each.aliases.includes(wanted.scheme))?.name || wanted.scheme;
  choose("scheme", catalogue.schemes.map((each) => each.name), canonical);
  choose("dtype", catalogue.dtypes.map((each) => each.name), wanted.dtype || "float32");
  choose("generator", catalogue.generators.map((each) => each.name), wanted.generator);
  for (const name of ["shape", "seed", "slice", "name"]) form.elements[name].value = wanted[name] ?? "";
  await parameters(wanted);
  await draw();
}

/** Make the fields of the chosen scheme; keep values of fields with the same names. */
async function parameters(values) {
  const { scheme, own, common } = parametersOf(catalogue.schemes, form.elements.scheme.value);
  const names = own.some((each) => each.name === "nonlinearity") ? gains(await table("gain")) : null;
  const make = (each) => field(each, values[each.name] ?? "", each.name === "nonlinearity" ? names : null);
  form.querySelector(".parameters").replaceChildren(...own.map(make));
  form.querySelector(".more").replaceChildren(...common.map(make));
  form.querySelector(".about").textContent = `${scheme.summary} ${scheme.formula}`;
  form.querySelector(".about").replaceChildren(scheme.summary, element("br"), element("code", {}, scheme.formula));
}

function asked() {
  const { generator, ...fields } = filled(form);
  const portable = catalogue.generators[0].name;
  return { shape: "", ...fields, ...(generator === portable ? {} : { generator }) };
}

const draw = latest(async (signal) => {
  const fields = asked();
  // An empty shape is that of a scalar.
  const query = fields.shape ? queryOf(fields) : `shape=&${queryOf(fields)}`;
  history.replaceState(null, "", `#tensor?${query}`);
  section.classList.add("busy");
  section.querySelector(".status").textContent = "Drawing …";
  try {
    const answer = await (await ask(`inspect?${query}`, { signal })).json();
    const file = answer.nbytes <= READ ? await (await ask(`init?${query}`, { signal })).arrayBuffer() : null;
    refuse(section, null);
    render(answer, file && parse(file), query, fields);
    section.querySelector(".status").textContent = `Drawn: ${answer.count.toLocaleString("en")} numbers.`;
  } catch (error) {
    if (signal.aborted) return;
    section.querySelector(".status").textContent = "";
    section.querySelector(".drawn").hidden = true;
    refuse(section, error);
  } finally {
    if (!signal.aborted) section.classList.remove("busy");
  }
});

function render(answer, file, query, fields) {
  section.querySelector(".drawn").hidden = false;
  const { tensor, histogram, heat_map: map } = answer;
  const law = tensor.law.words;
  const fans = tensor.fan_in === null ? "" : `fan-in ${tensor.fan_in}, fan-out ${tensor.fan_out}; `;
  section.querySelector(".law").replaceChildren(law[0].toUpperCase() + law.slice(1),
    element("small", {}, `${fans}${answer.count.toLocaleString("en")} elements; file of ${size(answer.nbytes)}, ETag ${answer.etag}`));
  moments(answer);
  const counts = file ? recount(file.values, histogram.edges) : histogram.counts;
  const range = `${digits(answer.smallest)} to ${digits(answer.largest)}`;
  plots.histogram(at("histogram"), { ...histogram, counts }, `${counts.length} bins; elements from ${range}`);
  matrix(file, map);
  spectra(answer);
  section.querySelector(".source").textContent = file
    ? `Histogram and matrix: counted here from the ${answer.count.toLocaleString("en")} numbers of the file (/init). All other numbers: /inspect.`
    : `The service computed all numbers (/inspect). The file of ${size(answer.nbytes)} was not read here.`;
  code.show(section.querySelector(".code"), code.forTensor(HOST, query, fields));
}

const at = (name) => section.querySelector(`[data-plot="${name}"]`);

function size(nbytes) {
  if (nbytes < 1024) return `${nbytes} bytes`;
  const power = Math.min(Math.floor(Math.log2(nbytes) / 10), 4);
  return `${digits(nbytes / 1024 ** power, 3)} ${["", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

function moments({ moments: found, smallest, largest, zeros }) {
  const rows = Object.entries(found).map(([name, { measured, standard_error: error, theory }]) => {
    const distance = error && theory !== null && measured !== null ? (measured - theory) / error : null;
    const far = distance !== null && Math.abs(distance) > 4 ? "far" : null;
    return [name, digits(measured), error ? `± ${digits(error, 2)}` : "", digits(theory), [distance === null ? "–" : digits(distance, 2), far]];
  });
  rows.push(["smallest", digits(smallest), "", "", ""], ["largest", digits(largest), "", "", ""], ["zeros", zeros.toLocaleString("en"), "", "", ""]);
  plots.fill(section.querySelector(".moments"), "Moments of the elements, measured and by the law", ["moment", "measured", "standard error", "law", "distance in standard errors"], rows);
}

/** Count values in bins of equal width, as the service does. */
function recount(values, edges) {
  const counts = new Array(edges.length - 1).fill(0);
  const width = edges[1] - edges[0];
  for (const value of values) counts[Math.min(Math.max(Math.floor((value - edges[0]) / width), 0), counts.length - 1)]++;
  return counts;
}

function matrix(file, map) {
  let { cells, rows, cols } = map;
  let each = `each cell is the mean of about ${Math.round(rows / cells.length)} x ${Math.round(cols / cells[0].length)} elements`;
  if (file && cols <= 1024) {
    cells = Array.from({ length: rows }, (_, row) => Array.from(file.values.subarray(row * cols, (row + 1) * cols)));
    each = "each cell is one element";
  } else if (cells.length === rows && cells[0].length === cols) each = "each cell is one element";
  plots.heat(at("heat"), cells, map.cells, `${rows} x ${cols}; ${each}`);
}

function spectra({ singular_values: singular, eigenvalues: eigen, note }) {
  const square = at("eigen").closest("figure");
  square.hidden = !eigen;
  if (!singular) {
    plots.say(at("singular"), `${note[0].toUpperCase()}${note.slice(1)}.`);
    return;
  }
  const count = singular.measured.length;
  const lines = [{ name: "computed", values: singular.measured, colour: 0 }];
  if (singular.expected) lines.push({ name: "expected", values: singular.expected, colour: 1, dash: true });
  const range = `${count} values from ${digits(singular.measured[0])} to ${digits(singular.measured[count - 1])}`;
  const x = singular.measured.map((_, index) => index + 1);
  plots.curves(at("singular"), { x, lines, xLabel: "rank", yLabel: "singular value", points: count < 3 }, range);
  if (!eigen) return;
  const law = { disk: "they should fill a disk evenly (circular law)", circle: "they should lie on a circle" }[eigen.law];
  plots.plane(at("eigen"), eigen, `${eigen.real.length} eigenvalues${law ? `; ${law} of radius ${digits(eigen.radius)}` : ""}`);
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", async (event) => {
  if (event.target.name === "scheme") await parameters(filled(form));
  draw();
});
form.addEventListener("input", later((event) => { if (event.target.name !== "scheme") draw(); }));
