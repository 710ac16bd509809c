//! Controls a headless Chromium over its DevTools protocol.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use crate::common::*;

/// A browser tab. The first one starts the browser and ends it.
pub struct Browser {
    process: Option<(Child, TempDir)>,
    address: String,
    socket: WebSocket<TcpStream>,
    calls: u64,
    /// Exceptions of the page, and violations of its content security policy.
    pub complaints: Vec<String>,
}

impl Browser {
    pub fn start(language: &str) -> Browser {
        let profile = tempfile::tempdir().unwrap();
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-port=0",
            "about:blank",
        ];
        let start = |name: &&str| {
            let mut command = Command::new(name);
            command.args(flags).arg(format!("--user-data-dir={}", profile.path().display()));
            command.args([format!("--lang={language}"), format!("--accept-lang={language}")]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        };
        let child =
            names.iter().find_map(start).expect("the slow tests need Chromium: apt-get install chromium");
        let port = wait(|| port(profile.path())).expect("Chromium says where it listens");
        let address = format!("127.0.0.1:{port}");
        let page = wait(|| page(&address)).expect("Chromium has a page");
        Browser::attach(Some((child, profile)), address, &page)
    }

    /// Opens another tab, which shares cookies and storage with this one.
    pub fn tab(&mut self) -> Browser {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"}));
        let page = format!("ws://{}/devtools/page/{}", self.address, target["targetId"].as_str().unwrap());
        Browser::attach(None, self.address.clone(), &page)
    }

    fn attach(process: Option<(Child, TempDir)>, address: String, page: &str) -> Browser {
        let stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (socket, _) = tungstenite::client(page, stream).unwrap();
        let mut browser = Browser { process, address, socket, calls: 0, complaints: Vec::new() };
        for domain in ["Runtime", "Page", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let call = json!({"id": self.calls, "method": method, "params": params});
        self.socket.send(Message::text(call.to_string())).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().unwrap() else { continue };
            let mut message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == self.calls {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            let level = &message["params"]["entry"]["level"];
            if message["method"] == "Runtime.exceptionThrown"
                || (message["method"] == "Log.entryAdded" && level == "error")
            {
                self.complaints.push(text.to_string());
            }
        }
    }

    /// Evaluates an expression in the page.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    #[track_caller]
    pub fn text(&mut self, selector: &str) -> String {
        let expression =
            format!("[...document.querySelectorAll({})].at(-1)?.textContent ?? ''", json!(selector));
        self.value(&expression).as_str().unwrap().to_string()
    }

    #[track_caller]
    pub fn wait_for(&mut self, expression: &str) {
        let started = Instant::now();
        while self.value(&format!("!!({expression})")) != json!(true) {
            assert!(started.elapsed() < Duration::from_secs(30), "never: {expression}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    #[track_caller]
    pub fn click(&mut self, selector: &str) {
        self.value(&format!("[...document.querySelectorAll({})].at(-1).click()", json!(selector)));
    }

    /// Opens a page and waits until it is drawn.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
        self.wait_for("document.readyState === 'complete' && document.querySelector('#messages > *')");
    }

    pub fn reload(&mut self) {
        self.value("window.old = true");
        self.call("Page.reload", json!({}));
        self.wait_for("!window.old && document.querySelector('#messages > *')");
    }

    /// Types a text like a keyboard.
    pub fn type_text(&mut self, text: &str) {
        self.value("document.getElementById('input').focus()");
        self.call("Input.insertText", json!({"text": text}));
    }

    pub fn press(&mut self, key: &str, code: u32) {
        for kind in ["keyDown", "keyUp"] {
            let text = if key == "Enter" && kind == "keyDown" { "\r" } else { "" };
            let params =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", params);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait<T>(mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        if let Some(found) = found() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}

fn port(profile: &Path) -> Option<u16> {
    std::fs::read_to_string(profile.join("DevToolsActivePort")).ok()?.lines().next()?.parse().ok()
}

/// Returns the address of the first page's socket.
fn page(address: &str) -> Option<String> {
    let mut socket = TcpStream::connect(address).ok()?;
    let request = format!("GET /json HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    std::io::Write::write_all(&mut socket, request.as_bytes()).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let pages: Value = serde_json::from_slice(&Response::read(socket).body).ok()?;
    let page = pages.as_array()?.iter().find(|page| page["type"] == "page")?;
    Some(page["webSocketDebuggerUrl"].as_str()?.to_string())
}
