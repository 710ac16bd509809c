//! A report as markdown; its charts are files beside it.

use std::fmt::Write;

use super::document::{ReportBlock, ReportTable, TableKind};

pub fn markdown(blocks: &[ReportBlock]) -> String {
    let mut text = String::new();
    for (i, block) in blocks.iter().enumerate() {
        if i > 0 {
            text += "\n";
        }
        let _ = match block {
            ReportBlock::Heading(level, heading) => writeln!(text, "{} {heading}", "#".repeat(*level)),
            ReportBlock::Paragraph(paragraph) => writeln!(text, "{paragraph}"),
            ReportBlock::Table(table) => write!(text, "{}", rows(table)),
            ReportBlock::Chart(chart) => writeln!(text, "![{}]({})", chart.title, chart.file),
            ReportBlock::Text(lines) => writeln!(text, "{}", lines.trim_end()),
        };
    }
    text
}

fn rows(table: &ReportTable) -> String {
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = |i| if table.kind == TableKind::Numbers && i > 0 { "---:|" } else { "---|" };
    let rules: String = (0..table.heads.len()).map(rule).collect();
    let body: String = table.rows.iter().map(|cells| row(cells)).collect();
    format!("{}|{rules}\n{body}", row(&table.heads))
}

/// Escapes text so that it cannot end its cell of a markdown table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
