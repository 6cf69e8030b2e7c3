// Prints the tensors of a URL, or of a manifest that is posted to it: node draw.js URL [MANIFEST.json]

import { readFile } from "node:fs/promises";

import { draw } from "./weights.js";

const [url, path] = process.argv.slice(2);
const manifest = path && JSON.parse(await readFile(path, "utf8"));

const { tensors } = await draw(url, manifest);
for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
  console.log(name, dtype, `[${shape}]`, data.slice(0, 5).join(" "));
}
