//! Tests downloads from a misbehaving local server.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ring::digest;

use super::checksum::Checksum;
use super::file::{Remote, fetch};
use super::http::{Failure, HttpClient};
use super::hub::{RepoKind, first_shards, list, parse_repo};
use super::*;

/// One received request: its path, and its headers in lower case.
#[derive(Clone, Debug)]
struct SeenRequest {
    path: String,
    headers: HashMap<String, String>,
}

impl SeenRequest {
    /// Returns the first byte of the requested range.
    fn from(&self) -> Option<usize> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

struct TestServer {
    url: String,
    requests: Arc<Mutex<Vec<SeenRequest>>>,
}

/// Answers the n-th request (from 0) with `answer`, one connection each, until the test process ends.
fn serve(answer: impl Fn(usize, &SeenRequest, &mut TcpStream) + Send + Sync + 'static) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, answer, count) = (requests.clone(), Arc::new(answer), AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let n = count.fetch_add(1, Ordering::SeqCst);
            let (seen, answer) = (seen.clone(), answer.clone());
            std::thread::spawn(move || handle(n, stream, &seen, &*answer));
        }
    });
    TestServer { url, requests }
}

fn handle(
    n: usize,
    mut stream: TcpStream,
    seen: &Mutex<Vec<SeenRequest>>,
    answer: &impl Fn(usize, &SeenRequest, &mut TcpStream),
) {
    let Some(request) = read_head(&mut BufReader::new(stream.try_clone().unwrap())) else { return };
    seen.lock().unwrap().push(request.clone());
    answer(n, &request, &mut stream);
}

fn read_head(from: &mut impl BufRead) -> Option<SeenRequest> {
    let mut lines = from.lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1).unwrap_or_default().to_string();
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_string()))
    });
    Some(SeenRequest { path, headers: headers.collect() })
}

/// Sends a whole response; write errors are ignored.
fn say(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// Answers like a correct server: the whole content, or the requested range.
fn give(stream: &mut TcpStream, request: &SeenRequest, content: &[u8]) {
    match request.from() {
        None => say(stream, "200 OK", "ETag: \"v1\"\r\n", content),
        Some(from) => {
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
            say(stream, "206 Partial Content", &range, &content[from..]);
        }
    }
}

/// Announces all of `content` from the requested start, sends `n` bytes and closes the connection.
fn break_off(stream: &mut TcpStream, request: &SeenRequest, content: &[u8], n: usize) {
    let from = request.from().unwrap_or(0);
    let status = match request.from() {
        None => "200 OK\r\nETag: \"v1\"".to_string(),
        Some(_) => format!(
            "206 Partial Content\r\nContent-Range: bytes {from}-{}/{}",
            content.len() - 1,
            content.len()
        ),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", content.len() - from);
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content[from..from + n]));
}

fn content() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 8).to_le_bytes()).collect()
}

