// Conversations, stored in the browser. Each has its own key, so that a tab writes only what it changes, and the messages
// of two tabs are merged. A conversation is a tree: an edit or a new answer is a sibling of the message it replaces, and `at`
// is the id of the leaf that is shown.

import { words } from "./words.js";

const PREFIX = "nanochat.chat.";
/** The key of the single list in which older versions of this page stored all conversations. */
const OLD = "nanochat.chats";

// id -> {id, title, changed, deleted?, at, nodes: {id: {id, parent, role, parts: [{type, text}], …}}}
const chats = new Map();

function parse(text) {
  try {
    const chat = JSON.parse(text);
    return chat && typeof chat.id === "string" && chat.nodes ? chat : null;
  } catch {
    return null; // something else's
  }
}

function load() {
  try {
    for (const key of Object.keys(localStorage)) {
      const chat = key.startsWith(PREFIX) ? parse(localStorage.getItem(key)) : null;
      if (chat) chats.set(chat.id, chat);
    }
    takeOver(JSON.parse(localStorage.getItem(OLD)));
  } catch {
    // No storage: conversations live until the page is closed.
  }
}

/** Moves each conversation of the old list to its own key. If there is no room for both, the list shrinks meanwhile. */
function takeOver(list) {
  if (!Array.isArray(list)) return;
  const left = list.filter((chat) => chat?.id && chat.nodes);
  while (left.length) {
    const chat = left.pop();
    chats.set(chat.id, chat);
    if (save(chat)) continue;
    localStorage.setItem(OLD, JSON.stringify(left));
    if (!save(chat)) return localStorage.setItem(OLD, JSON.stringify([...left, chat]));
  }
  localStorage.removeItem(OLD);
}

/** Stores `chat`, merged with what other tabs stored of it. Returns false if the storage is full or blocked; it is unchanged then. */
export function save(chat) {
  try {
    const stored = parse(localStorage.getItem(PREFIX + chat.id));
    if (stored) join(chat, stored);
    localStorage.setItem(PREFIX + chat.id, JSON.stringify(chat));
    return true;
  } catch {
    return false;
  }
}

/** Adds to `mine` what `theirs` has; of a message in both, the one with more text is kept. */
function join(mine, theirs) {
  const size = (node) => JSON.stringify(node).length;
  for (const node of Object.values(theirs.nodes)) {
    const known = mine.nodes[node.id];
    if (!known) mine.nodes[node.id] = node;
    else if (size(node) > size(known)) Object.assign(known, node);
  }
  if (theirs.changed <= mine.changed) return;
  const { title, changed, deleted, at } = theirs;
  Object.assign(mine, { title, changed, deleted, at });
}

/** Calls `changed` with the id of each conversation that another tab stores or erases. */
export function listen(changed) {
  addEventListener("storage", ({ key, newValue }) => {
    if (!key?.startsWith(PREFIX)) return;
    const id = key.slice(PREFIX.length);
    const theirs = parse(newValue);
    if (!theirs) chats.delete(id);
    else if (chats.has(id)) join(chats.get(id), theirs);
    else chats.set(id, theirs);
    changed(id);
  });
}

const freshId = () => Math.random().toString(36).slice(2, 10) + Date.now().toString(36);
const newestFirst = (found) => found.sort((a, b) => b.changed - a.changed);

export const list = () => newestFirst([...chats.values()].filter((chat) => !chat.deleted));
export const listDeleted = () => newestFirst([...chats.values()].filter((chat) => chat.deleted));
/** Returns a conversation that exists and is not deleted. */
export const find = (id) => (chats.get(id)?.deleted ? undefined : chats.get(id));

export function create() {
  const chat = { id: freshId(), title: "", changed: Date.now(), at: null, nodes: {} };
  chats.set(chat.id, chat);
  return chat;
}

/** Deletes or restores a conversation. Like `save`, returns whether that is stored. */
export function setDeleted(chat, deleted) {
  chat.deleted = deleted;
  chat.changed = Date.now();
  return save(chat);
}

/** Erases conversations permanently. */
export function erase(forgotten) {
  for (const chat of forgotten) {
    chats.delete(chat.id);
    try {
      localStorage.removeItem(PREFIX + chat.id);
    } catch {
      // Without storage nothing was kept.
    }
  }
}

/** Adds a message after `parent` and shows it. */
export function add(chat, parent, role, parts) {
  const node = { id: freshId(), parent, role, parts };
  chat.nodes[node.id] = node;
  chat.at = node.id;
  chat.changed = Date.now();
  if (!chat.title && role === "user") chat.title = [...textOf(node)].slice(0, 60).join("");
  return node;
}

/** Returns the shown messages, from first to last. */
export function path(chat) {
  const nodes = [];
  for (let node = chat.nodes[chat.at]; node; node = chat.nodes[node.parent]) nodes.unshift(node);
  return nodes;
}

/** Returns the versions of a message, oldest first. */
export const siblings = (chat, node) => Object.values(chat.nodes).filter((other) => other.parent === node.parent);

/** Shows the newest leaf of the branch that begins with `node`. */
export function show(chat, node) {
  for (let next = node; next; ) {
    chat.at = next.id;
    next = Object.values(chat.nodes).filter((other) => other.parent === next.id).pop();
  }
  chat.changed = Date.now();
}

export const textOf = (node) => node.parts.filter((part) => part.type === "text").map((part) => part.text).join("");

/** Returns the text of a message, with calculator calls as separate lines: `1+2 = 3`. */
export function wholeTextOf(node) {
  const shown = { text: (text) => text, python: (text) => `\n${text}`, python_output: (text) => ` = ${text}\n` };
  return node.parts.map((part) => shown[part.type]?.(part.text) ?? part.text).join("").trim();
}

export const titleOf = (chat) => chat.title || words.newChat.replace("+ ", "");

load();
