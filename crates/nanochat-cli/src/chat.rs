//! `nanochat chat`: a conversation with a model in the terminal.

mod printer;

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use nanochat::conversation::answer;
use nanochat::conversation::{Content, Conversation, Message, Role};
use nanochat::engine::sampler::SampleOptions;
use nanochat::engine::{Engine, EngineOptions, Finish, Request};
use nanochat::model::checkpoint::{self, FoundCheckpoint, LoadedModel, Stage};
use nanochat::terminal::counted::counted;
use nanochat::terminal::flag_values;
use nanochat_tensor::{Device, Dtype};
use nanochat_tokenizer::Tokenizer;
use printer::Printer;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// The model to load.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// A model folder: any NanoChat folder of Hugging Face transformers
    #[arg(short = 'm', long = "model", value_name = "FOLDER", conflicts_with_all = ["model_tag", "step"])]
    folder: Option<PathBuf>,
    /// Training stage of the model [default: the last that has finished: rl, else sft, mid, base]
    #[arg(long, value_enum)]
    source: Option<Stage>,
    /// Name of the run [default: the deepest model]
    #[arg(long)]
    model_tag: Option<String>,
    /// Step of the checkpoint [default: the last]
    #[arg(long, value_parser = flag_values::amount)]
    step: Option<usize>,
}

impl ModelArgs {
    pub fn load(&self, base_dir: &Path, device: &Device) -> Result<LoadedModel> {
        Ok(checkpoint::load_folder(&self.folder(base_dir)?)?.to_device(device)?)
    }

    fn folder(&self, base_dir: &Path) -> Result<PathBuf> {
        if let Some(folder) = &self.folder {
            return Ok(folder.clone());
        }
        let find = |stage| checkpoint::find(base_dir, stage, self.model_tag.as_deref(), self.step);
        Ok(match self.source {
            Some(stage) => find(stage)?,
            None => checkpoint::find_furthest(base_dir, self.model_tag.as_deref(), self.step)?,
        })
    }

    /// Prints which checkpoint was loaded, and that a base model does not chat; nothing for an explicit folder.
    pub fn tell(&self, loaded: &LoadedModel) {
        if let Some(found) = self.run_of(loaded) {
            let base = if self.is_base(loaded) { "; a base model is not trained to chat" } else { "" };
            eprintln!("using {found}{base}");
        }
    }

    /// Prints which model is evaluated, and returns its run.
    pub fn tell_measured(&self, loaded: &LoadedModel) -> Option<FoundCheckpoint> {
        let folder = loaded.folder.display();
        match FoundCheckpoint::of(&loaded.folder) {
            Some(found) => eprintln!("measuring {found}: {folder}"),
            None => eprintln!("measuring {folder}"),
        }
        self.run_of(loaded)
    }

    /// Returns the run whose report an evaluation belongs to; None for an explicit folder.
    pub fn run_of(&self, loaded: &LoadedModel) -> Option<FoundCheckpoint> {
        FoundCheckpoint::of(&loaded.folder).filter(|_| self.folder.is_none())
    }

    /// Whether the model was not trained to chat, so that it can only continue a text.
    fn is_base(&self, loaded: &LoadedModel) -> bool {
        self.source == Some(Stage::Base)
            || (self.folder.is_none() && Stage::of(&loaded.folder) == Some(Stage::Base))
    }
}

#[derive(clap::Args)]
pub struct ChatCommand {
    #[command(flatten)]
    model: ModelArgs,
    /// Answer this and exit
    #[arg(short = 'p', long)]
    prompt: Option<String>,
    /// A system message for the whole conversation
    #[arg(long)]
    system: Option<String>,
    /// Longest answer, in tokens
    #[arg(long, value_parser = flag_values::count, default_value_t = 256)]
    max_tokens: usize,
    /// Answers to each prompt
    #[arg(long, value_parser = flag_values::count, default_value_t = 1)]
    samples: usize,
    /// Weights on the CPU: f32, bf16 or int8
    #[arg(long, default_value_t = Dtype::Bf16)]
    weights: Dtype,
    #[command(flatten)]
    options: SampleOptions,
}