fn sha256(bytes: &[u8]) -> Checksum {
    let digest = digest::digest(&digest::SHA256, bytes);
    Checksum::Sha256(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn client(server: &TestServer) -> HttpClient {
    client_with(server, None, Proxies::default())
}

fn client_with(server: &TestServer, token: Option<&str>, proxies: Proxies) -> HttpClient {
    let times = [Duration::from_millis(300), Duration::from_millis(1)];
    HttpClient::new(&server.url, token.map(String::from), proxies, times).unwrap()
}

/// Downloads `/file` from the server; returns the file's contents afterwards, or the error's sentence.
fn download(server: &TestServer, size: Option<u64>, checksum: Option<Checksum>) -> Result<Vec<u8>, String> {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("sub/file");
    let remote = Remote { url: format!("{}/file", server.url), size, checksum };
    let progress = ProgressBar::hidden();
    match fetch(&client(server), &remote, &path, &progress) {
        Ok(()) => {
            let names: Vec<_> =
                fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["file"], "something is left beside it");
            let bytes = fs::read(&path).unwrap();
            assert_eq!(progress.position(), bytes.len() as u64);
            Ok(bytes)
        }
        Err(error) => {
            assert!(!path.exists(), "a file that failed has its name");
            Err(format!("{error:#}"))
        }
    }
}

#[test]
fn resets_breaks_and_errors_that_pass_end_well() {
    let whole = content();
    let served = whole.clone();
    let server = serve(move |n, request, stream| match n {
        0 => {} // closes the connection without a response
        1 => say(stream, "503 Service Unavailable", "", b""),
        2 => say(stream, "429 Too Many Requests", "Retry-After: 0\r\n", b"slow down"),
        3 => break_off(stream, request, &served, 500_000),
        4 => break_off(stream, request, &served, 0),
        5 => break_off(stream, request, &served, 300_001),
        _ => give(stream, request, &served),
    });
    assert!(download(&server, Some(whole.len() as u64), Some(sha256(&whole))).unwrap() == whole);
    let from: Vec<Option<usize>> = server.requests.lock().unwrap().iter().map(SeenRequest::from).collect();
    assert_eq!(from[4..], [Some(500_000), Some(500_000), Some(800_001)]);
}

#[test]
fn what_is_left_beside_a_finished_file_goes_and_another_process_is_let_be() {
    let server = serve(|_, request, stream| give(stream, request, b"whole"));
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let get = || {
        let remote = Remote { url: format!("{}/file", server.url), size: None, checksum: None };
        fetch(&client(&server), &remote, &at("file"), &ProgressBar::hidden())
            .map_err(|error| error.to_string())
    };
    let held = fs::File::create(at("file.part")).unwrap();
    held.lock().unwrap();
    assert!(get().unwrap_err().contains("being downloaded by another process"));
    fs::write(at("file"), "whole").unwrap();
    fs::write(at("file.part.version"), "v1").unwrap();
    get().unwrap();
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 3, "what a living process holds stays");
    held.unlock().unwrap();
    get().unwrap();
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    // A part with bytes in it may belong to another program.
    fs::write(at("file.part"), "mine").unwrap();
    get().unwrap();
    assert_eq!(fs::read(at("file.part")).unwrap(), b"mine");
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn without_ranges_or_sizes_it_begins_again() {
    let whole = content();
    let served = whole.clone();
    let server = serve(move |n, request, stream| match n {
        0 => break_off(stream, request, &served, 400_000),
        _ => say(stream, "200 OK", "", &served), // does not support ranges
    });
    assert!(download(&server, None, None).unwrap() == whole);
    // The file has changed since the part was written: the server sends all of the new one.
    let (old, new) = (vec![1; 1_000], whole.clone());
    let server = serve(move |n, request, stream| match n {
        0 => break_off(stream, request, &old, 600),
        _ => {
            assert_eq!(request.headers["if-range"], "\"v1\"");
            say(stream, "200 OK", "ETag: \"v2\"\r\n", &new);
        }
    });
    assert!(download(&server, None, None).unwrap() == whole);
    let served = whole.clone();
    let server = serve(move |_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in served.chunks(70_000) {
            let _ = write!(stream, "{:x}\r\n", chunk.len());
            let _ = stream.write_all(chunk).and_then(|()| stream.write_all(b"\r\n"));
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    });
    assert!(download(&server, None, None).unwrap() == whole);
}

#[test]
fn parts_that_do_not_fit_are_not_joined() {
    let whole = content();
    let begin = |stream: &mut TcpStream, bytes: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes[..600]));
    };
    // The response has another offset than the requested one, then none at all.
    let served = whole.clone();
    let server = serve(move |n, request, stream| match n {
        0 | 2 => begin(stream, &served),
        1 => {
            let range = format!("Content-Range: bytes 500-{}/{}\r\n", served.len() - 1, served.len());
            say(stream, "206 Partial Content", &range, &served[500..]);
        }
        3 => say(stream, "206 Partial Content", "", &served[600..]),
        _ => give(stream, request, &served),
    });
    assert!(download(&server, None, None).unwrap() == whole);
    assert_eq!(server.requests.lock().unwrap().len(), 5);
    // The file has changed, and the server ignores If-Range.
    let (old, new) = (vec![1; whole.len()], whole.clone());
    let server = serve(move |n, request, stream| match (n, request.from()) {
        (0, _) => begin(stream, &old),
        (_, Some(from)) => {
            let range =
                format!("Content-Range: bytes {from}-{}/{}\r\nETag: \"v2\"\r\n", new.len() - 1, new.len());
            say(stream, "206 Partial Content", &range, &new[from..]);
        }
        _ => say(stream, "200 OK", "ETag: \"v2\"\r\n", &new),
    });
    assert!(download(&server, None, None).unwrap() == whole);
}

