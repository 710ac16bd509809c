//! The content of a report, in blocks that [`super::markdown`] and [`super::html`] render.

use serde_json::{Map, Value};

use super::words::Lang;
use super::{Chart, Column, Header, Section};

pub enum ReportBlock {
    /// A heading of level 1 or 2.
    Heading(usize, String),
    Paragraph(String),
    Table(ReportTable),
    Chart(Chart),
    /// A stage's own lines: `- ` begins an item of a list.
    Text(String),
}

pub struct ReportTable {
    pub heads: Vec<String>,
    pub rows: Vec<Vec<String>>,
    pub kind: TableKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    Plain,
    /// A long table that is seldom read.
    Settings,
    /// A table in which all cells but the first of a row are numbers.
    Numbers,
}

/// Returns the blocks of a report; `tag` is the run's, if known.
pub fn document(header: &Header, tag: Option<&str>, sections: &[Section], lang: Lang) -> Vec<ReportBlock> {
    let title = match tag {
        Some(tag) => lang.fill("nanochat report: {}", &[tag.into()]),
        None => lang.word("nanochat report"),
    };
    let mut blocks = vec![
        ReportBlock::Heading(1, title),
        ReportBlock::Heading(2, lang.word("Environment")),
        ReportBlock::Table(two_columns(["", ""], &header.environment, TableKind::Plain, lang)),
        ReportBlock::Heading(2, lang.word("Summary")),
    ];
    blocks.extend(metrics_table(sections, lang).map(ReportBlock::Table));
    blocks.push(ReportBlock::Paragraph(time_and_cost(header, sections, lang)));
    for section in sections {
        blocks.push(ReportBlock::Heading(2, lang.word(&section.title)));
        blocks.push(ReportBlock::Paragraph(lang.fill("Took {}.", &[duration(section.seconds, lang)])));
        let settings = ("Setting", &section.settings, TableKind::Settings);
        for (name, fields, kind) in [settings, ("Result", &section.results, TableKind::Plain)] {
            if !fields.is_empty() {
                blocks.push(ReportBlock::Table(two_columns([name, "Value"], fields, kind, lang)));
            }
        }
        blocks.extend(section.charts.iter().cloned().map(ReportBlock::Chart));
        blocks.extend(section.text.clone().map(ReportBlock::Text));
    }
    blocks
}

/// Returns the total time of the stages, without pauses between them, and the cost if a price is known.
fn time_and_cost(header: &Header, sections: &[Section], lang: Lang) -> String {
    // The clock stops before reinforcement learning, as in published times.
    let is_counted = |section: &&Section| section.column != Some(Column::Rl);
    let seconds: f64 = sections.iter().filter(is_counted).map(|section| section.seconds).sum();
    let form = match sections.iter().all(|section| is_counted(&section)) {
        true => "Time: {}, that of all stages and evaluations together.",
        false => "Time: {}, that of all stages and evaluations before reinforcement learning together.",
    };
    let mut text = lang.fill(form, &[duration(seconds, lang)]);
    if let Some(price) = header.dollars_per_hour {
        let cost = [format!("{:.2}", seconds / 3600.0 * price), format!("{price:.2}")];
        text += "\n";
        text += &lang.fill("Cost: ${}, at ${} an hour.", &cost);
    }
    text
}

/// Returns a table with one row per metric: CORE or the mean of some of its tasks first, ChatCORE last, the others in
/// order of appearance; empty rows and columns are left out.
fn metrics_table(sections: &[Section], lang: Lang) -> Option<ReportTable> {
    let mut names: Vec<&str> = Vec::new();
    for name in sections.iter().filter(|s| s.column.is_some()).flat_map(|section| section.metrics.keys()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.sort_by_key(|name| match *name {
        "CORE" => 0,
        name if name.ends_with("not CORE") => 0,
        "ChatCORE" => 2,
        _ => 1,
    });
    let find = |column, name: &str| {
        let of_column = sections.iter().rev().filter(|section| section.column == Some(column));
        of_column.filter_map(|section| section.metrics.get(name)).find(|value| !value.is_null())
    };
    let measured = |(column, _): &(Column, &str)| names.iter().any(|name| find(*column, name).is_some());
    let columns: Vec<_> = Column::ALL.into_iter().filter(measured).collect();
    if columns.is_empty() {
        return None;
    }
    let heads = [lang.word("Metric")].into_iter().chain(columns.iter().map(|(_, head)| head.to_string()));
    let row = |name: &&str| {
        let cells = columns.iter().map(|(column, _)| find(*column, name).map_or(String::new(), cell));
        std::iter::once(lang.word(name)).chain(cells).collect::<Vec<_>>()
    };
    let rows = names.iter().map(row).filter(|cells| cells[1..].iter().any(|cell| !cell.is_empty()));
    Some(ReportTable { heads: heads.collect(), rows: rows.collect(), kind: TableKind::Numbers })
}

fn two_columns(heads: [&str; 2], fields: &Map<String, Value>, kind: TableKind, lang: Lang) -> ReportTable {
    let there = fields.iter().filter(|(_, value)| !value.is_null());
    let rows = there.map(|(name, value)| vec![lang.word(name), lang.word(&cell(value))]).collect();
    ReportTable { heads: heads.map(|head| lang.word(head)).to_vec(), rows, kind }
}

/// Returns the text of a value in a table.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) if !number.is_f64() => number.to_string(),
        Value::Number(number) => match number.as_f64().unwrap_or(f64::NAN) {
            x if x == 0.0 || (1e-3..1e6).contains(&x.abs()) => {
                format!("{x:.4}").trim_end_matches('0').trim_end_matches('.').to_string()
            }
            x => format!("{x:.3e}"),
        },
        other => other.to_string(),
    }
}

fn duration(seconds: f64, lang: Lang) -> String {
    let whole = seconds.round() as u64;
    let (form, numbers) = match whole {
        0..60 => ("{} s", vec![format!("{seconds:.1}")]),
        60..3600 => ("{} min {} s", vec![(whole / 60).to_string(), format!("{:02}", whole % 60)]),
        _ => ("{} h {} min", vec![(whole / 3600).to_string(), format!("{:02}", whole / 60 % 60)]),
    };
    lang.fill(form, &numbers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_short() {
        let cells =
            [json!(0.0), json!(1.0), json!(0.25), json!(1e-9), json!(2048), json!(true), json!([1, 2])];
        assert_eq!(cells.map(|value| cell(&value)), ["0", "1", "0.25", "1.000e-9", "2048", "true", "[1,2]"]);
    }

    #[test]
    fn the_clock_stops_before_reinforcement_learning() {
        let header = Header { dollars_per_hour: None, environment: Map::new() };
        let stage = |title: &str, started, column| Section {
            title: title.to_string(),
            started,
            seconds: 100.0,
            column: Some(column),
            ..Section::default()
        };
        let stages = [stage("sft", 100.0, Column::Sft), stage("rl", 5000.0, Column::Rl)];
        let text = time_and_cost(&header, &stages, Lang::En);
        assert_eq!(
            text,
            "Time: 1 min 40 s, that of all stages and evaluations before reinforcement learning together."
        );
        assert!(
            time_and_cost(&header, &stages[..1], Lang::En)
                .ends_with(" s, that of all stages and evaluations together.")
        );
        let text = time_and_cost(&header, &stages, Lang::Zh);
        assert!(text.contains("用时 1 分 40 秒"), "{text}");
    }
}
