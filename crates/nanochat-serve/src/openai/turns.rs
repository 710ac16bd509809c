//! From the messages of a request to the turns of training: a system text in front, then user and assistant in turn,
//! none of them empty.
//!
//! A list of messages may be looser than that. System texts, wherever they stand, are joined in front; the same role in
//! a row is one turn; a greeting before the first question is left out. So is an answer of no visible text together
//! with its question (the calculator may have spoken alone, or only a reasoning was kept): training has no empty answer.

use nanochat::conversation::{Content, Conversation, Message, Part, PartKind, Role};

use super::messages::is_blank;
use crate::Server;
use crate::error::ApiError;

/// What separates the texts that are joined.
const BETWEEN: &str = "\n\n";

/// The turns of a conversation that waits for an answer, as training has them.
pub fn alternating(messages: Vec<Message>) -> Result<Vec<Message>, ApiError> {
    let (system, turns): (Vec<Message>, Vec<Message>) =
        messages.into_iter().partition(|message| message.role == Role::System);
    // Each with what is said in a row, nothing that is empty.
    let mut turns = turns.chunk_by(|a, b| a.role == b.role).map(|run| (run[0].role, said(run))).peekable();
    turns.next_if(|(role, _)| *role == Role::Assistant); // a greeting
    let mut kept = match said(&system)[..] {
        [] => Vec::new(),
        ref said => vec![Message { role: Role::System, content: joined(said) }],
    };
    while let Some((_, question)) = turns.next() {
        let answer = turns.next().map(|(_, answer)| answer);
        let is_last = turns.peek().is_none(); // an empty answer here is one to be written
        let answered = answer.as_ref().is_some_and(|answer| !answer.is_empty());
        if answered || is_last {
            kept.push(Message { role: Role::User, content: joined(&question) });
        }
        if let Some(answer) = answer.filter(|_| answered) {
            kept.push(Message { role: Role::Assistant, content: joined(&answer) });
        }
    }
    match kept.last().map(|last| last.role) {
        Some(Role::User) => Ok(kept),
        Some(Role::Assistant) => Err(ApiError::bad("messages", "the last message must be the user's")),
        _ => Err(ApiError::bad("messages", "messages must have one of the user")),
    }
}

fn said(run: &[Message]) -> Vec<&Content> {
    run.iter().map(|message| &message.content).filter(|content| !is_blank(content)).collect()
}

fn joined(said: &[&Content]) -> Content {
    if said.iter().all(|content| matches!(content, Content::Text(_))) {
        let texts: Vec<String> = said.iter().map(|content| content.text()).collect();
        return Content::Text(texts.join(BETWEEN));
    }
    let text = |text: &str| vec![Part { kind: PartKind::Text, text: text.into() }];
    let parts = |content: &&Content| match content {
        Content::Text(said) => text(said),
        Content::Parts(parts) => parts.clone(),
    };
    Content::Parts(said.iter().map(parts).collect::<Vec<_>>().join(&text(BETWEEN)[0]))
}

/// The prompt of alternating turns, and how many were dropped so that `answer` tokens still fit (None: none may be).
pub fn prompt(
    server: &Server,
    mut messages: Vec<Message>,
    answer: Option<usize>,
) -> Result<(Vec<u32>, usize), ApiError> {
    let system = usize::from(messages[0].role == Role::System);
    let mut dropped = 0;
    if let Some(answer) = answer {
        dropped = too_old(server, &messages[system..], server.context - answer);
        messages.drain(system..system + dropped);
    }
    loop {
        let conversation = Conversation { messages };
        let prompt = conversation.render_for_completion(&server.tokenizer)?;
        messages = conversation.messages;
        let fits = answer.is_none_or(|answer| prompt.len() + answer <= server.context);
        if fits || messages.len() < system + 3 {
            return Ok((prompt, dropped));
        }
        messages.drain(system..system + 2);
        dropped += 2;
    }
}

/// How many of the oldest turns cannot fit into `room` tokens whatever is dropped before them. Rendering a long history
/// once for each of its exchanges would take hours; here each is tokenized once, the newest first, as far as they fit.
fn too_old(server: &Server, turns: &[Message], room: usize) -> usize {
    let mut tokens = 0;
    for (i, exchange) in turns.chunks(2).enumerate().rev() {
        let encode = |turn: &Message| server.tokenizer.encode(&turn.content.text()).len();
        tokens += exchange.iter().map(encode).sum::<usize>();
        if tokens > room {
            return (2 * (i + 1)).min(turns.len() - 1);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fields::Fields;
    use crate::openai::messages::messages;

    /// The turns that a list of (role, content) becomes, each as `role: what is said`.
    fn turns(list: Value) -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        let list: Value = list.map(|turn| json!({"role": turn[0], "content": turn[1]})).collect();
        let read = messages(&mut Fields::of_body(json!({"messages": list})).unwrap()).unwrap();
        let shown = |turn: &Message| format!("{}: {}", turn.role, turn.content.text());
        alternating(read).unwrap().iter().map(shown).collect()
    }

    #[test]
    fn loose_lists_become_the_turns_of_training() {
        let (q, empty) = (json!(["user", "q"]), json!(["assistant", ""]));
        for (list, expected) in [
            (json!([["user", "a"], ["user", "b"]]), vec!["user: a\n\nb"]),
            (json!([["assistant", "hi"], q]), vec!["user: q"]),
            (json!([["system", "a"], ["system", "b"], q]), vec!["system: a\n\nb", "user: q"]),
            (json!([["system", "a"], q, ["developer", "b"]]), vec!["system: a\n\nb", "user: q"]),
            (json!([["system", " "], q]), vec!["user: q"]),
            (json!([["user", "a"], empty, q]), vec!["user: q"]),
            (json!([["user", "a"], ["assistant", null], ["assistant", " \n"], q]), vec!["user: q"]),
            (
                json!([["user", "a"], empty, ["assistant", "b"], q]),
                vec!["user: a", "assistant: b", "user: q"],
            ),
            (
                json!([["user", "a"], ["assistant", "b"], ["assistant", "c"], q]),
                vec!["user: a", "assistant: b\n\nc", "user: q"],
            ),
            (
                json!([["assistant", ""], ["system", "s"], ["assistant", "x"], q]),
                vec!["system: s", "user: q"],
            ),
            (json!([q, empty]), vec!["user: q"]),
        ] {
            assert_eq!(turns(list.clone()), expected, "{list}");
        }
    }
}