#[test]
fn chunks_that_end_early_are_gone_on_with_and_packed_answers_refused() {
    let whole = content();
    let served = whole.clone();
    let server = serve(move |n, request, stream| match n {
        0 => {
            let head = b"HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nTransfer-Encoding: chunked\r\n\r\n11170\r\n";
            let _ = stream.write_all(head).and_then(|()| stream.write_all(&served[..70_000]));
            let _ =
                stream.write_all(b"\r\n11170\r\n").and_then(|()| stream.write_all(&served[70_000..90_000]));
        }
        _ => give(stream, request, &served),
    });
    assert!(download(&server, None, None).unwrap() == whole);
    assert_eq!(server.requests.lock().unwrap().len(), 2);
    let server = serve(|_, _, stream| say(stream, "200 OK", "Content-Encoding: gzip\r\n", b"\x1f\x8b"));
    let error = download(&server, None, None).unwrap_err();
    assert!(error.contains("/file is sent packed (gzip)"), "{error}");
}

/// Starts a proxy that answers in place of the host; records the requests it got.
fn proxy(
    welcome: impl Fn(&mut BufReader<TcpStream>, &mut TcpStream) -> Option<String> + Send + 'static,
) -> TestServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = listener.local_addr().unwrap().to_string();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut from = BufReader::new(stream.try_clone().unwrap());
            let Some(host) = welcome(&mut from, &mut stream) else { continue };
            let Some(request) = read_head(&mut from) else { continue };
            say(&mut stream, "200 OK", "", b"by proxy");
            seen.lock().unwrap().push(SeenRequest { path: host, ..request });
        }
    });
    TestServer { url, requests }
}

#[test]
fn proxies_of_both_kinds_are_asked_for_the_host() {
    let connect = proxy(|from, stream| {
        let asked = read_head(from)?;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        Some(format!(
            "{} {}",
            asked.path,
            asked.headers.get("proxy-authorization").cloned().unwrap_or_default()
        ))
    });
    let socks = proxy(|from, stream| {
        let mut bytes = |n: usize| -> Option<Vec<u8>> {
            let mut bytes = vec![0; n];
            from.read_exact(&mut bytes).ok()?;
            Some(bytes)
        };
        let methods = bytes(2)?[1];
        bytes(methods.into())?;
        let _ = stream.write_all(&[5, 0]);
        let name = bytes(5)?[4];
        let host = String::from_utf8(bytes(name.into())?).ok()?;
        bytes(2)?;
        let _ = stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        Some(host)
    });
    let refusing = proxy(|from, stream| {
        read_head(from)?;
        say(stream, "407 Proxy Authentication Required", "", b"");
        None
    });
    let none = serve(|_, _, _| {});
    let get = |variables: &[(&str, String)]| {
        let variable =
            |name: &str| variables.iter().find(|(found, _)| *found == name).map(|(_, value)| value.clone());
        let client = client_with(&none, Some("hf_secret"), Proxies::of(variable).unwrap());
        client.text("http://hub.example/list").map(|(text, _)| text)
    };
    assert_eq!(get(&[("HTTP_PROXY", format!("http://me:pw@{}", connect.url))]).unwrap(), "by proxy");
    assert_eq!(get(&[("all_proxy", format!("socks5h://{}", socks.url))]).unwrap(), "by proxy");
    let hosts = |server: &TestServer| server.requests.lock().unwrap()[0].path.clone();
    assert_eq!(hosts(&connect), "hub.example:80 Basic bWU6cHc=");
    assert_eq!(hosts(&socks), "hub.example");
    let error = get(&[("http_proxy", format!("http://me:pw@{}", refusing.url))]).unwrap_err();
    assert!(error.contains("hub.example/list") && error.contains("407") && !error.contains("pw"), "{error}");
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let whole = content();
    let served = whole.clone();
    let server = serve(move |n, request, stream| match n {
        0 => std::thread::sleep(Duration::from_secs(5)),
        1 => {
            break_off(stream, request, &served, 1_000);
            std::thread::sleep(Duration::from_secs(5));
        }
        _ => give(stream, request, &served),
    });
    let start = Instant::now();
    assert!(download(&server, Some(whole.len() as u64), None).unwrap() == whole);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn what_is_wrong_in_size_or_content_never_gets_its_name() {
    let whole = content();
    let size = whole.len() as u64;
    let served = whole.clone();
    let server = serve(move |_, request, stream| give(stream, request, &served));
    let error = download(&server, Some(size - 1), None).unwrap_err();
    assert!(error.contains("has 1200000 bytes instead of 1199999"), "{error}");
    let error = download(&server, Some(size), Some(sha256(b"other"))).unwrap_err();
    assert!(error.contains("arrived with the checksum"), "{error}");
    assert!(download(&server, Some(size), Some(sha256(&whole))).is_ok());
    // Damaged the first time, correct the second.
    let served = whole.clone();
    let server = serve(move |n, request, stream| {
        let mut bytes = served.clone();
        bytes[77] ^= u8::from(n == 0);
        give(stream, request, &bytes);
    });
    assert!(download(&server, Some(size), Some(sha256(&whole))).unwrap() == whole);
    // More than promised, in a response without a length.
    let server = serve(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[0; 65_536]).is_ok() {}
    });
    let error = download(&server, Some(100_000), None).unwrap_err();
    assert!(error.contains("sends more than the size it has"), "{error}");
}

