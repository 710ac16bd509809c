//! Evaluates a chat model on tasks (nanochat's chat_eval.py).
//!
//! In a categorical task the answer is the offered letter with the highest logit after `<|assistant_start|>`. In a
//! generative task it is the generated text, and an item is solved if any of its samples is right.

use std::ops::ControlFlow;

use anyhow::{Result, bail};
use nanochat_tensor::{Comm, Rng};
use nanochat_tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::chat::tasks::{CHAT_CORE, Grading, Task};
use crate::conversation::answer;
use crate::engine::sampler::SampleOptions;
use crate::engine::{Engine, EngineOptions, Request};
use crate::measure::score::Score;
use crate::measure::span_loss::{after_each, argmax};
use crate::model::gpt::Gpt;
use crate::ranks::Shares;

/// Options for making answers.
#[derive(Clone, Debug)]
pub struct ChatEvalOptions {
    /// The maximum length of an answer, in tokens.
    pub max_tokens: usize,
    /// The number of answers to each question of a generative task.
    pub samples: usize,
    pub sample: SampleOptions,
    /// The number of wrong answers of each task to keep, chosen at random.
    pub keep_wrong: usize,
}

/// The result of one task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChatTaskScore {
    pub task: String,
    pub score: Score,
    pub accuracy: f64,
    /// The 95 % confidence interval of the accuracy.
    pub interval: [f64; 2],
    /// The accuracy of guessing.
    pub baseline: f64,
    /// The answers in the language of their question, if the task knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_its_language: Option<Score>,
    /// The generated answers without U+FFFD, that is, with whole characters only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_characters: Option<Score>,
    pub wrong: Vec<WrongAnswer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WrongAnswer {
    pub question: String,
    pub expected: String,
    pub answer: String,
}

/// Evaluates a model on all items of a task, each on the rank that owns it. `progress` is called once for each item of
/// this rank. Fails if the task cannot be graded.
pub fn evaluate(
    model: &Gpt,
    tokenizer: &Tokenizer,
    task: &dyn Task,
    options: &ChatEvalOptions,
    comm: &Comm,
    progress: &(impl Fn() + Sync),
) -> Result<ChatTaskScore> {
    let size = |i| -> usize { task.conversation(i).messages.iter().map(|m| m.content.text().len()).sum() };
    let shares = Shares::by_size(comm, (0..task.len()).map(size));
    let items: Vec<usize> = shares.mine().collect();
    let prompt = |&i: &usize| task.conversation(i).render_for_completion(tokenizer);
    let prompts = items.iter().map(prompt).collect::<Result<Vec<_>, _>>()?;
    let answers = match task.kind() {
        Grading::Categorical => letters(model, tokenizer, task, &items, &prompts, progress)?,
        Grading::Generative => written(model, tokenizer, &items, prompts, options, progress),
        Grading::Talk => bail!("{} has nothing to grade: it is for training", task.name()),
    };
    // Grading may run programs.
    let graded = |(&i, answers): (&usize, Vec<String>)| {
        for answer in &answers {
            if task.grade(i, answer)? {
                return Ok((answers, true));
            }
        }
        Ok((answers, false))
    };
    let graded = items.par_iter().zip(answers).map(graded).collect::<Result<Vec<_>>>()?;
    let (answers, right): (Vec<_>, Vec<_>) = shares.gather(comm, graded).into_iter().unzip();
    Ok(summed(task, &answers, &right, options.keep_wrong))
}

