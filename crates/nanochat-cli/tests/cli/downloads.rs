//! Tests that killed downloads resume, and that files are whole or absent.

use std::fs;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::common::*;
use crate::kills::whole_or_absent;

/// Serves `content` with ranges; the first response stops in the middle until the test ends.
pub fn serve(content: Vec<u8>, asked: Arc<Mutex<Vec<Option<usize>>>>, sent: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let from = range_of(&head_of(&stream));
            let first = asked.lock().unwrap().is_empty();
            asked.lock().unwrap().push(from);
            let (content, sent) = (content.clone(), sent.clone());
            std::thread::spawn(move || answer(stream, &content, from, first, &sent));
        }
    });
    url
}

/// Returns the lines of a request's head, in lower case.
fn head_of(stream: &TcpStream) -> Vec<String> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    lines.map(|line| line.to_lowercase()).collect()
}

fn range_of(head: &[String]) -> Option<usize> {
    let range = head.iter().rfind(|line| line.starts_with("range:"))?;
    range.split_once("bytes=")?.1.trim_end_matches('-').parse().ok()
}

fn answer(mut stream: TcpStream, content: &[u8], from: Option<usize>, stop: bool, sent: &AtomicUsize) {
    let (start, total) = (from.unwrap_or(0), content.len());
    let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
    let range = format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
    let head =
        format!("HTTP/1.1 {status}\r\nETag: \"v1\"\r\n{range}Content-Length: {}\r\n\r\n", total - start);
    let end = if stop { total / 2 } else { total };
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&content[start..end]));
    sent.store(end, Ordering::SeqCst);
    if stop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn noise(words: u32) -> Vec<u8> {
    (0..words).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    let base = tempfile::tempdir().unwrap();
    let content = noise(1_000_000);
    let (asked, sent) = (Arc::default(), Arc::default());
    let url = serve(content.clone(), Arc::clone(&asked), Arc::clone(&sent));
    let part = base.path().join("downloads/file.bin.part");
    let mut child = start(base.path(), &format!("data download {url}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(&part).map_or(0, |part| part.len()) < 2_000_000 {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "nothing arrives");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "KILL");
    let _ = child.wait();
    run(base.path(), &format!("data download {url}"));
    assert!(fs::read(base.path().join("downloads/file.bin")).unwrap() == content);
    assert_eq!(*asked.lock().unwrap(), [None, Some(2_000_000)]);
    assert_eq!(fs::read_dir(base.path().join("downloads")).unwrap().count(), 1);
}

/// Starts a hub with one repository of one file.
fn hub(name: &str, content: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let list = format!(r#"[{{"type": "file", "path": "{name}", "size": {}}}]"#, content.len()).into_bytes();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let head = head_of(&stream);
            let Some(request) = head.first() else { continue };
            let body = if request.contains("/api/") { &list } else { &content };
            answer(stream, body, range_of(&head), false, &AtomicUsize::new(0));
        }
    });
    url
}

/// Returns an archive of exams in many subjects.
fn archive() -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for part in ["dev", "val"] {
        for subject in 0..20 {
            writer.start_file(format!("{part}/{subject}.csv"), SimpleFileOptions::default()).unwrap();
            writer.write_all(&noise(5_000)).unwrap();
        }
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn what_a_killed_download_makes_is_whole_or_absent() {
    if !slow("what_a_killed_download_makes_is_whole_or_absent") {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let asked = Arc::new(Mutex::new(vec![None])); // one entry, so that no response stops in the middle
    let url = serve(noise(8_000_000), asked, Arc::default());
    whole_or_absent(base.path(), &format!("data download {url}"), &["downloads/file.bin"]);
    let exam = tempfile::tempdir().unwrap();
    let made = ["dev", "val", "ceval-exam.zip"].map(|name| format!("task_data/ceval-exam/{name}"));
    let line = format!("data download ceval --mirror {}", hub("ceval-exam.zip", archive()));
    whole_or_absent(exam.path(), &line, &made.each_ref().map(String::as_str));
}
