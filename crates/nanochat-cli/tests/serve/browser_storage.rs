//! Tests the web chat's storage in Chromium: two tabs, a reload, a full quota, deleted conversations, copies. Slow
//! tier.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::*;
use crate::devtools::Browser;

const ANSWERED: &str =
    "document.getElementById('stop').hidden && document.querySelector('.message.assistant .actions')";
const CHATS: &str = "document.querySelectorAll('#chats .chat').length";
const LONGEST: &str = "(() => { const f = document.getElementById('maxTokens'); f.value = 4096; f.dispatchEvent(new Event('input')) })()";
/// Everything that is stored.
const STORED: &str = "Object.values({...localStorage}).join()";

fn say(tab: &mut Browser, text: &str) {
    tab.type_text(text);
    tab.press("Enter", 13);
}

fn stored(tab: &mut Browser) -> String {
    tab.value(STORED).as_str().unwrap().to_string()
}

#[test]
fn two_tabs_keep_what_both_say() {
    if !slow("two_tabs_keep_what_both_say") {
        return;
    }
    let server = Server::start(&tool_model(), "");
    let mut first = Browser::start("en-US");
    first.open(&server.url());
    let mut second = first.tab();
    second.open(&server.url());
    say(&mut first, "said in the first");
    first.wait_for(ANSWERED);
    say(&mut second, "said in the second");
    second.wait_for(ANSWERED);
    for tab in [&mut first, &mut second] {
        tab.wait_for(&format!("{CHATS} === 2"));
    }

    // Both tabs show one conversation and add a question each; both questions are there after a reload.
    second.click("#chats .chat:last-child .open");
    assert!(second.text(".message.user .bubble").contains("said in the first"));
    say(&mut second, "one more from the second");
    second.wait_for("document.querySelectorAll('.message.assistant .actions').length === 2");
    first.wait_for("document.querySelectorAll('.message.assistant').length === 2");
    say(&mut first, "and one from the first");
    first.wait_for("document.querySelectorAll('.message.assistant .actions').length === 3");
    first.reload();
    assert_eq!(first.value("document.querySelectorAll('.message').length"), 6);

    // A conversation deleted in one tab disappears from both, and can be restored.
    first.click("#chats .current .delete");
    second.wait_for(&format!("{CHATS} === 1"));
    first.click("#status button");
    second.wait_for(&format!("{CHATS} === 2"));
    assert!(first.text("#messages").contains("and one from the first"));
    first.click("#chats .current .delete");
    first.reload();
    assert_eq!(first.text("#deleted-count"), "Deleted (1)");
    first.click("#deleted-chats .open");
    assert!(first.text("#messages").contains("said in the first"));
    // Permanently deleted conversations are gone from both tabs.
    first.click("#chats .current .delete");
    first.click("#erase-deleted");
    first.click("#erase-deleted");
    second.wait_for("document.getElementById('deleted').hidden");
    assert!(!stored(&mut second).contains("said in the first"));
    assert_eq!((&first.complaints, &second.complaints), (&Vec::new(), &Vec::new()));
}

#[test]
fn a_reload_while_the_model_answers_loses_nothing() {
    if !slow("a_reload_while_the_model_answers_loses_nothing") {
        return;
    }
    let server = Server::start(&endless_model(), "");
    let mut browser = Browser::start("en-US");
    browser.open(&server.url());
    let mut other = browser.tab();
    other.open(&server.url());
    browser.value(LONGEST);
    // Sixteen other answers at the same time, so that it takes longer than this test.
    let others = json!({"messages": user("x"), "n": 16, "max_tokens": 4000, "stream": true});
    let _others = server.open(CHAT, others);
    say(&mut browser, "a question 😀");
    // The question is stored when it is sent, the answer while it streams.
    other.wait_for(&format!("{STORED}.includes('a question')"));
    other.wait_for(&format!("{STORED}.includes('<img src=x>')"));
    assert_eq!(browser.value("document.getElementById('stop').hidden"), false);
    browser.reload();
    assert!(browser.text(".message.user .bubble").contains("a question 😀"));
    let answer = browser.text(".message.assistant .bubble");
    assert!(answer.starts_with("<img src=x>"), "{answer}");
    assert_eq!(browser.text(".message.assistant .note"), "This answer is not finished.");
}

