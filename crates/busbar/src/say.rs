//! What the program prints for people: the reader's language, tables, units.

use std::fmt::Write as _;
use std::time::Duration;

use busbar_event::{Language, messages};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// The reader's language, by the usual variables.
pub fn language() -> Language {
    let wanted = ["BUSBAR_LANG", "LC_ALL", "LC_MESSAGES", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    match wanted {
        Some(value) if value.starts_with("zh") => Language::Zh,
        _ => Language::En,
    }
}

/// A line of the catalogue in the reader's language.
pub fn line(code: &str, args: &[(&'static str, String)]) -> String {
    messages::text(language(), code, args)
}

/// An error of a node, in the reader's language.
pub fn told(error: &Value) -> String {
    let key = match language() {
        Language::Zh => "message_zh",
        Language::En => "message",
    };
    cell(&error[key])
}

/// A sign of life while a node works; nothing for programs, nor where nobody looks.
pub fn waiting(json: bool, code: &str) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(100));
    progress.set_message(line(code, &[]));
    progress
}

/// A bar for work whose size is known, or becomes known; nothing for programs, nor where nobody looks.
pub fn progress(json: bool, code: &str) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let progress = ProgressBar::new(0);
    // A template that does not parse leaves the usual one.
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        progress.set_style(style.progress_chars(BAR_CHARACTERS));
    }
    progress.enable_steady_tick(Duration::from_millis(100));
    progress.set_message(line(code, &[]));
    progress
}

/// The same for work that is measured in bytes.
pub fn bytes_bar() -> ProgressStyle {
    ProgressStyle::with_template(BYTES_BAR)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars(BAR_CHARACTERS)
}

const BAR_CHARACTERS: &str = "━╸─";
const BYTES_BAR: &str =
    "{msg} {bar:30} {percent:>3} %  {binary_bytes}/{binary_total_bytes}  {elapsed}";
const BAR: &str = "{msg} {bar:30} {percent:>3} %  {human_pos}/{human_len}  {elapsed}";

/// A list of an answer as a table, or a line that says that it is empty. A dot in a column's name
/// goes one level down.
pub fn list(list: &Value, columns: &[&str], none: &str) {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        println!("{}", line(none, &[]));
        return;
    }
    let head: Vec<String> = columns.iter().map(|column| heading(column)).collect();
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|entry| {
            columns
                .iter()
                .map(|column| {
                    let value = column.split('.').fold(entry, |value, key| &value[key]);
                    match *column {
                        "state" => state(value),
                        _ => cell(value),
                    }
                })
                .collect()
        })
        .collect();
    print!("{}", table(&head, &rows));
}

/// What a member of an answer is called at the head of a column.
pub fn heading(member: &str) -> String {
    let name = member.rsplit('.').next().unwrap_or(member);
    let name = name.strip_suffix("_zh").unwrap_or(name);
    messages::template(language(), &format!("cli.column-{name}"))
        .map_or_else(|| name.to_owned(), str::to_owned)
}

/// The state of a flow in the reader's language.
pub fn state(value: &Value) -> String {
    let name = cell(value);
    messages::template(language(), &format!("cli.state-{name}")).map_or(name, str::to_owned)
}

/// Columns that line up, numbers to the right. Wide characters count twice, as terminals show them.
pub fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| width(cell)).collect();
    for row in rows {
        for (cell, widest) in row.iter().zip(&mut widths) {
            *widest = (*widest).max(width(cell));
        }
    }
    let numeric: Vec<bool> = (0..head.len())
        .map(|column| {
            let cells = || {
                rows.iter()
                    .filter_map(|row| row.get(column))
                    .filter(|cell| !cell.is_empty())
            };
            cells().next().is_some() && cells().all(|cell| is_number(cell))
        })
        .collect();
    let mut text = String::new();
    for row in std::iter::once(head).chain(rows.iter().map(Vec::as_slice)) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column].saturating_sub(width(cell)));
            let gap = if column == 0 { "" } else { "  " };
            let _ = if numeric[column] {
                write!(line, "{gap}{pad}{cell}")
            } else {
                write!(line, "{gap}{cell}{pad}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A value of an answer as one cell, without line breaks or control characters.
pub fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Bytes with a binary unit.
pub fn bytes(count: f64) -> String {
    scaled(count, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A rate with a decimal unit.
pub fn rate(per_second: f64) -> String {
    scaled(per_second, 1000.0, &["/s", "k/s", "M/s", "G/s"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    // As it will be shown: 0.99995 is 1, not 1.0.
    let value = (value * 10.0).round() / 10.0;
    let digits = if value >= 100.0 || value.fract() == 0.0 {
        0
    } else {
        1
    };
    format!("{value:.digits$} {}", units[unit])
}

fn is_number(cell: &str) -> bool {
    cell.parse::<f64>().is_ok()
        || cell.starts_with(|c: char| c.is_ascii_digit()) && cell.ends_with("/s")
}

/// Columns that a text takes on a terminal.
pub fn width(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_in_both_scripts() {
        let head = ["站点".to_owned(), "kw".to_owned()];
        let rows = [
            vec!["北".to_owned(), "3.2".to_owned()],
            vec!["ab".to_owned(), "10".to_owned()],
            // A letter and an accent that stands on it; they take one column.
            vec!["e\u{301}".to_owned(), "1".to_owned()],
        ];
        let expected = "站点   kw\n北    3.2\nab     10\ne\u{301}       1\n";
        assert_eq!(table(&head, &rows), expected);
    }

    #[test]
    fn numbers_get_units() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(rate(1_250_000.0), "1.3 M/s");
        assert_eq!(rate(0.999_95), "1 /s");
    }

    #[test]
    fn a_cell_cannot_drive_the_terminal() {
        assert_eq!(cell(&Value::String("a\x1b[2J\nb".into())), "a [2J b");
    }
}
