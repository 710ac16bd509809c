//! An answer on the screen, token by token: whole characters only, tool calls dimmed.

use std::io::{IsTerminal, Write};

use nanochat_tokenizer::{StreamDecoder, Tokenizer};

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

pub struct Printer<'t> {
    tokenizer: &'t Tokenizer,
    decoder: StreamDecoder,
    /// Tool calls are for people at a terminal; a pipe gets the answer alone.
    shows_tools: bool,
    in_tool: bool,
}

impl Printer<'_> {
    pub fn new(tokenizer: &Tokenizer) -> Printer<'_> {
        let shows_tools = std::io::stdout().is_terminal();
        Printer { tokenizer, decoder: StreamDecoder::new(tokenizer), shows_tools, in_tool: false }
    }

    pub fn token(&mut self, id: u32) {
        if !self.tokenizer.is_special(id) {
            let text = self.decoder.push(id);
            self.print(&text);
            return;
        }
        let rest = self.decoder.finish();
        self.print(&rest);
        let is = |name: &str| self.tokenizer.special(name) == Some(id);
        let (in_tool, mark) = match () {
            _ if is("<|python_start|>") => (true, format!("{DIM}[")),
            _ if is("<|output_start|>") => (true, format!("{DIM} = ")),
            _ if is("<|python_end|>") => (false, PLAIN.to_string()),
            _ if is("<|output_end|>") => (false, format!("{DIM}]{PLAIN} ")),
            _ => return,
        };
        self.in_tool = true; // the marks belong to the tool call
        self.print(&mark);
        self.in_tool = in_tool;
    }

    /// Ends the answer's line.
    pub fn end(&mut self) {
        let rest = self.decoder.finish();
        self.print(&rest);
        if std::mem::take(&mut self.in_tool) && self.shows_tools {
            print!("{PLAIN}");
        }
        println!();
    }

    fn print(&self, text: &str) {
        if !self.in_tool || self.shows_tools {
            print!("{text}");
            let _ = std::io::stdout().flush(); // a closed pipe ends the process
        }
    }
}
