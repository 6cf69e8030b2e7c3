// Requests to the service, and the errors of its answers.

/** The address of the service: that of this page. */
export const HOST = new URL(".", document.baseURI).href.replace(/\/$/, "");

/** An error of the service: `message` says what was wrong, and `fields` are the names of the invalid fields. */
export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail || `the server answered ${status}`);
    this.fields = (problem.errors || []).map((each) => each.field);
  }
}

/** Return the response of the service; throw `Refused` for a problem. */
export async function ask(path, options) {
  let response;
  try {
    response = await fetch(`${HOST}/${path}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`no answer from ${HOST}: is the service running?`);
  }
  if (response.ok) return response;
  throw new Refused(await response.json().catch(() => ({})), response.status);
}

const answers = new Map();

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
  return pairs.map(([name, value]) => `${name}=${encodeURIComponent(value).replace(/%2C/g, ",").replace(/%3A/g, ":")}`).join("&");
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