fn summed(task: &dyn Task, answers: &[Vec<String>], right: &[bool], keep_wrong: usize) -> ChatTaskScore {
    let (mut score, mut language, mut whole) = (Score::default(), Score::default(), Score::default());
    for (i, answers) in answers.iter().enumerate() {
        score.count(right[i]);
        for answer in answers {
            if let Some(is_in_it) = task.is_in_its_language(i, answer) {
                language.count(is_in_it);
            }
            whole.count(!answer.contains('\u{FFFD}'));
        }
    }
    let mut wrong: Vec<usize> = (0..right.len()).filter(|&i| !right[i]).collect();
    Rng::new(&[wrong.len() as u64]).shuffle(&mut wrong);
    wrong.truncate(keep_wrong);
    let wrong_answer = |i: usize| {
        let mut messages = task.conversation(i).messages;
        let expected = messages.pop().map(|message| message.content.text()).unwrap_or_default();
        let question = messages.pop().map(|message| message.content.text()).unwrap_or_default();
        WrongAnswer { question, expected, answer: answers[i].first().cloned().unwrap_or_default() }
    };
    ChatTaskScore {
        task: task.name().into(),
        score,
        accuracy: score.share(),
        interval: score.interval(),
        baseline: task.baseline(),
        in_its_language: (language.total > 0).then_some(language),
        whole_characters: (task.kind() == Grading::Generative).then_some(whole),
        wrong: wrong.into_iter().map(wrong_answer).collect(),
    }
}

/// Returns, for each item, the likeliest of its letters.
fn letters(
    model: &Gpt,
    tokenizer: &Tokenizer,
    task: &dyn Task,
    items: &[usize],
    prompts: &[Vec<u32>],
    progress: &(impl Fn() + Sync),
) -> Result<Vec<Vec<String>>> {
    let id = |letter: &String| match tokenizer.encode(letter).as_slice() {
        [id] => Ok(*id),
        ids => bail!("the tokenizer makes {} tokens of the letter {letter}; one is needed", ids.len()),
    };
    let ids = |i: usize| task.letters(i).iter().map(id).collect::<Result<Vec<u32>>>();
    let ids = items.iter().map(|&i| ids(i)).collect::<Result<Vec<_>>>()?;
    let mut offered: Vec<u32> = ids.iter().flatten().copied().collect();
    offered.sort_unstable();
    offered.dedup();
    let chosen = after_each(model, prompts, &offered, |i, logits| {
        progress();
        let logit = |id| logits[offered.binary_search(id).expect("all are among the offered")];
        argmax(&ids[i].iter().map(logit).collect::<Vec<f32>>())
    });
    Ok(items.iter().zip(chosen).map(|(&i, letter)| vec![task.letters(i)[letter].clone()]).collect())
}

/// Returns the model's answers to each prompt: the visible text of all samples.
fn written(
    model: &Gpt,
    tokenizer: &Tokenizer,
    items: &[usize],
    prompts: Vec<Vec<u32>>,
    options: &ChatEvalOptions,
    progress: &(impl Fn() + Sync),
) -> Vec<Vec<String>> {
    let completions = complete(model, tokenizer, items, prompts, options, progress);
    let text = |ids: &Vec<u32>| answer::visible_text(tokenizer, ids);
    completions.iter().map(|samples| samples.iter().map(text).collect()).collect()
}

/// Generates the tokens of all samples of all prompts.
fn complete(
    model: &Gpt,
    tokenizer: &Tokenizer,
    items: &[usize],
    prompts: Vec<Vec<u32>>,
    options: &ChatEvalOptions,
    progress: &(impl Fn() + Sync),
) -> Vec<Vec<Vec<u32>>> {
    let request = |(&item, prompt): (&usize, Vec<u32>)| Request {
        prompt,
        samples: options.samples,
        max_tokens: options.max_tokens,
        options: options.sample,
        stream: item as u64,
    };
    let requests: Vec<Request> = items.iter().zip(prompts).map(request).collect();
    let mut seen = vec![false; requests.len()];
    let rows = EngineOptions::for_batch(&model.device(), requests.len() * options.samples);
    let completions = Engine::with_options(model, Some(tokenizer), rows).generate(&requests, |token| {
        if !std::mem::replace(&mut seen[token.request], true) {
            progress();
        }
        ControlFlow::Continue(())
    });
    completions.into_iter().map(|samples| samples.into_iter().map(|sample| sample.ids).collect()).collect()
}

