//! Starts a server for each test, with a small model made here, and sends plain HTTP over a socket.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nanochat::model::checkpoint;
use nanochat::model::config::GptConfig;
use nanochat::model::gpt::Gpt;
use nanochat_tensor::{Dtype, Rng, Tensor};
use nanochat_tokenizer::{Tokenizer, TrainOptions, train};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const CHAT: &str = "/v1/chat/completions";
pub const TEXT: &str = "/v1/completions";

/// Returns a tokenizer of bytes and the nine special tokens: 265 in all.
pub fn tokenizer() -> Tokenizer {
    train(["a"].iter(), &TrainOptions { vocab_size: 265, ..TrainOptions::default() }).unwrap()
}

/// Returns a model of two layers of random weights. Every answer depends on the whole prompt.
pub fn random_model() -> Gpt {
    let config = GptConfig {
        sequence_len: 512,
        vocab_size: 265,
        n_layer: 2,
        n_head: 2,
        n_kv_head: 2,
        n_embd: 64,
        ..GptConfig::from_depth(1, 265, 8).unwrap()
    };
    let mut stream = 0;
    let weight = |_: &str, shape: &[usize]| {
        stream += 1;
        let mut rng = Rng::new(&[11, stream]);
        let std = if shape[0] == 265 { 0.6 } else { 0.2 };
        Ok::<_, ()>(Tensor::new((0..shape.iter().product()).map(|_| std * rng.normal()).collect(), shape))
    };
    Gpt::from_weights(config, weight).unwrap()
}

/// Returns a model that follows each token by one certain other: `tokens`, in their order.
pub fn chain_model(tokens: &[u32], sequence_len: usize) -> Gpt {
    let (v, c) = (265, 320);
    let config = GptConfig {
        sequence_len,
        vocab_size: v,
        n_layer: 1,
        n_head: 1,
        n_kv_head: 1,
        n_embd: c,
        ..GptConfig::from_depth(1, 265, 8).unwrap()
    };
    let weight = |name: &str, shape: &[usize]| {
        let mut data = vec![0.0; shape.iter().product()];
        match name {
            "transformer.wte.weight" => (0..v).for_each(|id| data[id * c + id] = 1.0),
            "lm_head.weight" => {
                tokens.windows(2).for_each(|pair| data[pair[1] as usize * c + pair[0] as usize] = 9.0);
            }
            _ => {}
        }
        Ok::<_, ()>(Tensor::new(data, shape))
    };
    Gpt::from_weights(config, weight).unwrap()
}

/// Returns a model that calculates `1+2` with its tool and then says `ok`.
pub fn tool_model() -> Gpt {
    let tokenizer = tokenizer();
    let id = |name: &str| tokenizer.special(name).unwrap();
    let expression = tokenizer.encode("1+2");
    let begin =
        [vec![id("<|assistant_start|>"), id("<|python_start|>")], expression, vec![id("<|python_end|>")]];
    let end = [vec![id("<|output_end|>")], tokenizer.encode("ok"), vec![id("<|assistant_end|>")]];
    let (begin, end) = (begin.concat(), end.concat());
    // Two chains; the engine puts the tool's result between them.
    chain_model(&[begin, end].concat(), 128)
}

/// Returns a model that begins with markup and never stops.
pub fn endless_model() -> Gpt {
    let tokenizer = tokenizer();
    let start = tokenizer.special("<|assistant_start|>").unwrap();
    let text = tokenizer.encode("<img src=x>\nabdefhjk");
    let again = text[text.len() - 8];
    chain_model(&[vec![start], text, vec![again]].concat(), 4096)
}

pub struct Server {
    child: Child,
    pub address: String,
    folder: TempDir,
}

impl Server {
    pub fn start(model: &Gpt, flags: &str) -> Server {
        Server::with_keys(model, flags, None)
    }

    pub fn with_keys(model: &Gpt, flags: &str, keys: Option<&str>) -> Server {
        Server::with_variables(
            model,
            flags,
            &keys.map(|keys| ("NANOCHAT_API_KEYS", keys)).into_iter().collect::<Vec<_>>(),
        )
    }

    pub fn with_variables(model: &Gpt, flags: &str, variables: &[(&str, &str)]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let (path, log) = (folder.path().join("small"), folder.path().join("log"));
        checkpoint::write_folder(&path, model, &tokenizer(), Dtype::F32).unwrap();
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("nanochat"));
        command.args(["serve", "--port", "0", "-m"]).arg(&path).args(flags.split_whitespace());
        command.env_remove("NANOCHAT_API_KEYS").envs(variables.iter().copied());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").expect("the server says where it is").to_string();
        Server { child, address, folder }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn get(&self, path: &str) -> Response {
        Request::new("GET", path, "").send(self)
    }

