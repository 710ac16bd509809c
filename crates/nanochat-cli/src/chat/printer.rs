//! Prints an answer token by token: only whole characters, no terminal escape sequences, tool calls dimmed.

use std::io::IsTerminal;

use nanochat::conversation::PartKind;
use nanochat::conversation::answer::{AnswerReader, Token};
use nanochat_tokenizer::{StreamDecoder, Tokenizer};

use crate::output;

pub struct Printer {
    reader: AnswerReader,
    decoder: StreamDecoder,
    /// Whether tool calls are shown: on a terminal only; a pipe gets just the answer.
    shows_tools: bool,
    /// The escape codes before and after dimmed text; empty without colours.
    dim: [&'static str; 2],
    in_tool: bool,
}

impl Printer {
    pub fn new(tokenizer: &Tokenizer) -> Printer {
        let shows_tools = std::io::stdout().is_terminal();
        let dim = if output::is_coloured() { ["\x1b[2m", "\x1b[0m"] } else { ["", ""] };
        let (reader, decoder) = (AnswerReader::new(tokenizer), StreamDecoder::new(tokenizer));
        Printer { reader, decoder, shows_tools, dim, in_tool: false }
    }

    pub fn token(&mut self, id: u32) {
        let [dim, plain] = self.dim;
        let (in_tool, mark) = match self.reader.read(id) {
            Token::Of(_) => {
                let text = self.decoder.push(id);
                return self.print(&text);
            }
            Token::Opens(PartKind::PythonOutput) => (true, format!("{dim} = ")),
            Token::Opens(_) => (true, format!("{dim}[")),
            Token::Closes(PartKind::PythonOutput) => (false, format!("{dim}]{plain} ")),
            Token::Closes(_) => (false, plain.to_string()),
            Token::Stops | Token::Stray => (self.in_tool, String::new()),
        };
        let rest = self.decoder.finish();
        self.print(&rest);
        self.in_tool = in_tool;
        if self.shows_tools {
            output::print_raw(&mark);
        }
    }

    /// Ends the line of the answer.
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
