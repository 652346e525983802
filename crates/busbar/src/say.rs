//! What the program prints for people: the reader's language, tables, units, times.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use busbar_event::{Language, messages};
use busbar_log::{Clock, SystemClock};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// How times are shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Times {
    /// In UTC.
    Utc,
    /// In the zone of this machine.
    Local,
    /// As the span to the present.
    Relative,
}

static TIMES: OnceLock<Times> = OnceLock::new();

/// Sets how times are shown; called once, before anything is printed.
pub fn set_times(times: Times) {
    // A second call would change nothing.
    let _ = TIMES.set(times);
}

/// A time of an answer as the reader wants it; what is not a time is returned as it is.
pub fn time(value: &Value) -> String {
    let times = TIMES.get().copied().unwrap_or(Times::Utc);
    let now = SystemClock.now_micros();
    let text = cell(value);
    match busbar_event::time::parse(&text) {
        Some(micros) => time_as(times, micros, now).unwrap_or(text),
        None => text,
    }
}

/// A time in microseconds since 1970; `None` when it stays as it is.
fn time_as(times: Times, micros: i64, now: i64) -> Option<String> {
    match times {
        Times::Utc => None,
        Times::Local => {
            let offset = zone_offset_seconds(micros.div_euclid(1_000_000))?;
            let shown = busbar_event::time::text(micros.checked_add(offset * 1_000_000)?);
            let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
            let shown = shown.trim_end_matches('Z');
            Some(format!(
                "{shown}{sign}{:02}:{:02}",
                minutes / 60,
                minutes % 60
            ))
        }
        Times::Relative => {
            let behind = now.saturating_sub(micros);
            let (code, size) = match behind {
                0.. => ("cli.time-ago", behind),
                _ => ("cli.time-ahead", -behind),
            };
            Some(line(code, &[("span", span(size as f64 / 1e6))]))
        }
    }
}

/// Seconds east of UTC in the zone of this machine at a time in seconds since 1970.
fn zone_offset_seconds(seconds: i64) -> Option<i64> {
    let seconds: libc::time_t = seconds;
    // SAFETY: all-zero bytes are a valid `tm`; its pointer member may be null.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type, and `localtime_r` keeps neither.
    let found = unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
    (!found.is_null()).then_some(parts.tm_gmtoff)
}

/// A span in its largest unit: `3.2 s`, `5 min`, `2 h`, `4 d`.
pub fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let (value, code) = match seconds {
        s if s < 10.0 => ((s * 10.0).floor() / 10.0, "cli.seconds"),
        s if s < 60.0 => (s.floor(), "cli.seconds"),
        s if s < 3_600.0 => ((s / 60.0).floor(), "cli.minutes"),
        s if s < 86_400.0 => ((s / 3_600.0).floor(), "cli.hours"),
        s => ((s / 86_400.0).floor(), "cli.days"),
    };
    line(code, &[("count", value.to_string())])
}

/// The reader's language, from the environment: `BUSBAR_LANG`, `LC_ALL`, `LC_MESSAGES`, `LANG`.
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

/// A spinner while a node works; hidden for programs and when standard error is not a terminal.
pub fn waiting(json: bool, code: &str) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(100));
    progress.set_message(line(code, &[]));
    progress
}

/// A progress bar; hidden for programs and when standard error is not a terminal.
pub fn progress(json: bool, code: &str) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let progress = ProgressBar::new(0);
    // If the template does not parse, the default one is used.
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        progress.set_style(style.progress_chars(BAR_CHARACTERS));
    }
    progress.enable_steady_tick(Duration::from_millis(100));
    progress.set_message(line(code, &[]));
    progress
}

/// The style of a progress bar that counts bytes.
pub fn bytes_bar() -> ProgressStyle {
    ProgressStyle::with_template(BYTES_BAR)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars(BAR_CHARACTERS)
}

const BAR_CHARACTERS: &str = "━╸─";
const BYTES_BAR: &str =
    "{msg} {bar:30} {percent:>3} %  {binary_bytes}/{binary_total_bytes}  {elapsed}";
const BAR: &str = "{msg} {bar:30} {percent:>3} %  {human_pos}/{human_len}  {elapsed}";

/// Prints a list of an answer as a table, or the message `none` when it is empty. A dot in a column's
/// name selects a nested member.
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
                        "direction" => word("direction", value),
                        name if TIME_COLUMNS.contains(&name) => time(value),
                        _ => cell(value),
                    }
                })
                .collect()
        })
        .collect();
    print!("{}", table(&head, &rows));
}

/// Columns of lists that hold times.
const TIME_COLUMNS: [&str; 8] = [
    "time",
    "created",
    "expires",
    "first",
    "last",
    "watermark",
    "redriven",
    "event-time",
];

/// The heading of a column that shows this member of an answer.
pub fn heading(member: &str) -> String {
    let name = member.rsplit('.').next().unwrap_or(member);
    let name = name.strip_suffix("_zh").unwrap_or(name);
    messages::template(language(), &format!("cli.column-{name}"))
        .map_or_else(|| name.to_owned(), str::to_owned)
}

/// A state in the reader's language.
pub fn state(value: &Value) -> String {
    word("state", value)
}

/// A word of the node, such as a state, in the reader's language; as it came when the catalogue does not have it.
fn word(area: &str, value: &Value) -> String {
    let name = cell(value);
    messages::template(language(), &format!("cli.{area}-{name}")).map_or(name, str::to_owned)
}

/// A table with aligned columns, numbers to the right. Wide characters take two columns, as on a terminal.
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
    // Rounded first, so that 0.99995 is shown as 1 and not as 1.0.
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
    fn times_are_shown_as_asked() {
        let (micros, now) = (1_000_000_000_123_456, 1_000_000_065_000_000);
        assert_eq!(time_as(Times::Utc, micros, now), None);
        let local = time_as(Times::Local, micros, now).unwrap();
        assert_eq!(busbar_event::time::parse(&local), Some(micros), "{local}");
        let relative = |micros| time_as(Times::Relative, micros, now).unwrap();
        assert_eq!(
            relative(micros),
            line("cli.time-ago", &[("span", span(60.0))])
        );
        let ahead = now + 7_200_000_000;
        assert_eq!(
            relative(ahead),
            line("cli.time-ahead", &[("span", span(7_200.0))])
        );
        for (seconds, code, count) in [
            (3.29, "cli.seconds", "3.2"),
            (59.9, "cli.seconds", "59"),
            (86_400.0 * 4.5, "cli.days", "4"),
            (-5.0, "cli.seconds", "0"),
        ] {
            assert_eq!(span(seconds), line(code, &[("count", count.into())]));
        }
        assert_eq!(time(&Value::String("no time".into())), "no time");
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
