//! Renders a report as one HTML file: it loads nothing, runs no script, and escapes all text. The charts are embedded
//! as images, in which scripts of an SVG would not run either.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::document::{ReportBlock, ReportTable, TableKind};
use super::words::Lang;

const STYLE: &str = "\
body{max-width:52rem;margin:0 auto;padding:1rem;font:16px/1.55 system-ui,sans-serif;color:#222;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.2rem;border-bottom:1px solid #ddd;padding-bottom:.2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.8rem 0;font-size:.92rem}
th,td{padding:.25rem .7rem;border-bottom:1px solid #e4e4e4;text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{white-space:nowrap;background:#f6f6f6}.n td+td,.n th+th{text-align:right;font-variant-numeric:tabular-nums}
img{max-width:100%;height:auto}figure{margin:1rem 0}li{overflow-wrap:anywhere}td:first-child{overflow-wrap:normal}
details{margin:.6rem 0}summary{cursor:pointer}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th{background:#262626}
th,td,h2{border-color:#383838}img{background:#fff;border-radius:4px}}";

/// Renders the report; charts are read from `folder`, and missing ones are left out.
pub fn html(blocks: &[ReportBlock], folder: &Path, lang: Lang) -> String {
    let title = blocks.iter().find_map(|block| match block {
        ReportBlock::Heading(1, title) => Some(escaped(title)),
        _ => None,
    });
    let mut body = String::new();
    for block in blocks {
        let _ = match block {
            ReportBlock::Heading(level, heading) => {
                writeln!(body, "<h{level}>{}</h{level}>", escaped(heading))
            }
            ReportBlock::Paragraph(text) => writeln!(body, "<p>{}</p>", escaped(text).replace('\n', "<br>")),
            ReportBlock::Table(table) => writeln!(body, "{}", rows(table)),
            ReportBlock::Chart(chart) => match fs::read_to_string(folder.join(&chart.file)) {
                Ok(svg) => writeln!(
                    body,
                    "<figure><img alt=\"{}\" src=\"data:image/svg+xml,{}\"></figure>",
                    escaped(&chart.title),
                    percent_encoded(&svg)
                ),
                Err(_) => Ok(()),
            },
            ReportBlock::Text(text) => write!(body, "{}", lines(text)),
        };
    }
    format!(
        "<!doctype html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        lang.code(),
        title.unwrap_or_default()
    )
}

/// Renders the rows of a table; long tables of settings are collapsed.
fn rows(table: &ReportTable) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>")
    };
    let class = if table.kind == TableKind::Numbers { " class=\"n\"" } else { "" };
    let head = match table.heads.iter().all(|head| head.is_empty()) {
        true => String::new(),
        false => format!("<thead>{}</thead>", row(&table.heads, "th")),
    };
    let body: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
    let table_html = format!("<div class=\"wide\"><table{class}>{head}<tbody>{body}</tbody></table></div>");
    match table.rows.len() > 12 && table.kind == TableKind::Settings {
        true => {
            let name = escaped(&format!("{} ({})", table.heads[0], table.rows.len()));
            format!("<details><summary>{name}</summary>{table_html}</details>")
        }
        false => table_html,
    }
}

fn lines(text: &str) -> String {
    let mut html = String::new();
    let mut in_list = false;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let item = line.strip_prefix("- ");
        if item.is_some() != in_list {
            html += if in_list { "</ul>\n" } else { "<ul>\n" };
            in_list = !in_list;
        }
        let _ = match item {
            Some(item) => writeln!(html, "<li>{}</li>", escaped(item)),
            None => writeln!(html, "<p>{}</p>", escaped(line)),
        };
    }
    if in_list {
        html += "</ul>\n";
    }
    html
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html += "&amp;",
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '"' => html += "&quot;",
            '\'' => html += "&#39;",
            // Control characters, which models may write, are not allowed in HTML.
            c if c.is_control() && c != '\n' && c != '\t' => html.push('\u{FFFD}'),
            c => html.push(c),
        }
    }
    html
}

/// Escapes an SVG for a data URL inside double quotes.
fn percent_encoded(svg: &str) -> String {
    let mut url = String::with_capacity(svg.len() * 3 / 2);
    for byte in svg.bytes() {
        match byte {
            b'%' | b'#' | b'<' | b'>' | b'"' | b'&' | b'`' => {
                let _ = write!(url, "%{byte:02X}");
            }
            b' '..=b'~' => url.push(byte as char),
            _ => {
                let _ = write!(url, "%{byte:02X}");
            }
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Chart;

    #[test]
    fn nothing_that_a_model_or_a_file_says_becomes_markup() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("c.svg"), "<svg><script>alert('#1')</script>\" 字</svg>").unwrap();
        let evil = "<script>x</script> & \"quoted\" 'and' \u{0}";
        let blocks = [
            ReportBlock::Heading(1, evil.into()),
            ReportBlock::Paragraph(evil.into()),
            ReportBlock::Table(ReportTable {
                heads: vec![evil.into(), String::new()],
                rows: vec![vec![evil.into(), "1".into()]],
                kind: TableKind::Numbers,
            }),
            ReportBlock::Chart(Chart { title: evil.into(), file: "c.svg".into() }),
            ReportBlock::Chart(Chart { title: "gone".into(), file: "gone.svg".into() }),
            ReportBlock::Text(format!("- {evil}\n- two\n\n{evil}\n")),
        ];
        let html = html(&blocks, dir.path(), Lang::Zh);
        assert!(!html.contains("<script") && !html.contains('\u{0}') && !html.contains("gone"), "{html}");
        assert_eq!(html.matches("&lt;script&gt;x&lt;/script&gt; &amp; &quot;quoted&quot;").count(), 8);
        assert!(
            html.contains("data:image/svg+xml,%3Csvg%3E%3Cscript%3Ealert('%231')%3C/script%3E%22 %E5%AD%97")
        );
        assert!(html.starts_with("<!doctype html>\n<html lang=\"zh\">") && html.contains("<ul>\n<li>"));
        assert!(!html.contains("http"), "nothing is fetched");
    }
}
