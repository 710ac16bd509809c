// The page: the open conversation, the running answer, and the actions of keys and buttons.

import * as api from "./api.js";
import { byId, fitHeight, isSendKey, make } from "./dom.js";
import { fill, message } from "./messages.js";
import * as settings from "./settings.js";
import * as store from "./store.js";
import { translate, words } from "./words.js";

const [input, log] = [byId("input"), byId("messages")];

/** The conversation on the screen; null for a new one without messages. */
let open = null;

/** The running answer: {chat, node, bubble, abort}. */
let running = null;

/** Whether the page is being left: an answer interrupted by that is unfinished, not an error. */
let leaving = false;

/** The milliseconds between two saves of a running answer. */
const STORE_EVERY = 1000;

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
  const deleted = store.listDeleted();
  byId("deleted").hidden = deleted.length === 0;
  byId("deleted-count").textContent = `${words.deleted} (${deleted.length})`;
  const restore = (chat) => ({ class: "open", title: words.restore, onclick: () => restoreChat(chat) });
  const names = deleted.map((chat) => make("div", { class: "chat" }, make("button", restore(chat), `↩ ${store.titleOf(chat)}`)));
  byId("deleted-chats").replaceChildren(...names);
  byId("erase-deleted").textContent = words.erase;
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
    keep(chat);
    draw();
  },
});

function say(text) {
  if (running || !text.trim()) return;
  open ??= store.create();
  store.add(open, open.at, "user", [{ type: "text", text: text.trim() }]);
  answer(open);
}

/** Streams an answer to the last message of `chat`. */
async function answer(chat) {
  const { messages, dropped } = api.messagesOf(store.path(chat));
  const node = store.add(chat, chat.at, "assistant", []);
  if (dropped) node.dropped = true;
  const mine = { chat, node, bubble: null, abort: new AbortController(), drawing: false };
  running = mine;
  keep(chat);
  draw();
  status(words.answering);
  const storing = setInterval(() => keep(chat), STORE_EVERY);
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
    else if (!leaving) node.error = error.message;
    if (error.message === words.wantsKey) settings.open();
  }
  clearInterval(storing);
  if (running === mine) running = null;
  const kept = keep(chat);
  status(node.error ?? (kept ? words.answered : words.full));
  if (chat === open) draw();
  else drawComposer();
}

function append(parts, delta) {
  const part = delta.tool ?? { type: "text", text: delta.content };
  const last = parts.at(-1);
  if (last?.type === part.type) last.text += part.text;
  else parts.push({ type: part.type, text: part.text });
}

/** Draws an answer at most once per frame, and does not scroll a user who has scrolled up. */
function drawSoon(mine) {
  if (mine.drawing) return;
  mine.drawing = true;
  requestAnimationFrame(() => {
    mine.drawing = false;
    if (running !== mine || !mine.bubble?.isConnected) return;
    const follows = isAtEnd();
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
  const kept = store.setDeleted(chat, Date.now());
  if (open === chat) open = null;
  rememberOpen();
  draw();
  status(kept ? words.deletedOne : words.full);
  const undo = () => restoreChat(chat);
  byId("status").append(" ", make("button", { type: "button", class: "link", onclick: undo }, words.restore));
}

function restoreChat(chat) {
  const kept = store.setDeleted(chat, undefined);
  openChat(chat);
  status(kept ? "" : words.full);
}

function eraseDeleted() {
  if (byId("erase-deleted").textContent !== words.sureErase) {
    byId("erase-deleted").textContent = words.sureErase;
    return;
  }
  store.erase(store.listDeleted());
  drawChats();
  status("");
}

function rememberOpen() {
  history.replaceState(null, "", open ? `#${open.id}` : "#");
}

/** Whether `chat` is stored now. Nothing is deleted to make room: the user decides that. */
function keep(chat) {
  rememberOpen();
  const kept = store.save(chat);
  if (!kept) status(words.full);
  return kept;
}

/** Called when another tab has stored or erased the conversation `id`. */
function changedElsewhere(id) {
  if (open && !store.find(open.id) && running?.chat !== open) open = null;
  const mine = open === null || open.id === id;
  const editing = document.querySelector(".editor") !== null;
  if (!mine || editing || running?.chat === open) return drawChats();
  const [at, follows] = [log.scrollTop, isAtEnd()];
  draw();
  if (!follows) log.scrollTop = at;
}

const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;

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
  byId("erase-deleted").addEventListener("click", eraseDeleted);
  store.listen(changedElsewhere);
  addEventListener("pagehide", () => {
    leaving = true;
    if (running) store.save(running.chat);
  });
  addEventListener("pageshow", () => (leaving = false));
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
  store.erase([...store.list(), ...store.listDeleted()]);
  open = null;
  rememberOpen();
  draw();
});
byId("settings").addEventListener("close", showModel);
listen();
open = store.find(location.hash.slice(1)) ?? null;
draw();
showModel();