#[test]
fn a_file_that_is_wrong_is_fetched_twice_at_most() {
    let server = serve(|_, request, stream| give(stream, request, b"not it"));
    let error = download(&server, Some(6), Some(sha256(b"it"))).unwrap_err();
    assert!(error.contains("gave up after 2 tries"), "{error}");
    assert_eq!(server.requests.lock().unwrap().len(), 2);
}

#[test]
fn a_server_without_ranges_that_always_breaks_off_is_given_up() {
    // Alternately one byte more and one byte less than before: no progress.
    let whole = content();
    let server = serve(move |n, _, stream| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", whole.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&whole[..1_000 + n % 2]));
    });
    let error = download(&server, None, None).unwrap_err();
    assert!(error.contains("gave up after 6 tries"), "{error}");
    assert!(server.requests.lock().unwrap().len() < 10);
}

#[test]
fn a_list_is_asked_for_again_and_ends() {
    let page = br#"[{"type": "file", "path": "a", "size": 1, "oid": "x"}]"#;
    let server = serve(move |n, _, stream| match n {
        0 => say(stream, "503 Service Unavailable", "", b""),
        1 => {} // closes the connection without a response
        _ => say(stream, "200 OK", "", page),
    });
    assert_eq!(list(&client(&server), &server.url, RepoKind::Model, "o/n").unwrap().len(), 1);
    let server = serve(|_, _, stream| say(stream, "500 Oops", "", b""));
    let error = list(&client(&server), &server.url, RepoKind::Model, "o/n").unwrap_err().to_string();
    assert!(error.contains("answered 500; gave up after 6 tries"), "{error}");
    let server = serve(move |_, request, stream| {
        say(stream, "200 OK", &format!("Link: <{}>; rel=\"next\"\r\n", request.path), page)
    });
    let error = list(&client(&server), &server.url, RepoKind::Model, "o/n").unwrap_err().to_string();
    assert!(error.contains("does not end"), "{error}");
}

#[test]
fn failures_that_last_are_one_sentence_at_once() {
    for (status, words) in
        [("404 Not Found", "there is no such file"), ("401 Unauthorized", "HF_TOKEN"), ("418 Teapot", "418")]
    {
        let server = serve(move |_, _, stream| say(stream, status, "", b""));
        let error = download(&server, None, None).unwrap_err();
        assert!(error.contains(words) && error.contains("/file"), "{error}");
        assert_eq!(server.requests.lock().unwrap().len(), 1);
    }
    let server = serve(|_, _, stream| say(stream, "500 Oops", "", b""));
    let error = download(&server, None, None).unwrap_err();
    assert!(error.contains("answered 500; gave up after 6 tries"), "{error}");
    let server = serve(|_, _, stream| say(stream, "302 Found", "Location: /file\r\n", b""));
    assert!(download(&server, None, None).unwrap_err().contains("redirects in a circle"));
}

