// Markdown to nodes: paragraphs, headings, lists, quotes, tables, code; bold, italic, code, links inside a line. Unknown
// syntax stays text. Every string of the model becomes a text node.

import { make } from "./dom.js";
import { words } from "./words.js";

const FENCE = /^\s*```\s*([\w+#.-]*)\s*$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const RULE = /^\s*([-*_])(?:\s*\1){2,}\s*$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)+\|?\s*$/;

/** Returns the nodes of a text. */
export function render(text) {
  return blocks(text.split("\n"), 0);
}

// `depth` limits nested quotes and lists.
function blocks(lines, depth) {
  const nodes = [];
  let i = 0;
  const takeWhile = (test) => {
    const start = i;
    while (i < lines.length && test(lines[i])) i++;
    return lines.slice(start, i);
  };
  while (i < lines.length) {
    const line = lines[i];
    const [fence, heading] = [FENCE.exec(line), HEADING.exec(line)];
    if (!line.trim()) {
      i++;
    } else if (fence) {
      i++;
      const code = takeWhile((line) => !/^\s*```\s*$/.test(line));
      i++; // the closing fence, or the end
      nodes.push(codeBlock(fence[1], code.join("\n")));
    } else if (heading) {
      i++;
      nodes.push(make(`h${Math.min(5, heading[1].length + 2)}`, {}, ...inline(heading[2], 0)));
    } else if (RULE.test(line)) {
      i++;
      nodes.push(make("hr"));
    } else if (/^\s*>/.test(line) && depth < 4) {
      const quoted = takeWhile((line) => /^\s*>/.test(line)).map((line) => line.replace(/^\s*> ?/, ""));
      nodes.push(make("blockquote", {}, ...blocks(quoted, depth + 1)));
    } else if (ITEM.test(line) && depth < 4) {
      nodes.push(listOf(takeWhile((line) => ITEM.test(line) || /^\s{2,}\S/.test(line)), depth));
    } else if (line.includes("|") && TABLE_RULE.test(lines[i + 1] ?? "")) {
      nodes.push(table(takeWhile((line) => line.includes("|"))));
    } else {
      const first = lines[i++];
      const ends = (line) => !line.trim() || FENCE.test(line) || HEADING.test(line) || ITEM.test(line) || RULE.test(line);
      nodes.push(make("p", {}, ...inline([first, ...takeWhile((line) => !ends(line))].join("\n"), 0)));
    }
  }
  return nodes;
}

function listOf(lines, depth) {
  const [, indent, number] = ITEM.exec(lines[0]);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length) items.push([item[3]]);
    else items.at(-1).push(line.replace(new RegExp(`^\\s{0,${indent.length + 2}}`), ""));
  }
  const nodes = items.map(([first, ...rest]) => {
    const inner = rest.length ? blocks(rest, depth + 1) : [];
    return make("li", {}, ...inline(first, 0), ...inner);
  });
  return make(number ? "ol" : "ul", number ? { start: number } : {}, ...nodes);
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim(), 0));
  const row = (kind) => (line) => make("tr", {}, ...cells(line).map((cell) => make(kind, {}, ...cell)));
  const [head, , ...body] = lines;
  return make("table", {}, make("thead", {}, row("th")(head)), make("tbody", {}, ...body.map(row("td"))));
}

function codeBlock(language, code) {
  const copy = make("button", { type: "button", onclick: () => copyText(code, copy) }, words.copy);
  return make("div", { class: "block" }, make("div", {}, make("span", {}, language), copy), make("pre", { tabindex: "0" }, make("code", {}, code)));
}

/** Copies `text` to the clipboard and shows on the button whether that worked. */
export async function copyText(text, button) {
  const copied = (await navigator.clipboard?.writeText(text).then(() => true, () => false)) || copySelected(text, button);
  button.textContent = copied ? words.copied : words.notCopied;
  setTimeout(() => (button.textContent = words.copy), copied ? 1500 : 4000);
}

/** Copies a selection, since pages loaded over http have no clipboard API. */
function copySelected(text, button) {
  const field = make("textarea", { class: "away", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  } finally {
    field.remove();
    button.focus();
  }
}

// Code before everything else: nothing inside it is markup.
const INLINE = /(`+)([^`]|[^`][^]*?[^`])\1(?!`)|\*\*(\S(?:[^*]|\*(?!\*))*?)\*\*|\*([^\s*](?:[^*\n]*[^\s*])?)\*|\[([^\]\n]{1,300})\]\(([^\s()]{1,1000})\)/;

/** Returns the nodes of a line at nesting level `depth`. */
function inline(text, depth) {
  const nodes = [];
  while (text) {
    const found = depth < 6 ? INLINE.exec(text) : null;
    if (!found) {
      nodes.push(text);
      break;
    }
    const [all, , code, bold, italic, label, address] = found;
    nodes.push(text.slice(0, found.index));
    if (code !== undefined) nodes.push(make("code", {}, code));
    else if (bold !== undefined) nodes.push(make("strong", {}, ...inline(bold, depth + 1)));
    else if (italic !== undefined) nodes.push(make("em", {}, ...inline(italic, depth + 1)));
    else nodes.push(link(label, address) ?? all);
    text = text.slice(found.index + all.length);
  }
  return nodes.filter((node) => node !== "");
}

/** Accepts only links to web pages; any other link stays text. */
function link(label, address) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  if (url.protocol !== "https:" && url.protocol !== "http:") return null;
  return make("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, label);
}
