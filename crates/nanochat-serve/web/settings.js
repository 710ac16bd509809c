// Settings: kept in the browser, changed in a dialog.

import { byId } from "./dom.js";
import { words } from "./words.js";

const KEY = "nanochat.settings";
const DEFAULTS = { temperature: 0.8, topK: 50, maxTokens: 512, system: "", theme: "auto", apiKey: "" };

export const settings = { ...DEFAULTS, ...read() };

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function applyTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = settings.theme === "auto" ? (dark ? "dark" : "light") : settings.theme;
  document.documentElement.dataset.theme = theme;
}

/** `deleteAll` is called after the user has confirmed. */
export function setUp(deleteAll) {
  applyTheme();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
  for (const [name, value] of Object.entries(settings)) {
    const field = byId(name);
    if (!field) continue;
    const output = byId(`${name}-value`);
    const show = () => output && (output.textContent = field.value);
    field.value = value;
    show();
    field.addEventListener("input", () => {
      settings[name] = typeof DEFAULTS[name] === "number" ? Number(field.value) : field.value;
      show();
      applyTheme();
      try {
        localStorage.setItem(KEY, JSON.stringify(settings));
      } catch {
        // Without storage they hold until the page is closed.
      }
    });
  }
  const button = byId("delete-all");
  byId("open-settings").addEventListener("click", open);
  button.addEventListener("click", () => {
    if (button.textContent !== words.sureAll) {
      button.textContent = words.sureAll;
      return;
    }
    deleteAll();
    byId("settings").close();
  });
}

export function open() {
  byId("delete-all").textContent = words.deleteAll;
  byId("settings").showModal();
}
