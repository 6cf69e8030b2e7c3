// A manifest and its plan.

import * as code from "./code.js";
import { refuse } from "./fields.js";
import * as plots from "./plots.js";
import { digits, element } from "./plots.js";
import { HOST, ask, latest } from "./service.js";

const START = `{
  "seed": 42,
  "dtype": "bfloat16",
  "preset": "torch",
  "tensors": {
    "embed.weight": {"shape": [1000, 64], "module": "Embedding"},
    "fc.weight": {"shape": [256, 64], "module": "Linear"},
    "fc.bias": {"shape": [256], "scheme": "zeros"},
    "head.weight": {"alias": "embed.weight"}
  }
}`;

// Rows of a long plan that are shown.
const MOST = 500;

const section = document.getElementById("manifest");
const form = document.getElementById("manifest-form");
const area = form.elements.manifest;

/** Show the manifest that is in the link of the page, compressed as in a URL of `/init`. */
export async function open(fields) {
  if (fields.manifest) {
    try {
      area.value = pretty(await unpacked(fields.manifest));
    } catch {
      refuse(section, new Error("the link does not hold a whole manifest; copy it again"));
      return;
    }
  } else if (!area.value) area.value = START;
  await plan();
}

const plan = latest(async (signal) => {
  const text = area.value;
  try {
    JSON.parse(text);
    history.replaceState(null, "", `#manifest?manifest=${await packed(text)}`);
    section.querySelector(".status").textContent = "Planning …";
    const answer = await (await ask("plan", { method: "POST", headers: { "Content-Type": "application/json" }, body: text, signal })).json();
    refuse(section, null);
    render(answer, text);
  } catch (error) {
    if (signal.aborted) return;
    section.querySelector(".drawn").hidden = true;
    section.querySelector(".status").textContent = "";
    refuse(section, error instanceof SyntaxError ? new Error(`the manifest is not JSON: ${error.message}`) : error);
  }
});

function render(answer, text) {
  section.querySelector(".drawn").hidden = false;
  const names = Object.entries(answer.tensors);
  const bytes = answer.nbytes.toLocaleString("en");
  section.querySelector(".status").textContent = `${names.length} names, ${bytes} bytes.`;
  const notes = [`generator ${answer.generator.identity}`, `ETag ${answer.etag}`, answer.unused_note, answer.refusal].filter(Boolean);
  section.querySelector(".law").replaceChildren(`A file of ${bytes} bytes`, element("small", {}, notes.join("; ")));
  const rows = names.slice(0, MOST).map(([name, tensor]) => {
    if (tensor.alias) return [name, "", "", [`the same as ${tensor.alias}`, "text wrap"], "", "", ""];
    const shape = tensor.slice ? `${tensor.shape.join(" x ")} [${tensor.slice}]` : tensor.shape.join(" x ") || "scalar";
    return [name, [shape, "text"], [tensor.dtype, "text"], [tensor.law.words, "text wrap"], digits(tensor.mean, 3), digits(tensor.std, 3), tensor.nbytes.toLocaleString("en")];
  });
  if (names.length > MOST) rows.push([`and ${names.length - MOST} more`, "", "", "", "", "", ""]);
  plots.fill(section.querySelector(".plan"), "Tensors of the file", ["name", ["shape", "text"], ["dtype", "text"], ["law", "text"], "mean", "std", "bytes"], rows);
  code.show(section.querySelector(".code"), code.forManifest(HOST, text));
}

const pretty = (text) => (text.includes("\n") ? text : JSON.stringify(JSON.parse(text), null, 2));

async function through(data, stream) {
  return new Uint8Array(await new Response(new Blob([data]).stream().pipeThrough(stream)).arrayBuffer());
}

// The format of /init?manifest=: zlib, then base64url.
async function packed(text) {
  const bytes = await through(new TextEncoder().encode(text), new CompressionStream("deflate"));
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

async function unpacked(text) {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = await through(Uint8Array.from(binary, (each) => each.charCodeAt(0)), new DecompressionStream("deflate"));
  return new TextDecoder().decode(bytes);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  plan();
});
area.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) plan();
});
