//! An answer on the screen, token by token: whole characters only, none that the terminal obeys, tool calls dimmed.

use std::io::IsTerminal;

use nanochat_tokenizer::{StreamDecoder, Tokenizer};

use crate::output;

pub struct Printer<'t> {
    tokenizer: &'t Tokenizer,
    decoder: StreamDecoder,
    /// Tool calls are for people at a terminal; a pipe gets the answer alone.
    shows_tools: bool,
    /// Before and after what is dimmed; empty without colours.
    dim: [&'static str; 2],
    in_tool: bool,
}

impl Printer<'_> {
    pub fn new(tokenizer: &Tokenizer) -> Printer<'_> {
        let shows_tools = std::io::stdout().is_terminal();
        let dim = if output::is_coloured() { ["\x1b[2m", "\x1b[0m"] } else { ["", ""] };
        Printer { tokenizer, decoder: StreamDecoder::new(tokenizer), shows_tools, dim, in_tool: false }
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
        let [dim, plain] = self.dim;
        let (in_tool, mark) = match () {
            _ if is("<|python_start|>") => (true, format!("{dim}[")),
            _ if is("<|output_start|>") => (true, format!("{dim} = ")),
            _ if is("<|python_end|>") => (false, plain.to_string()),
            _ if is("<|output_end|>") => (false, format!("{dim}]{plain} ")),
            _ => return,
        };
        self.in_tool = in_tool;
        if self.shows_tools {
            output::print_raw(&mark);
        }
    }

    /// Ends the answer's line.
    pub fn end(&mut self) {
        let rest = self.decoder.finish();
        self.print(&rest);
        if std::mem::take(&mut self.in_tool) && self.shows_tools {
            output::print_raw(self.dim[1]);
        }
        println!();
    }

    fn print(&self, text: &str) {
        if !self.in_tool || self.shows_tools {
            output::print_data(text);
        }
    }
}