const HELP: &str = "\
/clear              start a new conversation
/temperature X      randomness, 0 to 2
/topk K             choose among the K likeliest tokens, 1 to 1000000000; 0: all
/topp P             choose within this probability, above 0 to 1
/penalty X          against repetition, 0.01 to 100; 1: none
/seed N             repeatable answers, 0 to 18446744073709551615
/max N              longest answer in tokens, 1 to 1000000
/system TEXT        a system message
/quit               leave (also Ctrl-D)
Ctrl-C stops an answer.";

pub fn run(command: &ChatCommand, base_dir: &Path, device: &Device) -> Result<()> {
    command.options.checked()?;
    let loaded = command.model.load(base_dir, device)?;
    command.model.tell(&loaded);
    let is_base = command.model.is_base(&loaded);
    let LoadedModel { model, tokenizer, folder } = loaded;
    let for_batch = EngineOptions::for_batch(device, command.samples);
    let options = EngineOptions { weights: command.weights, ..for_batch };
    let engine = Engine::with_options(&model, Some(&tokenizer), options);
    drop(model); // the engine has its own weights, of half the size or less
    let interrupt = Arc::new(AtomicBool::new(false));
    let mut chat = Chat {
        engine,
        tokenizer: &tokenizer,
        folder: &folder,
        completes: is_base,
        options: command.options,
        max_tokens: command.max_tokens,
        samples: command.samples,
        system: command.system.clone(),
        messages: Vec::new(),
        turn: 0,
        interrupt: interrupt.clone(),
    };
    if let Some(prompt) = &command.prompt {
        return chat.say(prompt);
    }
    if !std::io::stdin().is_terminal() {
        let prompt = std::io::read_to_string(std::io::stdin()).context("failed to read the prompt")?;
        return chat.say(prompt.trim_end());
    }
    signal_hook::flag::register(signal_hook::consts::SIGINT, interrupt)?;
    chat.talk(base_dir)
}

struct Chat<'m> {
    engine: Engine<'m>,
    tokenizer: &'m Tokenizer,
    folder: &'m Path,
    completes: bool,
    options: SampleOptions,
    max_tokens: usize,
    samples: usize,
    system: Option<String>,
    messages: Vec<Message>,
    /// The number of answers so far, which selects the random stream.
    turn: u64,
    interrupt: Arc<AtomicBool>,
}

