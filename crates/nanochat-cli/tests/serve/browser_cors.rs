//! Tests a page of another origin that sends requests like the `openai` package in a browser: with its own headers, and
//! streaming. Slow tier.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::json;

use crate::common::*;
use crate::devtools::Browser;

/// The package's request from a page, with the whole response read.
const ASK: &str = "(async () => {
    const headers = {'content-type': 'application/json', authorization: 'Bearer KEY',
        'x-stainless-os': 'Unknown', 'x-stainless-lang': 'js', 'x-stainless-timeout': '600'};
    const body = JSON.stringify({model: 'small', stream: true, max_tokens: 16, messages: [
        {role: 'user', content: 'hello'}, {role: 'assistant', content: ''}, {role: 'user', content: '1+2?'}]});
    try {
        const answer = await fetch('URL/v1/chat/completions', {method: 'POST', headers, body});
        return answer.status + ' ' + await answer.text();
    } catch (error) {
        return String(error);
    }
})()";

/// Serves an empty page from another origin than the server's.
fn elsewhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let _ = socket.read(&mut [0; 4096]);
            let page = "<!doctype html><section id=messages><p>elsewhere</p></section>";
            let head =
                format!("content-type: text/html\r\ncontent-length: {}\r\nconnection: close", page.len());
            let _ = socket.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{page}").as_bytes());
        }
    });
    format!("http://{address}")
}

#[test]
fn only_the_page_that_is_allowed_may_ask_from_elsewhere() {
    if !slow("only_the_page_that_is_allowed_may_ask_from_elsewhere") {
        return;
    }
    let (allowed, other) = (elsewhere(), elsewhere());
    let server =
        Server::with_keys(&tool_model(), &format!("--cors-origin {allowed}"), Some("key-of-clients"));
    let ask = ASK.replace("URL", &server.url()).replace("KEY", "key-of-clients");
    let mut browser = Browser::start("en-US");
    browser.open(&allowed);
    let said = browser.value(&ask);
    let said = said.as_str().unwrap();
    assert!(said.starts_with("200 data: ") && said.trim_end().ends_with("data: [DONE]"), "{said}");
    assert!(said.contains("python_output") && said.contains("\"content\":\"o\""), "{said}");
    browser.open(&other);
    assert_eq!(browser.value(&ask), json!("TypeError: Failed to fetch"));
}
