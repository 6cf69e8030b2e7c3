// Requests to the service, and the errors of its answers.

/** The address of the service: that of this page. */
export const HOST = new URL(".", document.baseURI).href.replace(/\/$/, "");

const answers = new Map();

// The token of this tab. Nothing but `ask` reads it.
const KEPT = "weightwell-token";
let token = stored((storage) => storage.getItem(KEPT)) || "";

/** Use a token from now on, for this tab; "" forgets it, and so does a text that no header can contain. */
export function use(given) {
  token = /^[!-~]+$/.test(given) ? given : "";
  answers.clear();
  stored((storage) => (token ? storage.setItem(KEPT, token) : storage.removeItem(KEPT)));
}

/** Call a function with the storage of the tab; return nothing if the browser allows no storage. */
function stored(action) {
  try {
    return action(sessionStorage);
  } catch {
    return undefined;
  }
}

/** Whether requests are sent with a token. */
export const hasToken = () => token !== "";

/** An error of the service: `message` says what was wrong, and `fields` are the names of the invalid fields. */
export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail || `the server answered ${status}`);
    this.status = status;
    this.fields = (problem.errors || []).map((each) => each.field);
  }
}

/** Return the response of the service; throw `Refused` for a problem. */
export async function ask(path, options = {}) {
  let response;
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  try {
    response = await fetch(`${HOST}/${path}`, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`no answer from ${HOST}: is the service running?`);
  }
  if (response.ok) return response;
  if (response.status === 401) dispatchEvent(new Event("token-needed"));
  throw new Refused(await response.json().catch(() => ({})), response.status);
}

/** Return a JSON answer that does not change while the page is open. */
export function table(path) {
  if (!answers.has(path)) {
    const answer = ask(path).then((response) => response.json());
    answer.catch(() => answers.delete(path));
    answers.set(path, answer);
  }
  return answers.get(path);
}

/** Return a query string of the fields that are not empty. Commas and colons stay readable. */
export function queryOf(fields) {
  const pairs = Object.entries(fields).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return pairs.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value).replace(/%2C/g, ",").replace(/%3A/g, ":")}`).join("&");
}

/** Call a function at once, and again only when its last call has ended or was aborted. */
export function latest(action) {
  let controller;
  return async (...given) => {
    controller?.abort();
    const own = (controller = new AbortController());
    try {
      await action(own.signal, ...given);
    } catch (error) {
      if (!own.signal.aborted) throw error;
    }
  };
}

/** Call a function some time after the last change. */
export function later(action, milliseconds = 250) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), milliseconds);
  };
}
