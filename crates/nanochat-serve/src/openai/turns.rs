//! Turns the messages of a request into the form of training: an optional system text, then user and assistant in turn,
//! none of them empty.
//!
//! A request may be looser than that. System texts, at any position, are joined in front; consecutive messages of one
//! role become one turn; a greeting by the assistant before the first question is dropped. An answer without visible
//! text is dropped together with its question (it may hold only a calculator call, or reasoning that was removed):
//! training has no empty answers.

use nanochat::conversation::{Content, Conversation, Message, Part, PartKind, Role};

use super::messages::is_blank;
use crate::Server;
use crate::error::ApiError;

/// The separator of joined texts.
const BETWEEN: &str = "\n\n";

/// Returns the turns of a conversation that waits for an answer, in the form of training.
pub fn alternating(messages: Vec<Message>) -> Result<Vec<Message>, ApiError> {
    let (system, turns): (Vec<Message>, Vec<Message>) =
        messages.into_iter().partition(|message| message.role == Role::System);
    // Joins consecutive messages of one role and skips empty ones.
    let mut turns = turns.chunk_by(|a, b| a.role == b.role).map(|run| (run[0].role, said(run))).peekable();
    turns.next_if(|(role, _)| *role == Role::Assistant); // a greeting
    let mut kept = match said(&system)[..] {
        [] => Vec::new(),
        ref said => vec![Message { role: Role::System, content: joined(said) }],
    };
    while let Some((_, question)) = turns.next() {
        let answer = turns.next().map(|(_, answer)| answer);
        let is_last = turns.peek().is_none(); // an empty answer at the end is the one to generate
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

/// Returns the prompt of alternating turns, and the number of turns dropped to leave room for `answer` tokens (None:
/// drop none, and refuse a prompt that is too long).
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

/// Returns how many of the oldest turns cannot fit into `room` tokens in any case. Rendering a long history again for
/// each dropped exchange would take hours; here each turn is tokenized once, the newest first, until the room is full.
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

    /// Returns the turns that a list of (role, content) becomes, each as `role: text`.
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
