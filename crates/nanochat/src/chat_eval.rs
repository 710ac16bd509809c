//! Held-out questions put to a chat model: how many answers are right, and in the right language.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result};
use nanochat_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::answer;
use crate::engine::{Engine, Request};
use crate::gpt::Gpt;
use crate::sampler::SampleOptions;
use crate::world::{Kind, Question};

/// Longest answer, in tokens: the world's longest gold answers are about 60.
const MAX_TOKENS: usize = 128;

/// Answers right of all, in one kind of question or over all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub right: usize,
    pub total: usize,
}

impl Score {
    fn count(&mut self, right: bool) {
        self.right += usize::from(right);
        self.total += 1;
    }

    pub fn share(&self) -> f64 {
        self.right as f64 / self.total.max(1) as f64
    }

    /// Half the width of the 95 % confidence interval (normal approximation).
    pub fn margin(&self) -> f64 {
        let p = self.share();
        1.96 * (p * (1.0 - p) / self.total.max(1) as f64).sqrt()
    }
}

/// What an evaluation found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ChatScores {
    pub by_kind: BTreeMap<Kind, Score>,
    /// Answers in the language of their question.
    pub language: Score,
    /// Answers without U+FFFD, that is, in whole characters.
    pub whole_characters: Score,
    pub wrong: Vec<WrongAnswer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WrongAnswer {
    pub kind: Kind,
    pub question: String,
    pub expected: String,
    pub answer: String,
}

/// Questions as `nanochat data make` writes them, at most `per_kind` of each kind.
pub fn read_questions(path: &Path, per_kind: usize) -> Result<Vec<Question>> {
    let hint = || format!("failed to read {}; `nanochat data make` writes it", path.display());
    let mut seen: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut questions = Vec::new();
    for (i, line) in BufReader::new(File::open(path).with_context(hint)?).lines().enumerate() {
        let question: Question = serde_json::from_str(&line.with_context(hint)?)
            .with_context(|| format!("{}, line {}: not a question", path.display(), i + 1))?;
        let seen = seen.entry(question.kind).or_default();
        *seen += 1;
        if *seen <= per_kind {
            questions.push(question);
        }
    }
    Ok(questions)
}

/// Greedy answers to all `questions`, graded.
pub fn evaluate(
    model: &Gpt,
    tokenizer: &Tokenizer,
    questions: &[Question],
    mut progress: impl FnMut(),
) -> Result<ChatScores> {
    let options = SampleOptions { temperature: 0.0, ..SampleOptions::default() };
    let request = |question: &Question| {
        let prompt = question.conversation.render_for_completion(tokenizer)?;
        Ok(Request { prompt, samples: 1, max_tokens: MAX_TOKENS, options, stream: 0 })
    };
    let requests: Vec<Request> = questions.iter().map(request).collect::<Result<_>>()?;
    let mut answering = vec![false; requests.len()];
    let answers = Engine::new(model, tokenizer).generate(&requests, |token| {
        if !std::mem::replace(&mut answering[token.request], true) {
            progress();
        }
        ControlFlow::Continue(())
    });
    let mut scores = ChatScores::default();
    for (question, answers) in questions.iter().zip(answers) {
        let answer = answer::visible_text(tokenizer, &answers[0].ids);
        let right = question.is_right(&answer);
        scores.by_kind.entry(question.kind).or_default().count(right);
        scores.language.count(question.is_in_its_language(&answer));
        scores.whole_characters.count(!answer.contains('\u{FFFD}'));
        if !right {
            let question_text = question.conversation.messages.last().map(|m| m.content.text());
            scores.wrong.push(WrongAnswer {
                kind: question.kind,
                question: question_text.unwrap_or_default(),
                expected: question.answer.clone(),
                answer: tokenizer.decode(&answers[0].ids),
            });
        }
    }
    Ok(scores)
}
