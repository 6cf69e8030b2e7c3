// What a JavaScript program sees that uses @huggingface/hub. The arguments are the address of a server, and a revision.
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { downloadFile, downloadFileToCacheDir, fileExists, listFiles, listModels, modelInfo, snapshotDownload } from "@huggingface/hub";

const [hubUrl, revision] = process.argv.slice(1);
const cacheDir = await mkdtemp(join(tmpdir(), "hub-"));
const gpt2 = { type: "model", name: "tiny/gpt2" }, llama = { type: "model", name: "tiny/llama" };
const sharded = { type: "model", name: "acme/sharded" };
const common = { hubUrl, revision, cacheDir };
const sha = async (path) => createHash("sha256").update(await readFile(path)).digest("hex");

async function all(items, read) {
  const found = [];
  for await (const item of items) found.push(read(item));
  return found;
}

async function failure(call) {
  try {
    await call;
  } catch (error) {
    return error.statusCode;
  }
  return 0;
}

const weights = [], folders = [];
for (const _ of [1, 2]) {
  weights.push(await sha(await downloadFileToCacheDir({ repo: gpt2, path: "model.safetensors", ...common })));
  folders.push(await snapshotDownload({ repo: sharded, ...common }));
}
const snapshot = {};
for (const name of (await readdir(folders[1])).sort())
  if (name.endsWith(".safetensors")) snapshot[name] = await sha(join(folders[1], name));
const blob = await downloadFile({ repo: llama, path: "model.safetensors", ...common });
const packages = JSON.parse(await readFile("node_modules/@huggingface/hub/package.json"));

console.log(JSON.stringify({
  version: packages.version,
  commit: (await modelInfo({ name: "tiny/gpt2", revision, hubUrl, additionalFields: ["sha"] })).sha,
  files: await all(listFiles({ repo: sharded, recursive: true, ...common }), (each) => each.path),
  listed: await all(listFiles({ repo: sharded, expand: true, ...common }), (each) => each.path),
  dates: await all(listFiles({ repo: sharded, expand: true, ...common }), (each) => each.lastCommit.date),
  models: await all(listModels({ hubUrl, search: { owner: "acme" } }), (each) => [each.name, each.updatedAt]),
  exists: [await fileExists({ repo: gpt2, path: "config.json", ...common }), await fileExists({ repo: gpt2, path: "none", ...common })],
  weights,
  snapshot,
  same: folders[0] === folders[1],
  range: await blob.slice(8, 24).text(),
  errors: [
    await failure(modelInfo({ name: "tiny/none", hubUrl })),
    await failure(downloadFileToCacheDir({ repo: gpt2, path: "config.json", ...common, revision: "v3" })),
  ],
}));
