// The server: one streaming request.

import { settings } from "./settings.js";
import { words } from "./words.js";

const headers = () => (settings.apiKey ? { authorization: `Bearer ${settings.apiKey}` } : {});

/** Returns {id, max_model_len}, or null if the server is unreachable or requires a key. */
export async function model() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    return response.ok ? (await response.json()).data[0] : null;
  } catch {
    return null;
  }
}

/** The most characters that are sent; a larger body would be refused, and a model sees far less. */
const MOST_CHARACTERS = 100_000;

/** Returns the messages to send: without empty answers, and without the oldest ones beyond the most characters. */
export function messagesOf(nodes) {
  const messages = [];
  for (const { role, parts } of nodes) {
    if (parts.some((part) => part.text.trim())) messages.push({ role, content: parts });
    else messages.pop(); // nor the question to it
  }
  const length = (message) => message.content.reduce((sum, part) => sum + part.text.length, 0);
  const all = () => messages.reduce((sum, message) => sum + length(message), 0);
  let dropped = false;
  while (messages.length > 2 && all() > MOST_CHARACTERS) dropped = messages.splice(0, 2).length > 0;
  return { messages, dropped };
}

/**
 * Asks for an answer. `onDelta` gets {content} or {tool: {type, text}} as they come; resolves to
 * {finish, tokens} and throws an Error whose message a person can read.
 */
export async function answer(messages, signal, onDelta) {
  const system = settings.system.trim() ? [{ role: "system", content: settings.system.trim() }] : [];
  const body = {
    messages: [...system, ...messages],
    temperature: settings.temperature,
    top_k: settings.topK,
    max_tokens: settings.maxTokens,
    truncation: "auto",
    stream: true,
    stream_options: { include_usage: true },
  };
  let response;
  try {
    const request = { method: "POST", signal, body: JSON.stringify(body) };
    response = await fetch("v1/chat/completions", {
      ...request,
      headers: { ...headers(), "content-type": "application/json" },
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(words.unreachable);
  }
  if (!response.ok) {
    if (response.status === 401) throw new Error(words.wantsKey);
    const said = await response.json().catch(() => null);
    throw new Error(said?.error?.message ?? `${response.status}`);
  }
  const result = { finish: null, tokens: 0 };
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    if (event.usage) result.tokens = event.usage.completion_tokens;
    const choice = event.choices?.[0];
    if (!choice) continue;
    onDelta(choice.delta);
    result.finish = choice.finish_reason ?? result.finish;
  }
  if (!result.finish) throw new Error(words.broken);
  return result;
}

/** Yields the JSON of each `data:` line. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: {")) yield JSON.parse(line.slice(6));
    }
  }
}
