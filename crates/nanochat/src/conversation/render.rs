//! Renders a conversation to tokens, with a mask of those that finetuning trains (nanochat's `render_conversation`).

use std::borrow::Cow;

use nanochat_tokenizer::{NoSpecial, Tokenizer};

use super::{Content, Conversation, ConversationError, Message, Part, PartKind, Role};

/// Tokens of a conversation. `mask[i]` says whether finetuning trains the model to predict `ids[i]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rendered {
    pub ids: Vec<u32>,
    pub mask: Vec<bool>,
    /// The factor of each token's loss, if it is trained; 1 if the data gives no other.
    pub weights: Vec<f32>,
    /// Whether some of the conversation did not fit into `max_len`.
    pub cut: bool,
}

/// A part of a message; its text is borrowed unless a system message was prepended.
type PartText<'a> = (PartKind, Cow<'a, str>);

impl Conversation {
    /// Renders at most `max_len` tokens: as many whole exchanges (user and assistant) as fit or, if the first one alone
    /// is too long, its prefix.
    pub fn render(&self, tokenizer: &Tokenizer, max_len: usize) -> Result<Rendered, ConversationError> {
        self.render_weighing(tokenizer, max_len, |_| 1.0)
    }

    /// Renders like [`Conversation::render`]; `weight_of` gives the weight of a message by its index.
    pub(super) fn render_weighing(
        &self,
        tokenizer: &Tokenizer,
        max_len: usize,
        weight_of: impl Fn(usize) -> f32,
    ) -> Result<Rendered, ConversationError> {
        self.validate()?;
        let marks = ChatTokens::of(tokenizer)?;
        let mut rendered = Rendered::default();
        rendered.push(marks.bos, false);
        rendered.weigh(1.0);
        let turns = self.turns();
        let mut numbers = self.messages.len() - turns.len()..;
        for (i, exchange) in turns.chunks(2).enumerate() {
            let before = rendered.ids.len();
            for ((role, parts), number) in exchange.iter().zip(&mut numbers) {
                rendered.push_turn(tokenizer, &marks, *role, parts);
                rendered.weigh(weight_of(number));
            }
            if rendered.ids.len() > max_len {
                rendered.cut_to(if i == 0 { max_len } else { before });
                break;
            }
        }
        Ok(rendered)
    }

    /// Renders the prompt for an answer: without the last assistant turn if there is one, ending in
    /// `<|assistant_start|>`.
    pub fn render_for_completion(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, ConversationError> {
        self.validate_turns()?;
        let marks = ChatTokens::of(tokenizer)?;
        let mut rendered = Rendered::default();
        rendered.push(marks.bos, false);
        let mut turns = self.turns();
        if matches!(turns.last(), Some((Role::Assistant, _))) {
            turns.pop();
        }
        for (role, parts) in &turns {
            rendered.push_turn(tokenizer, &marks, *role, parts);
        }
        rendered.push(marks.assistant_start, false);
        Ok(rendered.ids)
    }

    /// Returns the user and assistant turns in parts; a system message is prepended to the first user's text.
    fn turns(&self) -> Vec<(Role, Vec<PartText<'_>>)> {
        let (system, turns) = match self.messages.split_first() {
            Some((Message { role: Role::System, content }, rest)) => (Some(content.text()), rest),
            _ => (None, self.messages.as_slice()),
        };
        let mut turns: Vec<_> =
            turns.iter().map(|message| (message.role, parts_of(&message.content))).collect();
        if let (Some(system), Some((_, first))) = (system, turns.first_mut()) {
            let user: String = first.iter().map(|(_, text)| text.as_ref()).collect();
            *first = vec![(PartKind::Text, format!("{system}\n\n{user}").into())];
        }
        turns
    }
}

fn parts_of(content: &Content) -> Vec<PartText<'_>> {
    match content {
        Content::Text(text) => vec![(PartKind::Text, text.into())],
        Content::Parts(parts) => parts.iter().map(|Part { kind, text }| (*kind, text.into())).collect(),
    }
}

impl Rendered {
    fn push(&mut self, id: u32, trained: bool) {
        self.ids.push(id);
        self.mask.push(trained);
    }

    fn push_text(&mut self, tokenizer: &Tokenizer, text: &str, trained: bool) {
        tokenizer.encode_into(text, &mut self.ids);
        self.mask.resize(self.ids.len(), trained);
    }

