// Draws weights from Weightwell, as typed arrays.

import { safetensors } from "@jax-js/loaders";
import { Float16Array } from "@petamoriken/float16";

// The safetensors library reads float16 into the Float16Array of the language, which Node has from version 24 on.
globalThis.Float16Array ??= Float16Array;

/**
 * Draw the tensors that a URL describes, or those of a manifest that is posted to it.
 *
 * Resolves to { tensors: { [name]: { dtype, shape, data } }, metadata }; rejects with what the server finds wrong.
 */
export async function draw(url, manifest) {
  const response = await fetch(url, manifest && post(manifest));
  if (!response.ok) {
    const { title, detail } = await response.json();
    throw new Error(`${title}: ${detail}`);
  }
  return safetensors.parse(await response.arrayBuffer());
}

function post(manifest) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(manifest) };
}