#[test]
fn the_token_stays_with_its_host_and_out_of_messages() {
    let other = serve(|n, request, stream| match n {
        0 => give(stream, request, b"content"),
        _ => say(stream, "404 Gone", "", b""),
    });
    let target = format!("{}/signed?Signature=secret", other.url);
    let hub = serve(move |n, _, stream| match n {
        0 => say(stream, "307 Moved", "Location: /here\r\n", b""), // relative, on the same host
        _ => {
            let etag =
                "X-Linked-ETag: \"ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73\"\r\n";
            say(stream, "302 Found", &format!("Location: {target}\r\n{etag}"), b"");
        }
    });
    let client = client_with(&hub, Some("hf_secret"), Proxies::default());
    let get = || client.get(&format!("{}/file", hub.url), &[]);
    let answer = get().ok().unwrap();
    // The checksum that the hub named on the way is known at the end.
    assert!(answer.header("x-linked-etag").unwrap().contains("ed7002b4"));
    let Err(Failure::Lasting(error)) = get() else { panic!("404 is lasting") };
    assert!(error.contains("/signed answered 404") && !error.contains("secret"), "{error}");
    let requests = |server: &TestServer| server.requests.lock().unwrap().clone();
    assert!(requests(&hub).iter().all(|request| request.headers["authorization"] == "Bearer hf_secret"));
    assert!(requests(&other).iter().all(|request| !request.headers.contains_key("authorization")));
}

#[test]
fn a_repository_is_listed_page_by_page_and_its_first_shards_taken() {
    let server = serve(|n, request, stream| {
        assert!(
            request.path.starts_with("/api/datasets/owner/name/tree/main?recursive=true"),
            "{}",
            request.path
        );
        let file = |i: usize| {
            let lfs = format!(r#""lfs": {{"oid": "ab{i}", "size": {i}00}}"#);
            format!(r#"{{"type": "file", "path": "data/shard {i}.parquet", "size": 134, "oid": "x", {lfs}}}"#)
        };
        let folder = r#"{"type": "directory", "path": "data", "oid": "y", "size": 0}"#;
        let readme = r#"{"type": "file", "path": "README.md", "size": 3, "oid": "cd"}"#;
        match n {
            0 => {
                let link = format!("Link: <{}&cursor=2>; rel=\"next\"\r\n", request.path);
                say(
                    stream,
                    "200 OK",
                    &link,
                    format!("[{folder},{},{},{readme}]", file(2), file(1)).as_bytes(),
                );
            }
            _ => say(stream, "200 OK", "", format!("[{},{}]", file(3), file(4)).as_bytes()),
        }
    });
    let files = list(&client(&server), &server.url, RepoKind::Dataset, "owner/name").unwrap();
    assert_eq!((files.len(), files[0].path.as_str()), (5, "README.md"));
    assert_eq!(files[0].remote.checksum, Some(Checksum::GitBlob("cd".into())));
    let taken = first_shards(files, 2);
    let names: Vec<&str> = taken.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["data/shard 1.parquet", "data/shard 2.parquet", "data/shard 4.parquet"]);
    let Remote { url, size, checksum } = &taken[0].remote;
    assert_eq!(url, &format!("{}/datasets/owner/name/resolve/main/data/shard%201.parquet", server.url));
    assert_eq!((*size, checksum), (Some(100), &Some(Checksum::Sha256("ab1".into()))));
}

#[test]
fn a_repository_cannot_name_files_outside_its_folder() {
    for path in ["../evil", "/etc/passwd", "a/../../b", "a\\\\b", ""] {
        let body = format!(r#"[{{"type": "file", "path": "{path}", "size": 1, "oid": "x"}}]"#);
        let server = serve(move |_, _, stream| say(stream, "200 OK", "", body.as_bytes()));
        let error = list(&client(&server), &server.url, RepoKind::Model, "owner/name").unwrap_err();
        assert!(format!("{error:#}").contains("not a path inside a folder"), "{path}: {error:#}");
    }
    for bad in ["owner", "owner/name/more", "../name", "owner/..", "o/n@a/b", "o/n?x"] {
        assert!(parse_repo(bad).is_err(), "{bad}");
    }
}

#[test]
fn git_names_of_small_files_are_checked() {
    let server = serve(|_, request, stream| give(stream, request, b"hello\n"));
    let git = |name: &str| download(&server, Some(6), Some(Checksum::GitBlob(name.into())));
    assert_eq!(git("ce013625030ba8dba906f756967f9e9ca394464a").unwrap(), b"hello\n");
    assert!(git("0000000000000000000000000000000000000000").is_err());
}