/// Returns the ChatCORE metric, the mean over its six tasks of the accuracy above guessing, or the names of the tasks
/// that are missing.
pub fn chat_core(scores: &[ChatTaskScore]) -> Result<f64, Vec<&'static str>> {
    let find = |name: &'static str| scores.iter().find(|score| score.task == name).ok_or(name);
    let missing: Vec<&str> = CHAT_CORE.into_iter().filter(|name| find(name).is_err()).collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    let centered = CHAT_CORE.into_iter().filter_map(|name| find(name).ok());
    Ok(centered.map(|score| score.score.centered(score.baseline)).sum::<f64>() / CHAT_CORE.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::tasks::{Folders, Split, TaskError, open};
    use crate::conversation::{Content, Conversation, Message, Role};
    use crate::model::config::GptConfig;
    use crate::sandbox::SandboxError;
    use crate::testing::{on_ranks, tokenizer};

    fn score(task: &str, right: usize, baseline: f64) -> ChatTaskScore {
        let score = Score { right, total: 4 };
        ChatTaskScore {
            task: task.into(),
            score,
            accuracy: score.share(),
            interval: score.interval(),
            baseline,
            in_its_language: None,
            whole_characters: None,
            wrong: Vec::new(),
        }
    }

    #[test]
    fn chat_core_is_of_all_six_or_of_none() {
        let mut scores: Vec<ChatTaskScore> = CHAT_CORE[..3].iter().map(|task| score(task, 2, 0.25)).collect();
        scores.extend(CHAT_CORE[3..5].iter().map(|task| score(task, 1, 0.0)));
        assert_eq!(chat_core(&scores), Err(vec!["SpellingBee"]));
        scores.push(score("SpellingBee", 4, 0.0));
        scores.push(score("my own", 4, 0.0));
        assert!((chat_core(&scores).unwrap() - (3.0 / 3.0 + 0.25 + 0.25 + 1.0) / 6.0).abs() < 1e-9);
    }

    /// Writes a file of questions and opens it as a task.
    fn task(text: &str) -> (tempfile::TempDir, Box<dyn Task>) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("mine.jsonl");
        std::fs::write(&path, text).unwrap();
        let task = open(path.to_str().unwrap(), Split::Test, &Folders::of(temp.path())).unwrap();
        (temp, task)
    }

    fn model() -> Gpt {
        let mut model = Gpt::init(GptConfig::from_depth(1, 265, 128).unwrap(), 1);
        for (i, (_, _, w)) in model.params_mut().into_iter().enumerate() {
            let mut rng = Rng::new(&[5, i as u64]);
            w.data_mut().iter_mut().for_each(|w| *w = 0.2 * rng.normal());
        }
        model
    }

    fn evaluated(file: &str) -> Result<ChatTaskScore> {
        evaluated_by(file, 0.0, &Comm::alone())
    }

    fn evaluated_by(file: &str, temperature: f32, comm: &Comm) -> Result<ChatTaskScore> {
        let sample = SampleOptions { temperature, ..SampleOptions::default() };
        let options = ChatEvalOptions { max_tokens: 8, samples: 2, sample, keep_wrong: 2 };
        evaluate(&model(), &tokenizer(), &*task(file).1, &options, comm, &|| ())
    }

    #[test]
    fn any_number_of_ranks_finds_what_one_does() {
        let choice =
            |i: usize| serde_json::json!({"question": format!("q{i}"), "choices": ["a", "b"], "answer": "A"});
        let written =
            |i: usize| serde_json::json!({"question": "q".repeat(i), "answer": "x", "grade": "contains"});
        let lines = |line: &dyn Fn(usize) -> serde_json::Value| -> String {
            (1..8).map(|i| line(i).to_string() + "\n").collect()
        };
        for file in [lines(&choice), lines(&written)] {
            let one = serde_json::to_value(evaluated_by(&file, 1.0, &Comm::alone()).unwrap()).unwrap();
            for world in [2, 3, 9] {
                let ranks = on_ranks(world, |comm| evaluated_by(&file, 1.0, &comm).unwrap());
                for score in ranks {
                    assert_eq!(serde_json::to_value(score).unwrap(), one, "{world} ranks");
                }
            }
        }
    }

    #[test]
    fn the_likeliest_offered_letter_is_the_answer() {
        let (model, tokenizer) = (model(), tokenizer());
        let line = |i: usize, answer: &str| {
            format!(
                "{{\"question\": \"q{}\", \"choices\": [\"a\", \"b\", \"c\"], \"answer\": \"{answer}\"}}\n",
                "x".repeat(i)
            )
        };
        let likeliest = |i: usize| {
            let (_temp, task) = task(&line(i, "A"));
            let prompt = task.conversation(0).render_for_completion(&tokenizer).unwrap();
            let logits = model.logits(&prompt, [1, prompt.len()]);
            let last = &logits.data()[(prompt.len() - 1) * 265..];
            ["A", "B", "C"].into_iter().max_by(|a, b| {
                last[usize::from(a.as_bytes()[0])].total_cmp(&last[usize::from(b.as_bytes()[0])])
            })
        };
        let right: String = (0..6).map(|i| line(i, likeliest(i).unwrap())).collect();
        let found = evaluated(&right).unwrap();
        assert_eq!((found.score, found.wrong.len()), (Score { right: 6, total: 6 }, 0));
        let wrong: String =
            (0..6).map(|i| line(i, if likeliest(i) == Some("A") { "B" } else { "A" })).collect();
        let found = evaluated(&wrong).unwrap();
        assert_eq!((found.score, found.wrong.len()), (Score { right: 0, total: 6 }, 2));
        assert!(
            found.wrong[0].question.contains("Multiple Choice question: q")
                && found.wrong[0].answer.len() == 1
        );
    }

    /// A task like HumanEval on a machine that cannot start programs.
    struct Ungradable;

    impl Task for Ungradable {
        fn name(&self) -> &str {
            "Ungradable"
        }

        fn kind(&self) -> Grading {
            Grading::Generative
        }

        fn len(&self) -> usize {
            1
        }

        fn conversation(&self, _i: usize) -> Conversation {
            let says = |role, text: &str| Message { role, content: Content::Text(text.into()) };
            Conversation { messages: vec![says(Role::User, "q"), says(Role::Assistant, "a")] }
        }

        fn grade(&self, _i: usize, _answer: &str) -> Result<bool, TaskError> {
            Err(SandboxError::NotStarted("no memory".into()).into())
        }
    }

    #[test]
    fn what_cannot_be_graded_ends_the_evaluation() {
        let options =
            ChatEvalOptions { max_tokens: 1, samples: 1, sample: SampleOptions::default(), keep_wrong: 0 };
        let error =
            evaluate(&model(), &tokenizer(), &Ungradable, &options, &Comm::alone(), &|| ()).unwrap_err();
        assert!(error.to_string().ends_with("says nothing about the program: no memory"), "{error}");
    }

    #[test]
    fn what_the_model_writes_is_graded() {
        let line = |answer: &str, grade: &str| {
            serde_json::json!({"question": "q", "answer": answer, "grade": grade}).to_string() + "\n"
        };
        let text = line("", "regex").replace("\"answer\":\"\"", "\"answer\":\".*\"")
            + &line("no such answer", "exact");
        let found = evaluated(&text).unwrap();
        assert_eq!(found.score, Score { right: 1, total: 2 });
        assert_eq!(found.whole_characters.map(|whole| whole.total), Some(4));
        let talk = r#"[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]"#;
        let error = evaluated(talk).unwrap_err();
        assert_eq!(error.to_string(), "mine has nothing to grade: it is for training");
    }
}