    fn push_turn(&mut self, tokenizer: &Tokenizer, marks: &ChatTokens, role: Role, parts: &[PartText<'_>]) {
        let assistant = role == Role::Assistant;
        self.push(if assistant { marks.assistant_start } else { marks.user_start }, false);
        for (kind, text) in parts {
            // The model is given a tool's results, but not trained to produce them.
            let trained = assistant && *kind != PartKind::PythonOutput;
            let around = match kind {
                PartKind::Text => None,
                PartKind::Python => Some(marks.python),
                PartKind::PythonOutput => Some(marks.output),
            };
            around.inspect(|(start, _)| self.push(*start, trained));
            self.push_text(tokenizer, text, trained);
            around.inspect(|(_, end)| self.push(*end, trained));
        }
        self.push(if assistant { marks.assistant_end } else { marks.user_end }, assistant);
    }

    /// Gives the tokens pushed since the last call this weight; tokens of untrained messages stay masked.
    fn weigh(&mut self, weight: f32) {
        if weight == 0.0 {
            self.mask[self.weights.len()..].fill(false);
        }
        self.weights.resize(self.ids.len(), weight);
    }

    fn cut_to(&mut self, len: usize) {
        self.ids.truncate(len);
        self.mask.truncate(len);
        self.weights.truncate(len);
        self.cut = true;
    }
}

/// The special tokens of a chat.
struct ChatTokens {
    bos: u32,
    user_start: u32,
    user_end: u32,
    assistant_start: u32,
    assistant_end: u32,
    /// The special tokens around tool calls, and those around their results.
    python: (u32, u32),
    output: (u32, u32),
}

impl ChatTokens {
    fn of(tokenizer: &Tokenizer) -> Result<ChatTokens, NoSpecial> {
        let id = |name| tokenizer.need_special(name);
        let around = |kind: PartKind| {
            let (start, end) = kind.around().expect("only text has nothing around it");
            Ok((id(start)?, id(end)?))
        };
        Ok(ChatTokens {
            bos: id("<|bos|>")?,
            user_start: id("<|user_start|>")?,
            user_end: id("<|user_end|>")?,
            assistant_start: id("<|assistant_start|>")?,
            assistant_end: id("<|assistant_end|>")?,
            python: around(PartKind::Python)?,
            output: around(PartKind::PythonOutput)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tokenizer;

    /// Writes tokens as `[name]` for special tokens and plain ASCII for bytes; a `*` before either means trained.
    fn readable(rendered: &Rendered) -> String {
        let tokenizer = tokenizer();
        let names = ["bos", "user_start", "user_end", "assistant_start", "assistant_end"]
            .into_iter()
            .chain(["python_start", "python_end", "output_start", "output_end"]);
        let by_id: std::collections::HashMap<u32, &str> =
            names.map(|name| (tokenizer.special(&format!("<|{name}|>")).unwrap(), name)).collect();
        let token = |(&id, &trained): (&u32, &bool)| {
            let star = if trained { "*" } else { "" };
            match by_id.get(&id) {
                Some(name) => format!("{star}[{name}]"),
                None => format!("{star}{}", tokenizer.decode(&[id])),
            }
        };
        rendered.ids.iter().zip(&rendered.mask).map(token).collect()
    }

    fn parse(json: &str) -> Conversation {
        Conversation { messages: serde_json::from_str(json).unwrap() }
    }

    const TOOL_USE: &str = r#"[
        {"role": "system", "content": "S"},
        {"role": "user", "content": "a<|bos|>"},
        {"role": "assistant", "content": [
            {"type": "text", "text": "t"}, {"type": "python", "text": "1+1"},
            {"type": "python_output", "text": "2"}, {"type": "text", "text": "u"}]},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "cd"}]"#;

    const FIRST: &str = "[bos][user_start]S\n\na<|bos|>[user_end]\
        [assistant_start]*t*[python_start]*1*+*1*[python_end][output_start]2[output_end]*u*[assistant_end]";
    const SECOND: &str = "[user_start]b[user_end][assistant_start]*c*d*[assistant_end]";

    #[test]
    fn only_what_the_assistant_writes_is_trained() {
        let rendered = parse(TOOL_USE).render(&tokenizer(), 100).unwrap();
        assert_eq!(readable(&rendered), format!("{FIRST}{SECOND}"));
        assert!(!rendered.cut);
    }

    #[test]
    fn completion_drops_the_last_answer() {
        let conversation = parse(TOOL_USE);
        let full = conversation.render(&tokenizer(), 100).unwrap().ids;
        let prompt = conversation.render_for_completion(&tokenizer()).unwrap();
        assert_eq!(prompt, full[..full.len() - 3]);
        let mut unanswered = conversation;
        unanswered.messages.pop();
        assert_eq!(unanswered.render_for_completion(&tokenizer()).unwrap(), prompt);
        assert_eq!(unanswered.render(&tokenizer(), 100), Err(ConversationError::NoAnswer));
    }

    #[test]
    fn too_long_conversations_lose_whole_exchanges_and_at_last_their_end() {
        let conversation = parse(TOOL_USE);
        let whole = conversation.render(&tokenizer(), 100).unwrap().ids.len();
        assert!(!conversation.render(&tokenizer(), whole).unwrap().cut);
        let shorter = conversation.render(&tokenizer(), whole - 1).unwrap();
        assert_eq!((readable(&shorter).as_str(), shorter.cut), (FIRST, true));
        let beginning = conversation.render(&tokenizer(), 16).unwrap();
        assert_eq!((beginning.ids.len(), beginning.mask.len(), beginning.cut), (16, 16, true));
        assert!(FIRST.starts_with(&readable(&beginning)));
    }

    #[test]
    fn a_user_with_text_parts_says_all_of_them() {
        let json = r#"[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c"}]"#;
        let rendered = parse(json).render(&tokenizer(), 100).unwrap();
        assert_eq!(readable(&rendered), "[bos][user_start]ab[user_end][assistant_start]*c*[assistant_end]");
    }
}
