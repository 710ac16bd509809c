//! Tests the web chat in Chromium. Slow tier.

use serde_json::json;

use crate::common::*;
use crate::devtools::Browser;

const ANSWERED: &str =
    "document.getElementById('stop').hidden && document.querySelector('.message.assistant .actions')";
const ANSWERS: &str = "document.querySelectorAll('.message.assistant').length";

#[test]
fn a_person_can_talk_to_the_model() {
    if !slow("a_person_can_talk_to_the_model") {
        return;
    }
    let server = Server::start(&endless_model(), "");
    let mut browser = Browser::start("en-US");
    browser.open(&server.url());
    assert_eq!(browser.value("document.documentElement.lang"), "en");
    assert_eq!(browser.value("document.getElementById('input').placeholder"), "Say something…");

    // Sends a message, and checks that markup from the model and the user is shown as text.
    browser.type_text("<img src=y onerror=window.hacked=1><b>bold</b>");
    browser.press("Enter", 13);
    browser.wait_for(ANSWERED);
    assert!(browser.text(".message.user .bubble").contains("<b>bold</b>"));
    assert!(browser.text(".message.assistant .bubble").starts_with("<img src=x>"));
    assert_eq!(browser.value("document.querySelectorAll('.bubble img, .bubble b').length"), 0);
    assert_eq!(browser.value("window.hacked"), json!(null));
    assert!(browser.text(".message.assistant .speed").contains("tok/s"));
    assert!(browser.text(".message.assistant .note").contains("Cut"));

    // Stops a long answer while it streams.
    browser.value("(() => { const f = document.getElementById('maxTokens'); f.value = 4096; f.dispatchEvent(new Event('input')) })()");
    browser.type_text("long");
    browser.press("Enter", 13);
    browser.wait_for(
        "[...document.querySelectorAll('.message.assistant .bubble')].at(-1).textContent.length > 20",
    );
    browser.press("Escape", 27);
    browser.wait_for(ANSWERED);
    assert!(browser.text(".message.assistant .note").contains("Stopped"));
    assert!(browser.text(".message.assistant .bubble").len() < 4000);

    // Regenerates an answer, and goes back to the first version.
    browser.value("(() => { const f = document.getElementById('maxTokens'); f.value = 16; f.dispatchEvent(new Event('input')) })()");
    browser.click(".message.assistant .actions button:nth-of-type(2)");
    browser.wait_for(ANSWERED);
    assert!(browser.text(".message.assistant .actions").contains("2/2"));
    browser.click("button[aria-label='Previous version']");
    assert!(browser.text(".message.assistant .actions").contains("1/2"));
    assert!(browser.text(".message.assistant .note").contains("Stopped"));

    // Edits the first question, which starts a new branch.
    browser.value("document.querySelector('.message.user .actions button:nth-of-type(2)').click()");
    browser.value("document.querySelector('.editor textarea').value = 'edited'");
    browser.click(".editor .primary");
    browser.wait_for(ANSWERED);
    assert_eq!((browser.text(".message.user .bubble"), browser.value(ANSWERS)), ("edited".into(), json!(1)));
    browser.value("document.querySelector('button[aria-label=\"Previous version\"]').click()");
    assert_eq!(browser.value(ANSWERS), 2);

    // Opens another conversation and returns; everything is still there after a reload.
    browser.click("#new-chat");
    assert_eq!(browser.value(ANSWERS), 0);
    browser.type_text("second");
    browser.press("Enter", 13);
    browser.wait_for(ANSWERED);
    assert_eq!(browser.value("document.querySelectorAll('.chat').length"), 2);
    browser.click(".chat .open");
    assert_eq!(browser.value(ANSWERS), 2);
    browser.reload();
    assert_eq!(browser.value(ANSWERS), 2);
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn an_input_method_may_use_enter() {
    if !slow("an_input_method_may_use_enter") {
        return;
    }
    let server = Server::start(&tool_model(), "");
    let mut browser = Browser::start("zh-CN");
    browser.open(&server.url());
    assert_eq!(browser.value("document.documentElement.lang"), "zh-CN");
    assert_eq!(browser.text("#new-chat"), "+ 新对话");
    browser.value("document.getElementById('input').focus()");
    browser
        .call("Input.imeSetComposition", json!({"text": "ni hao", "selectionStart": 6, "selectionEnd": 6}));
    // The Enter that ends an IME composition, as browsers report it, must not send.
    let enter = "document.getElementById('input').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: COMPOSING, keyCode: CODE, bubbles: true, cancelable: true}))";
    browser.value(&enter.replace("COMPOSING", "true").replace("CODE", "13"));
    browser.value(&enter.replace("COMPOSING", "false").replace("CODE", "229"));
    assert_eq!(browser.value("document.querySelectorAll('.message').length"), 0);
    browser.call("Input.insertText", json!({"text": "你好"}));
    assert_eq!(browser.value("document.getElementById('input').value"), "你好");
    browser.press("Enter", 13);
    browser.wait_for(ANSWERED);
    assert_eq!(browser.text(".message.user .bubble"), "你好");
    // The calculator's call is shown as a tool call.
    assert_eq!(browser.text(".tool"), "计算器1+2=3");
    assert!(browser.text(".message.assistant .bubble").ends_with("ok"));
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn the_page_fits_a_phone_and_follows_the_system() {
    if !slow("the_page_fits_a_phone_and_follows_the_system") {
        return;
    }
    let server = Server::start(&tool_model(), "");
    let mut browser = Browser::start("en-US");
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    browser.call("Emulation.setDeviceMetricsOverride", phone);
    for (scheme, background) in [("light", "rgb(250, 248, 245)"), ("dark", "rgb(27, 26, 24)")] {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.call("Emulation.setEmulatedMedia", features);
        browser.open(&server.url());
        assert_eq!(browser.value("getComputedStyle(document.body).backgroundColor"), background);
        assert_eq!(browser.value("document.documentElement.scrollWidth"), 360);
        assert_eq!(
            browser.value("getComputedStyle(document.getElementById('sidebar')).visibility"),
            "hidden"
        );
    }
    browser.click("#toggle-sidebar");
    browser.wait_for("getComputedStyle(document.getElementById('sidebar')).visibility === 'visible'");
    let unnamed = "[...document.querySelectorAll('button, input, textarea, select')].filter((node) => \
        !node.textContent.trim() && !node.getAttribute('aria-label') && !node.labels?.length).length";
    assert_eq!(browser.value(unnamed), 0, "every control has a name for screen readers");
    assert_eq!(browser.complaints, Vec::<String>::new());
}
