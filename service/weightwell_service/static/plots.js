// Plots by uPlot, in the colours of the page, with a text for those who do not see them.

const plots = new Map();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const LINES = ["--one", "--two", "--three", "--four", "--five"];

/** Return a number as a person writes it, with some digits. */
export function digits(value, count = 4) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-4 || size >= 1e6 ? value.toExponential(count - 1) : String(Number(value.toPrecision(count)));
  return text.replace("e+", "e").replace("-", "−").replace(/e-/, "e−");
}

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Draw a plot into a place, and again when the colours or the width change. */
function show(place, make) {
  plots.set(place, make);
  if (place.offsetParent !== null) make();
}

/** Draw every visible plot again. */
export function redraw() {
  for (const [place, make] of plots) if (place.isConnected && place.offsetParent !== null) make();
}

new ResizeObserver(redraw).observe(document.querySelector("main"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

/** Show a sentence instead of a plot. */
export function say(place, text) {
  plots.delete(place);
  place.replaceChildren(element("p", { class: "sub" }, text));
}

function axis(label, more = {}) {
  const line = { stroke: colour("--grid"), width: 1 };
  return { label, labelSize: 22, labelFont: "13px system-ui, sans-serif", font: "12px system-ui, sans-serif", stroke: colour("--soft"), grid: line, ticks: line, ...more };
}

/** Return a power of ten as text. */
function power(value) {
  const exponent = Math.round(Math.log10(value));
  if (Math.abs(exponent) < 4) return String(Number(value.toPrecision(1)));
  return `10${String(exponent).replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])}`;
}

function numbers(_, values) {
  return values.map((value) => (value === null ? "" : digits(value, 3)));
}

function draw(place, { text, legend, options, data, points, height = 260 }) {
  const plot = element("div", { class: "plot", role: "img", "aria-label": text });
  place.replaceChildren(element("p", { class: "sub" }, text), legendOf(legend), plot, pointsOf(place, points));
  const common = { width: Math.max(plot.clientWidth, 200), height, legend: { show: false }, cursor: { show: false }, padding: [10, 12, 0, 0] };
  new uPlot({ ...common, ...options }, data, plot);
}

/** Return a table of the points of a plot, to read and to copy. It is made when it is opened. */
function pointsOf(place, { headings, rows }) {
  const title = place.closest("figure").querySelector("figcaption").textContent;
  const made = element("details", { class: "points" }, element("summary", {}, "Points as a table"));
  const cell = (value) => (value === null || value === undefined ? "" : String(value));
  const build = () => {
    place.dataset.points = made.open ? "open" : "";
    if (!made.open || made.querySelector("table")) return;
    const table = element("table");
    const every = rows().map((row) => row.map(cell));
    fill(table, `Points: ${title}`, headings, every);
    const button = element("button", { type: "button" }, "Copy points");
    button.addEventListener("click", async () => {
      const text = [headings, ...every].map((row) => row.join("\t")).join("\n");
      button.textContent = (await copy(text)) ? "Points copied" : "Select and copy by hand";
    });
    made.append(button, element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Points: ${title}` }, table));
  };
  made.addEventListener("toggle", build);
  if (place.dataset.points === "open") made.open = true;
  return made;
}

/** Copy a text; return whether that worked. The clipboard's own interface exists only for https and localhost. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element("textarea", { class: "quiet", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function legendOf(entries) {
  return element("ul", { class: "legend" }, ...entries.map(([mark, label]) => element("li", {}, element("span", { class: `mark ${mark}` }), label)));
}

/** A histogram: bars of counts, and a line of expected counts. */
export function histogram(place, { edges, counts, expected }, text) {
  show(place, () => {
    const centres = counts.map((_, at) => (edges[at] + edges[at + 1]) / 2);
    const series = [{}, { fill: colour("--bar"), width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.94, Infinity] }) }];
    const data = [centres, counts];
    const legend = [["bar", "drawn"]];
    if (expected) {
      series.push({ stroke: colour("--two"), width: 2, points: { show: false } });
      data.push(expected);
      legend.push(["line c1", "expected by the law"]);
    }
    const scales = { x: { time: false, range: [edges[0], edges[edges.length - 1]] }, y: { range: (_, __, most) => [0, most * 1.05] } };
    const points = {
      headings: ["from", "to", "drawn", ...(expected ? ["expected"] : [])],
      rows: () => counts.map((count, at) => [edges[at], edges[at + 1], count, ...(expected ? [expected[at]] : [])]),
    };
    draw(place, { text, legend, data, points, options: { series, scales, axes: [axis("value", { size: 32, values: numbers }), axis("elements per bin", { size: 64, values: numbers })] } });
  });
}

/** Lines over the same x. `lines`: name, values, colour (an index) and whether it is dashed. */
export function curves(place, { x, lines, xLabel, yLabel, log = false, points: dots = false, range }, text) {
  show(place, () => {
    const series = [{}, ...lines.map(({ colour: at, dash }) => ({
      stroke: colour(LINES[at]), width: dash ? 1.5 : 2, dash: dash ? [6, 5] : undefined, spanGaps: false,
      points: { show: dots && !dash, size: 4, fill: colour(LINES[at]) }, ...(dots && !dash ? { paths: () => null } : {}),
    }))];
    const clean = (values) => values.map((value) => (log && !(value > 0) ? null : value));
    const data = [x, ...lines.map((line) => clean(line.values))];
    const known = data.slice(1).flat().filter((value) => value !== null);
    const [least, most] = [Math.min(...known), Math.max(...known)];
    const decades = (low, high) => [10 ** Math.floor(Math.log10(low) + 1e-9), 10 ** Math.ceil(Math.log10(high) - 1e-9 + (low === high ? 1e-3 : 0))];
    const linear = () => range || [Math.min(0, least), most === least ? most + (Math.abs(most) || 1) : most + 0.05 * (most - Math.min(0, least))];
    const y = log ? { distr: 3, range: () => (known.length ? decades(least, most) : [0.1, 10]) } : { range: linear };
    const tens = (_, __, low, high) => {
      const [first, last] = [Math.round(Math.log10(low)), Math.round(Math.log10(high))];
      const step = Math.max(Math.ceil((last - first) / 7), 1);
      return Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, index) => 10 ** (first + index * step));
    };
    const vertical = log ? { splits: tens, filter: (_, splits) => splits, values: (_, splits) => splits.map(power) } : { values: numbers };
    const legend = lines.filter((line) => line.name).map((line) => [`line c${line.colour}`, line.name]);
    const named = lines.map((line, at) => line.name || `${lines[at - 1].name} (theory)`);
    const points = { headings: [xLabel, ...named], rows: () => x.map((each, at) => [each, ...lines.map((line) => line.values[at])]) };
    draw(place, { text, legend, data, points, options: { series, scales: { x: { time: false }, y }, axes: [axis(xLabel, { size: 32 }), axis(yLabel, { size: 64, ...vertical })] } });
  });
}

/** Points in the complex plane, and the circle of a radius. */
export function plane(place, { real, imaginary, radius }, text) {
  show(place, () => {
    const reach = 1.1 * Math.max(radius || 0, ...real.map((each, at) => Math.hypot(each, imaginary[at]))) || 1;
    const order = real.map((_, at) => at).sort((a, b) => real[a] - real[b]);
    const xs = order.map((at) => real[at]);
    const ys = order.map((at) => imaginary[at]);
    const circle = (u) => {
      if (!radius) return;
      const [x, y] = [u.valToPos(0, "x", true), u.valToPos(0, "y", true)];
      u.ctx.save();
      u.ctx.beginPath();
      u.ctx.strokeStyle = colour("--two");
      u.ctx.lineWidth = 2 * devicePixelRatio;
      u.ctx.ellipse(x, y, Math.abs(u.valToPos(radius, "x", true) - x), Math.abs(u.valToPos(radius, "y", true) - y), 0, 0, 2 * Math.PI);
      u.ctx.stroke();
      u.ctx.restore();
    };
    const series = [{}, { stroke: colour("--one"), paths: () => null, points: { show: true, size: 3.5, fill: colour("--one") } }];
    const scales = { x: { time: false, range: [-reach, reach] }, y: { range: [-reach, reach] } };
    const legend = [["c0", "computed"], ...(radius ? [["line c1", "expected radius"]] : [])];
    const points = { headings: ["real part", "imaginary part"], rows: () => real.map((each, at) => [each, imaginary[at]]) };
    draw(place, { text, legend, data: [xs, ys], points, height: Math.min(place.clientWidth, 330), options: { series, scales, hooks: { draw: [circle] }, axes: [axis("real part", { size: 32, values: numbers }), axis("imaginary part", { size: 64, values: numbers })] } });
  });
}

/** A heat map of cells (rows of numbers), blue below zero and orange above; a large one has the `few` in its table. */
export function heat(place, cells, few, text) {
  show(place, () => {
    const most = cells.flat().reduce((largest, value) => Math.max(largest, Math.abs(value ?? 0)), 0) || 1;
    const shades = ["--one", "--back", "--two"].map((name) => rgb(colour(name)));
    const image = (rows) => {
      const canvas = element("canvas", { width: rows[0].length, height: rows.length });
      const pixels = new ImageData(rows[0].length, rows.length);
      rows.flat().forEach((value, at) => {
        const share = Math.min(Math.abs(value ?? 0) / most, 1);
        const end = shades[value < 0 ? 0 : 2];
        for (let part = 0; part < 3; part++) pixels.data[4 * at + part] = shades[1][part] + (end[part] - shades[1][part]) * share;
        pixels.data[4 * at + 3] = 255;
      });
      canvas.getContext("2d").putImageData(pixels, 0, 0);
      return canvas;
    };
    const canvas = image(cells);
    canvas.className = "heat";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", text);
    const aspect = Math.min(Math.max(cells[0].length / cells.length, 0.25), 8);
    canvas.style.aspectRatio = String(aspect);
    canvas.style.maxWidth = `min(100%, ${Math.min(21, 21 * aspect)}rem)`;
    const scale = image([Array.from({ length: 65 }, (_, at) => (most * (at - 32)) / 32)]);
    scale.className = "scale";
    scale.setAttribute("aria-hidden", "true");
    const legend = element("ul", { class: "legend" }, element("li", {}, digits(-most, 3), scale, digits(most, 3)));
    const shown = cells.length * cells[0].length > 1024 ? few : cells;
    const points = { headings: ["row", ...shown[0].map((_, at) => `column ${at + 1}`)], rows: () => shown.map((row, at) => [at + 1, ...row]) };
    place.replaceChildren(element("p", { class: "sub" }, text), legend, canvas, pointsOf(place, points));
  });
}

function rgb(text) {
  const hex = text.replace("#", "");
  return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** Fill a table: a row of headings and rows of cells, each a text or `[text, class]`. */
export function fill(table, caption, headings, rows) {
  const cell = (tag, scope) => (given) => {
    const [text, kind] = Array.isArray(given) ? given : [given, null];
    return element(tag, { class: kind, scope }, text);
  };
  const head = element("tr", {}, ...headings.map(cell("th", "col")));
  const body = rows.map((row) => element("tr", {}, cell("th", "row")(row[0]), ...row.slice(1).map(cell("td"))));
  table.replaceChildren(element("caption", { class: "quiet" }, caption), element("thead", {}, head), element("tbody", {}, ...body));
}
