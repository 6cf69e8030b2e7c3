// The commands that make what is on the screen.

import { copy, element } from "./plots.js";
import { hasToken } from "./service.js";

const PYTHON = { true: "True", false: "False" };

/** Return a value of a query as Python: a number, a boolean, a tuple of numbers, or a string. */
function literal(value) {
  if (Object.hasOwn(PYTHON, value)) return PYTHON[value];
  if (/^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/.test(value)) return value.replace(/^\+?0+(?=\d)/, "");
  if (/^[-+\d.eE]+(,[-+\d.eE]+)+$/.test(value)) return `(${value.replaceAll(",", ", ")})`;
  return JSON.stringify(value);
}

function keywords(fields, omitted) {
  const kept = Object.entries(fields).filter(([name]) => !omitted.includes(name));
  const list = (name, value) => (["seeds"].includes(name) || name.endsWith("_axis") || ["values", "dims"].includes(name) ? `(${value.split(",").join(", ")},)` : literal(value));
  return kept.map(([name, value]) => `, ${name}=${["name", "slice", "stream"].includes(name) ? JSON.stringify(value) : list(name, value)}`).join("");
}

function shape(text) {
  const sizes = text.split(",").filter((each) => each.trim() !== "").map((each) => each.trim());
  return sizes.length === 1 ? `(${sizes[0]},)` : `(${sizes.join(", ")})`;
}

// How code sends a token: from the environment. The client in Python reads it by itself.
const curl = () => (hasToken() ? 'curl -fsS -H "Authorization: Bearer $WEIGHTWELL_TOKEN"' : "curl -fsS");
const bearer = "Authorization: `Bearer ${process.env.WEIGHTWELL_TOKEN}`";
const options = () => (hasToken() ? `, { headers: { ${bearer} } }` : "");
const python = () => (hasToken() ? "import weightwell  # reads $WEIGHTWELL_TOKEN" : "import weightwell");

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Return the commands for one tensor: its file, and its statistics. */
export function forTensor(host, query, fields) {
  const call = `${shape(fields.shape || "")}, ${JSON.stringify(fields.scheme)}${keywords(fields, ["shape", "scheme"])}`;
  return {
    curl: `${curl()} ${quoted(`${host}/init?${query}`)} -o weight.safetensors\n${curl()} ${quoted(`${host}/inspect?${query}`)} -o statistics.json`,
    Python: `${python()}

with weightwell.Client(${JSON.stringify(host)}) as client:
    weight = client.init(${call})
    statistics = client.inspect(${call})
print(weight.shape, statistics["moments"]["std"])`,
    JavaScript: `const query = ${JSON.stringify(query)};
const file = await (await fetch(\`${host}/init?\${query}\`${options()})).arrayBuffer();
const length = Number(new DataView(file).getBigUint64(0, true));
const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, length)));
const data = file.slice(8 + length);
const statistics = await (await fetch(\`${host}/inspect?\${query}\`${options()})).json();
console.log(header, data.byteLength, statistics.moments.std);`,
  };
}

/** Return the commands for the signals of some queries. */
export function forSignals(host, runs) {
  const dicts = runs.map(({ fields }) => `    client.signal(${keywords(fields, []).replace(/^, /, "")})`);
  return {
    curl: runs.map(({ query }, at) => `${curl()} ${quoted(`${host}/signal?${query}`)} -o signal-${at + 1}.json`).join("\n"),
    Python: `${python()}

client = weightwell.Client(${JSON.stringify(host)})
signals = [
${dicts.join(",\n")},
]
for signal in signals:
    print(signal)`,
    JavaScript: `const queries = ${JSON.stringify(runs.map(({ query }) => query), null, 2)};
for (const query of queries) {
  const signal = await (await fetch(\`${host}/signal?\${query}\`${options()})).json();
  console.log(query, signal.layers.map((layer) => layer.forward.rms));
}`,
  };
}

/** Return the commands for the file of a manifest, a JSON text. */
export function forManifest(host, text) {
  return {
    curl: `${curl()} ${quoted(`${host}/init`)} -H 'Content-Type: application/json' -o model.safetensors -d @- <<'END'\n${text}\nEND`,
    Python: `import json

${python()}

manifest = json.loads(r"""
${text}
""")
with weightwell.Client(${JSON.stringify(host)}) as client:
    print(client.plan(manifest))
    client.save("model.safetensors", manifest)`,
    JavaScript: `const manifest = ${text};
const response = await fetch(${JSON.stringify(`${host}/init`)}, {
  method: "POST",
  headers: { "Content-Type": "application/json"${hasToken() ? `, ${bearer}` : ""} },
  body: JSON.stringify(manifest),
});
console.log((await response.arrayBuffer()).byteLength);`,
  };
}

/** Show commands by language, with tabs and a button that copies; and a button that copies the link of the page. */
export function show(place, commands) {
  const chosen = place.dataset.language || "curl";
  const text = element("code", {}, commands[chosen]);
  const said = element("span", { class: "quiet", role: "status" });
  const id = `${place.closest("section").id}-code`;
  const tabs = Object.keys(commands).map((language) => {
    const tab = element("button", { type: "button", role: "tab", "aria-selected": String(language === chosen), "aria-controls": id, tabindex: language === chosen ? "0" : "-1" }, language);
    tab.addEventListener("click", () => choose(language));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const names = Object.keys(commands);
      choose(names[(names.indexOf(language) + step + names.length) % names.length]);
    });
    return tab;
  });
  const choose = (language) => {
    place.dataset.language = language;
    show(place, commands);
    place.querySelector('[aria-selected="true"]').focus();
  };
  const button = (label, content) => {
    const made = element("button", { type: "button", class: "copy" }, label);
    made.addEventListener("click", async () => {
      const done = await copy(content());
      made.textContent = done ? "Copied" : "Select and copy by hand";
      said.textContent = made.textContent;
      setTimeout(() => { made.textContent = label; said.textContent = ""; }, 2000);
    });
    return made;
  };
  const link = button("Copy link", () => location.href);
  link.classList.remove("copy");
  place.replaceChildren(
    element("h2", {}, "The same from a program"),
    element("div", { class: "tabs" }, element("div", { role: "tablist", "aria-label": "Language" }, ...tabs), button("Copy code", () => commands[chosen]), link, said),
    element("pre", { id, role: "tabpanel", tabindex: "0", "aria-label": `Code: ${chosen}` }, text),
  );
}
