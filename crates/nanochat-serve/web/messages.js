// Messages as nodes: their text, tool calls, and buttons.

import { fitHeight, isSendKey, make } from "./dom.js";
import { copyText, render } from "./markdown.js";
import { textOf, wholeTextOf } from "./store.js";
import { words } from "./words.js";

/**
 * A message. `versions` are its siblings, itself included; `act` has edit(text), regenerate() and show(version).
 * Without `act` it is being written.
 */
export function message(node, versions, act) {
  const user = node.role === "user";
  const bubble = make("div", { class: "bubble" });
  fill(bubble, node, !act);
  const element = make("article", { class: `message ${node.role}`, "aria-label": user ? words.you : words.model }, bubble);
  for (const note of notes(node)) element.append(note);
  if (act && !user && !node.finish && !node.error) element.append(make("p", { class: "note" }, words.unfinished));
  if (act) element.append(actions(node, versions, act, element));
  return element;
}

/** Redraws a message in its bubble; `open`: more text will follow. */
export function fill(bubble, node, open) {
  if (node.role === "user") {
    bubble.replaceChildren(textOf(node));
    return;
  }
  const nodes = [];
  for (const part of node.parts) {
    if (part.type === "text") nodes.push(...render(part.text));
    else if (part.type === "python") nodes.push(tool(part.text));
    else nodes.at(-1)?.append?.(make("span", { class: "name" }, "="), make("output", {}, part.text));
  }
  if (open) {
    const cursor = make("span", { class: "cursor", "aria-hidden": "true" });
    const last = nodes.at(-1);
    if (last?.tagName === "P") last.append(cursor);
    else nodes.push(cursor);
  }
  bubble.replaceChildren(...nodes);
}

const tool = (expression) =>
  make("div", { class: "tool" }, make("span", { class: "name" }, words.calculator), make("code", {}, expression));

function notes(node) {
  const note = (text, kind = "") => make("p", { class: `note ${kind}` }, text);
  return [
    node.finish === "length" ? note(words.cut) : null,
    node.finish === "stopped" ? note(words.stopped) : null,
    node.dropped ? note(words.dropped) : null,
    node.error ? note(node.error, "error") : null,
  ].filter(Boolean);
}

function actions(node, versions, act, element) {
  const button = (text, onclick, more = {}) => make("button", { type: "button", onclick, ...more }, text);
  const row = make("div", { class: "actions" });
  if (versions.length > 1) {
    const at = versions.indexOf(node);
    const to = (step, text, label) =>
      button(text, () => act.show(versions[at + step]), { "aria-label": label, class: "step", disabled: !versions[at + step] });
    row.append(to(-1, "‹", words.previous), `${at + 1}/${versions.length}`, to(1, "›", words.next));
  }
  const copy = button(words.copy, () => copyText(wholeTextOf(node), copy));
  row.append(copy);
  if (node.role === "user") {
    row.append(button(words.edit, () => edit(node, element, act)));
  } else {
    row.append(button(words.regenerate, () => act.regenerate()));
    if (node.rate) row.append(make("span", { class: "speed" }, words.speed(node.tokens, node.rate)));
  }
  return row;
}

/** Replaces the message by a field to edit it. */
function edit(node, element, act) {
  const field = make("textarea", { "aria-label": words.edit });
  field.value = textOf(node);
  const send = () => field.value.trim() && act.edit(field.value.trim());
  const cancel = () => editor.replaceWith(element);
  field.addEventListener("input", () => fitHeight(field));
  field.addEventListener("keydown", (event) => {
    if (isSendKey(event)) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape" && !event.isComposing) {
      event.stopPropagation();
      cancel();
    }
  });
  const row = make(
    "div",
    { class: "row" },
    make("button", { type: "button", onclick: cancel }, words.cancel),
    make("button", { type: "button", class: "primary", onclick: send }, words.resend),
  );
  const editor = make("div", { class: "message editor" }, field, row);
  element.replaceWith(editor);
  fitHeight(field);
  field.focus();
}
