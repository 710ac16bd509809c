//! A report as markdown; its charts are files beside it.

use std::fmt::Write;

use super::document::{Block, Table, TableKind};

pub fn markdown(blocks: &[Block]) -> String {
    let mut text = String::new();
    for (i, block) in blocks.iter().enumerate() {
        if i > 0 {
            text += "\n";
        }
        let _ = match block {
            Block::Heading(level, heading) => writeln!(text, "{} {heading}", "#".repeat(*level)),
            Block::Paragraph(paragraph) => writeln!(text, "{paragraph}"),
            Block::Table(table) => write!(text, "{}", rows(table)),
            Block::Chart(chart) => writeln!(text, "![{}]({})", chart.title, chart.file),
            Block::Text(lines) => writeln!(text, "{}", lines.trim_end()),
        };
    }
    text
}

fn rows(table: &Table) -> String {
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = |i| if table.kind == TableKind::Numbers && i > 0 { "---:|" } else { "---|" };
    let rules: String = (0..table.heads.len()).map(rule).collect();
    let body: String = table.rows.iter().map(|cells| row(cells)).collect();
    format!("{}|{rules}\n{body}", row(&table.heads))
}

/// Text that cannot end its cell of a markdown table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
