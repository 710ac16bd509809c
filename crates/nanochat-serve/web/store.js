// Conversations, kept in the browser. Each is a tree: an edit or a new answer is a sibling of what it replaces, and
// `at` names the leaf that is shown.

import { words } from "./words.js";

const KEY = "nanochat.chats";

// {id, title, changed, at, nodes: {id: {id, parent, role, parts: [{type, text}], …}}}
let chats = read();

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(found) ? found.filter((chat) => chat && chat.id && chat.nodes) : [];
  } catch {
    return []; // no storage, or something else's
  }
}

/** False: the oldest conversations had to go, or nothing can be kept. */
export function save() {
  for (let kept = chats.length; ; kept = Math.floor(kept / 2)) {
    try {
      localStorage.setItem(KEY, JSON.stringify(list().slice(0, kept)));
      return kept === chats.length;
    } catch {
      if (kept === 0) return false;
    }
  }
}

const freshId = () => Math.random().toString(36).slice(2, 10) + Date.now().toString(36);

export const list = () => [...chats].sort((a, b) => b.changed - a.changed);
export const find = (id) => chats.find((chat) => chat.id === id);

export function create() {
  const chat = { id: freshId(), title: "", changed: Date.now(), at: null, nodes: {} };
  chats.push(chat);
  return chat;
}

export function remove(id) {
  chats = chats.filter((chat) => chat.id !== id);
}

export function removeAll() {
  chats = [];
}

/** A new message after `parent`; it is shown. */
export function add(chat, parent, role, parts) {
  const node = { id: freshId(), parent, role, parts };
  chat.nodes[node.id] = node;
  chat.at = node.id;
  chat.changed = Date.now();
  if (!chat.title && role === "user") chat.title = textOf(node).slice(0, 60);
  return node;
}

/** From the first message to the last that is shown. */
export function path(chat) {
  const nodes = [];
  for (let node = chat.nodes[chat.at]; node; node = chat.nodes[node.parent]) nodes.unshift(node);
  return nodes;
}

/** The versions of a message, oldest first. */
export const siblings = (chat, node) => Object.values(chat.nodes).filter((other) => other.parent === node.parent);

/** Shows the newest end of the branch that `node` begins. */
export function show(chat, node) {
  for (let next = node; next; ) {
    chat.at = next.id;
    next = Object.values(chat.nodes).filter((other) => other.parent === next.id).pop();
  }
}

export const textOf = (node) => node.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
export const titleOf = (chat) => chat.title || words.newChat.replace("+ ", "");
