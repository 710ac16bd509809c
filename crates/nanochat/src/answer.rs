//! What a model said, from its tokens: text, calls of the calculator, and the calculator's results.

use nanochat_tokenizer::Tokenizer;

use crate::conversation::{Content, Message, Part, PartKind, Role};

/// Generated tokens as the parts of an assistant message. A block that was never closed ends with the
/// tokens; stray special tokens say nothing.
pub fn parts(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<Part> {
    let mut parts: Vec<(PartKind, Vec<u32>)> = vec![(PartKind::Text, Vec::new())];
    for &id in ids {
        if !tokenizer.is_special(id) {
            parts.last_mut().expect("never empty").1.push(id);
            continue;
        }
        let is = |name: &str| tokenizer.special(name) == Some(id);
        if is("<|python_start|>") {
            parts.push((PartKind::Python, Vec::new()));
        } else if is("<|output_start|>") {
            parts.push((PartKind::PythonOutput, Vec::new()));
        } else if is("<|python_end|>") || is("<|output_end|>") {
            parts.push((PartKind::Text, Vec::new()));
        }
    }
    parts.retain(|(_, ids)| !ids.is_empty());
    parts.into_iter().map(|(kind, ids)| Part { kind, text: tokenizer.decode(&ids) }).collect()
}

/// Generated tokens as a message, ready to stand in a conversation.
pub fn message(tokenizer: &Tokenizer, ids: &[u32]) -> Message {
    let parts = parts(tokenizer, ids);
    let content = match parts.as_slice() {
        [] => Content::Text(String::new()),
        [Part { kind: PartKind::Text, text }] => Content::Text(text.clone()),
        _ => Content::Parts(parts),
    };
    Message { role: Role::Assistant, content }
}

/// The text a person sees: the parts of kind text, joined.
pub fn visible_text(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let text = |part: Part| (part.kind == PartKind::Text).then_some(part.text);
    parts(tokenizer, ids).into_iter().filter_map(text).collect()
}