impl Chat<'_> {
    /// Reads and answers lines until the end of input.
    fn talk(&mut self, base_dir: &Path) -> Result<()> {
        eprintln!("{}", self.folder.display());
        eprintln!(
            "{}",
            if self.completes {
                "It goes on with what you write. /help helps."
            } else {
                "Say something. /help helps."
            }
        );
        let mut editor = DefaultEditor::new().context("failed to open the terminal")?;
        let history = base_dir.join("chat_history.txt");
        let _ = editor.load_history(&history); // missing the first time
        loop {
            match editor.readline("\n> ") {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => {
                    let _ = editor.add_history_entry(&line);
                    let _ = editor.append_history(&history); // a read-only folder loses only the history
                    match self.command(line.trim()) {
                        Some(ControlFlow::Break(())) => return Ok(()),
                        Some(ControlFlow::Continue(())) => {}
                        None => {
                            if let Err(error) = self.say(&line) {
                                eprintln!("{error:#}");
                            }
                        }
                    }
                }
                Err(ReadlineError::Interrupted) => eprintln!("/quit or Ctrl-D leaves"),
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(error).context("failed to read from the terminal"),
            }
        }
    }

    /// Runs a line that is a command; None if it is not one.
    fn command(&mut self, line: &str) -> Option<ControlFlow<()>> {
        if matches!(line, "quit" | "exit" | "/quit" | "/exit") {
            return Some(ControlFlow::Break(()));
        }
        if line == "clear" {
            return self.command("/clear");
        }
        let (name, value) = line.strip_prefix('/')?.split_once(' ').unwrap_or((&line[1..], ""));
        let said = match name {
            "help" => Ok(HELP.to_string()),
            "clear" => {
                self.messages.clear();
                Ok("a new conversation".into())
            }
            "system" => {
                self.system = Some(value.trim().to_string()).filter(|text| !text.is_empty());
                self.messages.clear();
                Ok("a new conversation with this system message".into())
            }
            _ => self.set(name, value.trim()),
        };
        eprintln!("{}", said.unwrap_or_else(|error| format!("{error:#}")));
        Some(ControlFlow::Continue(()))
    }

    fn set(&mut self, name: &str, value: &str) -> Result<String> {
        let wrong = |wanted| anyhow!("/{name} {value} is left as it was: {wanted}");
        let mut options = self.options;
        match name {
            "temperature" => options.temperature = flag_values::temperature(value).map_err(wrong)?,
            "topk" => options.top_k = flag_values::amount(value).map_err(wrong)?,
            "topp" => options.top_p = flag_values::any(value).map_err(wrong)?,
            "penalty" => options.repetition_penalty = flag_values::any(value).map_err(wrong)?,
            "seed" => options.seed = flag_values::seed(value).map_err(wrong)?,
            "max" => self.max_tokens = flag_values::count(value).map_err(wrong)?,
            _ => bail!("there is no /{name}; /help lists what there is"),
        }
        self.options = options.checked()?;
        if name == "seed" {
            self.turn = 0;
        }
        Ok(format!("{name} is {value}"))
    }

    /// Answers `line`, streaming, and adds both to the conversation.
    fn say(&mut self, line: &str) -> Result<()> {
        let tokenizer = self.tokenizer;
        let prompt = if self.completes { self.text_prompt(line) } else { self.chat_prompt(line)? };
        let request = Request {
            prompt,
            samples: self.samples,
            max_tokens: self.max_tokens,
            options: self.options,
            stream: self.turn,
        };
        self.turn += 1;
        self.interrupt.store(false, Ordering::Relaxed);
        let mut printer = Printer::new(tokenizer);
        let streams = self.samples == 1;
        let answers = self.engine.generate(&[request], |token| {
            if streams {
                printer.token(token.id);
            }
            match self.interrupt.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        for (i, answer) in answers[0].iter().enumerate() {
            if !streams {
                println!("[{}]", i + 1);
                answer.ids.iter().for_each(|&id| printer.token(id));
            }
            printer.end();
            match answer.finish {
                Finish::Stop => {}
                Finish::Length => eprintln!("(cut at {} tokens)", answer.ids.len()),
                Finish::Cancelled => eprintln!("(stopped)"),
            }
        }
        if !self.completes {
            self.messages.push(answer::message(tokenizer, &answers[0][0].ids));
            self.forget_empty_answer();
        }
        Ok(())
    }

    fn text_prompt(&self, text: &str) -> Vec<u32> {
        let tokenizer = self.tokenizer;
        let bos = tokenizer.special("<|bos|>").unwrap_or(0);
        [vec![bos], tokenizer.encode(text)].concat()
    }

    /// Returns the prompt of the conversation with `line` at its end; drops the oldest turns if it is too long.
    fn chat_prompt(&mut self, line: &str) -> Result<Vec<u32>> {
        let context = self.engine.context();
        let room = context.saturating_sub(self.max_tokens.min(context / 2));
        self.messages.push(Message { role: Role::User, content: Content::Text(line.to_string()) });
        let mut dropped = 0;
        loop {
            let system = self.system.iter();
            let system =
                system.map(|text| Message { role: Role::System, content: Content::Text(text.clone()) });
            let messages = system.chain(self.messages.iter().cloned()).collect();
            let prompt = match (Conversation { messages }).render_for_completion(self.tokenizer) {
                Ok(prompt) => prompt,
                Err(error) => {
                    self.messages.pop();
                    return Err(error.into());
                }
            };
            if prompt.len() <= room || (self.messages.len() == 1 && prompt.len() < context) {
                if dropped > 0 {
                    let verb = if dropped == 1 { "was" } else { "were" };
                    let dropped = counted(dropped, "exchange");
                    eprintln!("({dropped} at the beginning {verb} dropped: the model sees {context} tokens)");
                }
                return Ok(prompt);
            }
            if self.messages.len() == 1 {
                self.messages.clear();
                bail!("that is {} tokens, and the model sees {context}; say it shorter", prompt.len());
            }
            self.messages.drain(..2);
            dropped += 1;
        }
    }

    /// Removes an empty answer together with its question, since a conversation may not contain one.
    fn forget_empty_answer(&mut self) {
        if self.messages.last().is_some_and(|message| message.content.text().trim().is_empty()) {
            self.messages.truncate(self.messages.len() - 2);
        }
    }
}
