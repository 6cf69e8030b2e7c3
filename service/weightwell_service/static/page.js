// The views of the page, one for each word after # in its address.

import { redraw } from "./plots.js";
import { hasToken, use } from "./service.js";

// Each module is named in full, so that no text of an address is ever imported.
const VIEWS = { tensor: () => import("./tensor.js"), signal: () => import("./signal.js"), manifest: () => import("./manifest.js") };

const tokenForm = document.getElementById("token");
const forget = document.getElementById("forget");

/** Take a token out of the address, where a bookmark or a history would keep it. */
function takeToken() {
  const given = location.hash.match(/^#token=(.+)$/s);
  if (!given) return;
  history.replaceState(null, "", location.pathname + location.search);
  try {
    use(decodeURIComponent(given[1]).trim());
  } catch {
    use(""); // not a text
  }
}

async function route() {
  takeToken();
  forget.hidden = !hasToken();
  const [word, query = ""] = location.hash.slice(1).split(/\?(.*)/s);
  if (word && !Object.hasOwn(VIEWS, word)) return; // a place in the page, such as #main
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
    await (await VIEWS[view]()).open(Object.fromEntries(fields), fields.getAll("run"));
  } catch (error) {
    place.hidden = false;
    place.textContent = error.message;
  }
}

addEventListener("hashchange", route);
addEventListener("token-needed", () => {
  tokenForm.hidden = false;
  tokenForm.elements.token.focus();
});
tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  use(tokenForm.elements.token.value.trim());
  tokenForm.reset();
  tokenForm.hidden = true;
  route();
});
forget.addEventListener("click", () => {
  use("");
  route();
});
route();
