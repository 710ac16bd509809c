// Speaks to a running `nanochat serve` through the official `openai` package in a page of another origin, in a
// headless Chromium: three turns, one of them with an empty answer.
//
//     nanochat serve --cors-origin http://127.0.0.1:9000
//     npm install openai esbuild        # in a folder of its own, from which this is run
//     node …/scripts/clients/browser_client.mjs http://127.0.0.1:8000 9000 [KEY]

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [base = "http://127.0.0.1:8000", port = "9000", key = "none"] = process.argv.slice(2);
const { build } = createRequire(join(process.cwd(), "package.json"))("esbuild");

// What runs in the page.
const page = `
import OpenAI from "openai";
const lines = [];
const say = (...words) => lines.push(words.map((word) => (typeof word === "string" ? word : JSON.stringify(word))).join(" "));
const expect = (fits, what) => { if (!fits) throw new Error(what); };
async function talk() {
  const client = new OpenAI({ baseURL: ${JSON.stringify(`${base}/v1`)}, apiKey: ${JSON.stringify(key)}, dangerouslyAllowBrowser: true, maxRetries: 0 });
  const model = (await client.models.list()).data[0].id;
  say("model", model);
  const options = { model, temperature: 0, seed: 7, max_tokens: 24 };
  const messages = [{ role: "user", content: "Hello" }, { role: "assistant", content: "" }, { role: "user", content: "Who are you?" }];
  const second = await client.chat.completions.create({ ...options, messages });
  say("second turn", second.choices[0]);
  messages.push(second.choices[0].message, { role: "user", content: "What is 2+3?" });
  const third = await client.chat.completions.create({ ...options, messages });
  say("third turn", third.choices[0].message.content, third.usage);
  const chunks = [];
  let streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...options, messages, stream: true, stream_options: { include_usage: true } })) {
    chunks.push(chunk);
    streamed += chunk.choices[0]?.delta.content ?? "";
  }
  say("streamed", chunks.length, "chunks");
  expect(streamed === third.choices[0].message.content, "streamed: " + streamed);
  expect(chunks.at(-1).usage.total_tokens === third.usage.total_tokens, "usage");
  const helped = await client.chat.completions.stream({ ...options, messages }).finalContent();
  expect((helped ?? "") === streamed, "the package's own stream: " + helped);
  const text = await client.completions.create({ ...options, prompt: "The old town" });
  say("completion", text.choices[0].text);
  const refused = await client.chat.completions.create({ ...options, messages: [] }).then(() => null, (error) => error);
  expect(refused instanceof OpenAI.BadRequestError, "a page may read why it was refused: " + refused);
  say("BadRequestError", refused.message);
}
talk().then(() => say("all as it should be"), (error) => say("FAILED", String(error), String(error.cause ?? "")))
  .then(() => fetch("/said", { method: "POST", body: lines.join("\\n") }));
`;

const contents = { contents: page, resolveDir: process.cwd() };
const bundle = await build({ stdin: contents, bundle: true, format: "esm", platform: "browser", write: false });
const profile = mkdtempSync(join(tmpdir(), "browser-"));
const server = createServer((request, response) => {
  if (request.method === "POST") {
    let said = "";
    request.on("data", (piece) => (said += piece)).on("end", () => finish(said));
    return response.end();
  }
  const script = request.url === "/page.js";
  response.setHeader("content-type", script ? "text/javascript" : "text/html");
  response.end(script ? bundle.outputFiles[0].text : '<!doctype html><script type="module" src="page.js"></script>');
});
const quiet = ["quic", "background-networking", "component-update", "sync", "gpu"].map((what) => `--disable-${what}`);
const flags = ["--headless", "--no-sandbox", "--no-first-run", ...quiet, `--user-data-dir=${profile}`];
let chromium;
server.listen(Number(port), "127.0.0.1", () => {
  chromium = spawn("chromium", [...flags, `http://127.0.0.1:${port}/`], { stdio: "ignore" });
});
const patience = setTimeout(() => finish("FAILED: the page said nothing for two minutes"), 120_000);

function finish(said) {
  clearTimeout(patience);
  console.log(said);
  process.exitCode = said.includes("FAILED") ? 1 : 0;
  chromium.once("exit", () => rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }));
  chromium.kill();
  server.close();
  server.closeAllConnections();
}