#[test]
fn a_full_storage_says_so_and_drops_nothing() {
    if !slow("a_full_storage_says_so_and_drops_nothing") {
        return;
    }
    let server = Server::start(&tool_model(), "");
    let mut browser = Browser::start("en-US");
    browser.open(&server.url());
    say(&mut browser, "the first conversation");
    browser.wait_for(ANSWERED);
    // Fills the remaining quota to the last character.
    browser.value(
        "(() => { let text = ''; for (let n = 1 << 23; n >= 1; n >>= 1) { try { \
         localStorage.setItem('filler', text + 'x'.repeat(n)); text += 'x'.repeat(n) } catch {} } })()",
    );
    browser.click("#new-chat");
    say(&mut browser, "one too many");
    browser.wait_for(ANSWERED);
    assert!(browser.text("#status").contains("storage is full"));
    let kept = stored(&mut browser);
    assert!(kept.contains("the first conversation") && !kept.contains("one too many"));
    // Once there is room again, the open conversation is stored.
    browser.value("localStorage.removeItem('filler')");
    say(&mut browser, "now there is room");
    browser.wait_for("document.querySelectorAll('.message.assistant .actions').length === 2");
    let kept = stored(&mut browser);
    assert!(kept.contains("one too many") && kept.contains("now there is room"));
    assert_eq!(browser.text("#status"), "");
}

#[test]
fn conversations_of_an_older_page_are_taken_over() {
    if !slow("conversations_of_an_older_page_are_taken_over") {
        return;
    }
    let server = Server::start(&tool_model(), "");
    let mut browser = Browser::start("en-US");
    browser.open(&server.url());
    let part = |text: &str| json!([{"type": "text", "text": text}]);
    let chat = |id: &str| {
        let nodes = json!({"u": {"id": "u", "parent": null, "role": "user", "parts": part(id)},
            "a": {"id": "a", "parent": "u", "role": "assistant", "parts": part("yes"), "finish": "stop"}});
        json!({"id": id, "title": id, "changed": 1, "at": "a", "nodes": nodes})
    };
    let old = Value::from(vec![chat("old one"), chat("old two")]).to_string();
    browser.value(&format!("localStorage.setItem('nanochat.chats', {})", json!(old)));
    browser.reload();
    assert_eq!(browser.value(CHATS), 2);
    browser.reload();
    assert_eq!(browser.value(CHATS), 2);
    assert_eq!(browser.value("localStorage.getItem('nanochat.chats')"), json!(null));
}

#[test]
fn copying_works_without_a_clipboard_or_says_that_it_does_not() {
    if !slow("copying_works_without_a_clipboard_or_says_that_it_does_not") {
        return;
    }
    let server = Server::start(&tool_model(), "");
    let mut browser = Browser::start("en-US");
    browser.open(&server.url());
    say(&mut browser, "1+2?");
    browser.wait_for(ANSWERED);
    // A page loaded over http from another machine has no clipboard API.
    browser.value("Object.defineProperty(navigator, 'clipboard', {value: undefined})");
    browser
        .value("document.addEventListener('copy', () => { window.copied = document.activeElement.value })");
    let button = ".message.assistant .actions button:first-of-type";
    browser.click(button);
    browser.wait_for("window.copied !== undefined");
    assert_eq!(browser.value("window.copied"), "1+2 = 3\nok");
    assert_eq!(browser.text(button), "Copied");
    browser.value("document.execCommand = () => false");
    browser.click(button);
    std::thread::sleep(Duration::from_millis(100));
    assert!(browser.text(button).contains("Could not be copied"));
}

#[test]
fn an_emoji_is_never_cut_in_two() {
    if !slow("an_emoji_is_never_cut_in_two") {
        return;
    }
    let server = Server::start(&tool_model(), "");
    let mut browser = Browser::start("en-US");
    browser.open(&server.url());
    // The title is cut at 60 characters, which must not split a surrogate pair.
    say(&mut browser, &format!("{}😀😀", "x".repeat(59)));
    browser.wait_for(ANSWERED);
    assert_eq!(browser.text("#title"), format!("{}😀", "x".repeat(59)));
    // Longer than the context: the server's error is shown.
    browser.click("#new-chat");
    say(&mut browser, &format!("{}😀{}", "x".repeat(7_999), "x".repeat(50)));
    browser.wait_for("document.querySelector('.note.error')");
    let error = browser.text(".note.error");
    assert!(!error.contains("hex escape"), "{error}");
}