    pub fn post(&self, path: &str, body: Value) -> Response {
        Request::new("POST", path, body.to_string()).send(self)
    }

    /// Sends a request that must succeed and returns its answer.
    #[track_caller]
    pub fn ask(&self, path: &str, body: Value) -> Value {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    /// Sends a request whose answer the caller reads.
    pub fn open(&self, path: &str, body: Value) -> TcpStream {
        let mut socket = self.connect();
        socket.write_all(&Request::new("POST", path, body.to_string()).bytes(self)).unwrap();
        socket
    }

    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket
    }

    #[track_caller]
    pub fn assert_well(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "the server has ended");
        assert_eq!(self.get("/ready").status, 200);
    }

    pub fn terminate(&self) {
        let line = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").arg("-c").arg(line).status().unwrap().success());
    }

    /// Returns how long `/health` takes.
    #[track_caller]
    pub fn health_takes(&self) -> Duration {
        let asked = Instant::now();
        assert_eq!(self.get("/health").status, 200);
        asked.elapsed()
    }

    /// Waits for the end and returns the exit code.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Returns the resident memory in MiB, if the system reports it.
    pub fn memory(&self) -> Option<u64> {
        let status =
            std::fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("status"));
        let line = status.ok()?.lines().find(|line| line.starts_with("VmRSS"))?.to_string();
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // fails if it has ended
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    left_out: Option<&'static str>,
    body: Vec<u8>,
}

impl Request {
    pub fn new(method: &str, path: &str, body: impl Into<Vec<u8>>) -> Request {
        let (method, path, body) = (method.into(), path.into(), body.into());
        Request { method, path, headers: Vec::new(), left_out: None, body }
    }

    /// Replaces a default header.
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Leaves out a default header.
    pub fn without(mut self, name: &'static str) -> Request {
        self.left_out = Some(name);
        self
    }

    fn bytes(&self, server: &Server) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        let length = self.body.len().to_string();
        let usual = [
            ("host", server.address.as_str()),
            ("connection", "close"),
            ("content-type", "application/json"),
            ("content-length", &length),
        ];
        let usual = usual.into_iter().filter(|(name, _)| {
            self.left_out != Some(*name) && self.headers.iter().all(|(own, _)| own != name)
        });
        for (name, value) in usual.chain(self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()))) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }

    pub fn send(&self, server: &Server) -> Response {
        let mut socket = server.connect();
        // A server that has refused the request may close before it has read everything.
        let _ = socket.write_all(&self.bytes(server));
        Response::read(socket)
    }
}

#[derive(Debug, Default)]
pub struct Response {
    /// The status; 0 if the connection was closed without a response.
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn read(mut socket: TcpStream) -> Response {
        let mut bytes = Vec::new();
        let _ = socket.read_to_end(&mut bytes); // keeps what arrived before a reset
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Response::default();
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head[9..12].parse().unwrap();
        let body = &bytes[end + 4..];
        let body = if head.contains("transfer-encoding: chunked") { dechunked(body) } else { body.to_vec() };
        Response { status, head, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("answers are UTF-8, in every chunk")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text()).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Returns the JSON of every event, and whether the stream ended properly.
    pub fn events(&self) -> (Vec<Value>, bool) {
        let text = self.text();
        let data: Vec<&str> = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        let events = data.iter().filter(|data| **data != "[DONE]");
        let events = events.map(|data| serde_json::from_str(data).unwrap_or(json!({"cut": data})));
        (events.collect(), data.last() == Some(&"[DONE]"))
    }

    /// Returns the text of a streamed chat.
    pub fn streamed(&self) -> String {
        let (events, _) = self.events();
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
    }
}

fn dechunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let length =
            std::str::from_utf8(&bytes[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(length) = length.filter(|length| *length > 0 && end + 4 + length <= bytes.len()) else {
            break;
        };
        whole.extend_from_slice(&bytes[end + 2..end + 2 + length]);
        bytes = &bytes[end + 4 + length..];
    }
    whole
}

pub fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// Whether the slow tests are enabled. A slow test that is not prints so and passes.
pub fn slow(test: &str) -> bool {
    let asked = std::env::var("NANOCHAT_SLOW").is_ok_and(|value| value == "1");
    if !asked {
        eprintln!("{test} was skipped: it runs with NANOCHAT_SLOW=1");
    }
    asked
}
