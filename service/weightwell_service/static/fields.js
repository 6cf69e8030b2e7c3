// Form fields, from the parameters that the service describes.

import { element } from "./plots.js";

/** Return the alternative of a JSON Schema that is not null. */
function kind(schema) {
  const others = (schema.anyOf || []).filter((each) => each.type !== "null");
  if (!others.length) return schema;
  const names = others.flatMap((each) => each.enum || (each.const === undefined ? [] : [each.const]));
  return { ...schema, ...others[0], enum: names.length ? names : undefined };
}

function written(value) {
  if (value === undefined || value === null) return "";
  return Array.isArray(value) ? value.join(",") : String(value);
}

/** Return a labelled field for a parameter: its `name`, JSON Schema, and perhaps names to choose from. */
export function field(parameter, value = "", names = null) {
  const schema = kind(parameter);
  const title = parameter.description || null;
  const common = { name: parameter.name, title, "aria-description": title };
  const initial = written(parameter.default);
  const choices = names || schema.enum || (schema.type === "boolean" ? ["true", "false"] : null);
  let input;
  if (choices) {
    input = element("select", common);
    const none = !parameter.required && !choices.includes(initial);
    if (none) input.append(element("option", { value: "" }, "default"));
    for (const choice of choices) input.append(element("option", { value: choice === initial ? "" : choice }, choice));
    input.value = value === initial ? "" : value;
  } else {
    const numeric = ["number", "integer"].includes(schema.type);
    const placeholder = initial || (parameter.required ? "required" : "default");
    input = element("input", { ...common, placeholder, autocomplete: "off", spellcheck: "false", inputmode: numeric ? "text" : null });
    input.value = value;
  }
  return element("label", {}, parameter.name, input);
}

/** Return the filled-in fields of a form, by name. */
export function filled(form) {
  const found = {};
  for (const input of form.elements) if (input.name && input.value.trim() !== "") found[input.name] = input.value.trim();
  return found;
}

/** Mark the fields that an error is about, and show its text; or clear both. */
export function refuse(section, error) {
  const place = section.querySelector(".error");
  for (const input of section.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  place.hidden = !error;
  place.textContent = error ? error.message : "";
  for (const name of error?.fields || []) {
    section.querySelector(`[name="${CSS.escape(name.split(".").pop())}"]`)?.setAttribute("aria-invalid", "true");
  }
}

/** Split a scheme's parameters: its own, and those that many schemes have (fans and layout). */
export function parametersOf(schemes, name) {
  const uses = new Map();
  for (const scheme of schemes) for (const { name: each } of scheme.parameters) uses.set(each, (uses.get(each) || 0) + 1);
  const scheme = schemes.find((each) => each.name === name || each.aliases.includes(name)) || schemes[0];
  const common = scheme.parameters.filter((each) => uses.get(each.name) > 6);
  return { scheme, own: scheme.parameters.filter((each) => !common.includes(each)), common };
}

/** Return the names of the activation functions, as gains have them. */
export const gains = (answer) => Object.keys(answer.gains);
