// The page: which conversation is open, what is being answered, and what the keys and buttons do.

import * as api from "./api.js";
import { byId, fitHeight, isSendKey, make } from "./dom.js";
import { fill, message } from "./messages.js";
import * as settings from "./settings.js";
import * as store from "./store.js";
import { translate, words } from "./words.js";

const [input, log] = [byId("input"), byId("messages")];

/** The conversation on the screen; null: a new one that has no message yet. */
let open = null;

/** The answer under way: {chat, node, bubble, abort}. */
let running = null;

function draw() {
  const nodes = open ? store.path(open) : [];
  const drawn = nodes.map((node) => {
    const versions = store.siblings(open, node);
    const isRunning = running?.node === node;
    const element = message(node, versions, isRunning ? null : actsOn(open, node));
    if (isRunning) running.bubble = element.querySelector(".bubble");
    return element;
  });
  log.replaceChildren(make("div", { class: "column" }, ...(drawn.length ? drawn : [welcome()])));
  log.scrollTop = log.scrollHeight;
  const title = open ? store.titleOf(open) : words.newChat.replace("+ ", "");
  byId("title").textContent = title;
  document.title = open ? `${title} – nanochat` : "nanochat";
  drawChats();
  drawComposer();
}

function drawChats() {
  const rows = store.list().map((chat) => {
    const current = chat === open;
    const row = make("div", { class: current ? "chat current" : "chat" });
    const show = { class: "open", "aria-current": current ? "page" : null, onclick: () => openChat(chat) };
    const name = store.titleOf(chat);
    const remove = { class: "delete", "aria-label": `${words.remove}: ${name}`, onclick: () => removeChat(chat) };
    row.append(make("button", show, name), make("button", remove, "×"));
    return row;
  });
  byId("chats").replaceChildren(...rows);
}

function drawComposer() {
  byId("send").hidden = running !== null;
  byId("stop").hidden = running === null;
  byId("send").disabled = !input.value.trim();
}

function welcome() {
  const idea = (text) => make("button", { type: "button", onclick: () => say(text) }, text);
  return make(
    "div",
    { class: "welcome" },
    make("img", { src: "icon.svg", alt: "", width: "48", height: "48" }),
    make("h2", {}, words.welcome),
    make("p", {}, words.welcomeText),
    make("div", { class: "ideas" }, ...words.ideas.map(idea)),
  );
}

const actsOn = (chat, node) => ({
  edit: (text) => {
    stop();
    store.add(chat, node.parent, "user", [{ type: "text", text }]);
    answer(chat);
  },
  regenerate: () => {
    stop();
    chat.at = node.parent;
    answer(chat);
  },
  show: (version) => {
    store.show(chat, version);
    keep();
    draw();
  },
});

function say(text) {
  if (running || !text.trim()) return;
  open ??= store.create();
  store.add(open, open.at, "user", [{ type: "text", text: text.trim() }]);
  answer(open);
}

/** What the server takes of a conversation: 8,000 characters a message, 32,000 in all, no answer without a word. */
function withinLimits(nodes) {
  const messages = [];
  for (const node of nodes) {
    const said = node.parts.map((part) => part.text).join("");
    if (!said.trim()) messages.pop(); // nor the question to it
    else messages.push({ role: node.role, content: [...said].length > 8000 ? said.slice(0, 8000) : node.parts });
  }
  const length = (message) => (typeof message.content === "string" ? message.content : message.content.map((part) => part.text).join("")).length;
  while (messages.length > 2 && messages.reduce((sum, message) => sum + length(message), 0) > 28000) messages.splice(0, 2);
  return messages;
}

/** Answers the last message of `chat`, as it comes. */
async function answer(chat) {
  const messages = withinLimits(store.path(chat));
  const node = store.add(chat, chat.at, "assistant", []);
  const mine = { chat, node, bubble: null, abort: new AbortController(), drawing: false };
  running = mine;
  draw();
  status(words.answering);
  const began = performance.now();
  try {
    const result = await api.answer(messages, mine.abort.signal, (delta) => {
      if (delta.dropped_messages) node.dropped = true;
      if (!delta.content && !delta.tool) return;
      append(node.parts, delta);
      drawSoon(mine);
    });
    node.finish = result.finish;
    node.tokens = result.tokens;
    node.rate = Math.round((10 * 1000 * result.tokens) / Math.max(performance.now() - began, 1)) / 10;
  } catch (error) {
    if (error.name === "AbortError") node.finish = "stopped";
    else node.error = error.message;
    if (error.message === words.wantsKey) settings.open();
  }
  if (running === mine) running = null;
  keep();
  status(node.error ?? words.answered);
  if (chat === open) draw();
  else drawComposer();
}

function append(parts, delta) {
  const part = delta.tool ?? { type: "text", text: delta.content };
  const last = parts.at(-1);
  if (last?.type === part.type) last.text += part.text;
  else parts.push({ type: part.type, text: part.text });
}

/** Once a frame at most; whoever has scrolled up stays there. */
function drawSoon(mine) {
  if (mine.drawing) return;
  mine.drawing = true;
  requestAnimationFrame(() => {
    mine.drawing = false;
    if (running !== mine || !mine.bubble?.isConnected) return;
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    fill(mine.bubble, mine.node, true);
    if (follows) log.scrollTop = log.scrollHeight;
  });
}

function stop() {
  running?.abort.abort();
  running = null;
}

function openChat(chat) {
  open = chat;
  toggleSidebar(false);
  rememberOpen();
  draw();
  input.focus();
}

function removeChat(chat) {
  if (running?.chat === chat) stop();
  store.remove(chat.id);
  if (open === chat) open = null;
  keep();
  draw();
}

function rememberOpen() {
  history.replaceState(null, "", open ? `#${open.id}` : "#");
}

function keep() {
  rememberOpen();
  if (!store.save()) status(words.full);
}

function status(text) {
  byId("status").textContent = text === words.answering || text === words.answered ? "" : text;
  // Answers themselves are not read out while they change; this says when they are there.
  log.setAttribute("aria-busy", String(running !== null));
  if (text === words.answered) byId("status").setAttribute("aria-label", text);
}

function toggleSidebar(shown) {
  byId("sidebar").classList.toggle("open", shown);
  byId("scrim").hidden = !shown;
  byId("toggle-sidebar").setAttribute("aria-expanded", String(shown));
}

function send() {
  if (running || !input.value.trim()) return;
  const text = input.value;
  input.value = "";
  fitHeight(input);
  say(text);
}

function listen() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  input.addEventListener("keydown", (event) => {
    if (!isSendKey(event)) return;
    event.preventDefault();
    send();
  });
  input.addEventListener("input", () => {
    fitHeight(input);
    drawComposer();
  });
  byId("stop").addEventListener("click", stop);
  byId("new-chat").addEventListener("click", () => openChat(null));
  byId("toggle-sidebar").addEventListener("click", () => toggleSidebar(!byId("sidebar").classList.contains("open")));
  byId("scrim").addEventListener("click", () => toggleSidebar(false));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing || byId("settings").open) return;
    toggleSidebar(false);
    stop();
  });
}

async function showModel() {
  const model = await api.model();
  byId("model").textContent = model ? model.id : "";
}

translate();
settings.setUp(() => {
  stop();
  store.removeAll();
  open = null;
  keep();
  draw();
});
byId("settings").addEventListener("close", showModel);
listen();
open = store.find(location.hash.slice(1)) ?? null;
draw();
showModel();
