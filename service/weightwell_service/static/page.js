// The views of the page, one for each word after # in its address.

import { redraw } from "./plots.js";

const VIEWS = { tensor: "./tensor.js", signal: "./signal.js", manifest: "./manifest.js" };

async function route() {
  const [word, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
  if (word && !(word in VIEWS)) return; // a place in the page, such as #main
  const view = word || "tensor";
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== view;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${document.querySelector(`#${view} h1`).textContent} - Weightwell`;
  redraw();
  const place = document.querySelector(`#${view} .error`);
  try {
    const fields = new URLSearchParams(query);
    await (await import(VIEWS[view])).open(Object.fromEntries(fields), fields.getAll("run"));
  } catch (error) {
    place.hidden = false;
    place.textContent = error.message;
  }
}

addEventListener("hashchange", route);
route();
