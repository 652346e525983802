//! The figures of one run, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

/// One figure.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub job: &'static str,
    /// Which program did it.
    pub who: String,
    /// Publishing connections.
    pub connections: usize,
    /// Events a second, where the job has a rate.
    pub events_per_second: Option<f64>,
    /// p50, p99 and p99.9 in milliseconds.
    pub latency_ms: Option<[f64; 3]>,
    /// Events that the figure rests on.
    pub events: u64,
    /// Events that were sent and did not come out.
    pub lost: u64,
    /// What else there is to say.
    pub note: Option<String>,
}

/// All figures of a run, and the machine they are from.
#[derive(Debug, Serialize)]
pub struct Report {
    version: &'static str,
    cores: usize,
    rows: Vec<Row>,
}

impl Row {
    /// A row that only says something.
    pub fn note(job: &'static str, note: String) -> Row {
        Row {
            job,
            who: "busbar".to_owned(),
            connections: 0,
            events_per_second: None,
            latency_ms: None,
            events: 0,
            lost: 0,
            note: Some(note),
        }
    }
}

impl Report {
    /// An empty report about this machine.
    pub fn new() -> Report {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Report {
            version: env!("CARGO_PKG_VERSION"),
            cores,
            rows: Vec::new(),
        }
    }

    /// Adds a figure.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The report as JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has only strings and numbers")
    }

    /// The report as a Markdown table, with each rate as a ratio to the first peer of its job.
    pub fn table(&self) -> String {
        let mut text = format!(
            "Busbar {} on {} cores, shared with the load generator\n\n",
            self.version, self.cores
        );
        text.push_str(
            "| job | who | connections | events/s | p50 ms | p99 ms | p99.9 ms | lost | |\n",
        );
        text.push_str("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n");
        for row in &self.rows {
            let rate = row.events_per_second.map_or(String::new(), thousands);
            let [p50, p99, p999] = match row.latency_ms {
                Some(values) => values.map(|value| format!("{value:.2}")),
                None => Default::default(),
            };
            let ratio = self
                .ratio(row)
                .map(|(ratio, peer)| format!("{ratio:.1} × {peer}"));
            let note = [row.note.clone(), ratio]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("; ");
            let _ = writeln!(
                text,
                "| {} | {} | {} | {rate} | {p50} | {p99} | {p999} | {} | {note} |",
                row.job, row.who, row.connections, row.lost
            );
        }
        text
    }

    fn ratio<'a>(&'a self, row: &Row) -> Option<(f64, &'a str)> {
        let peer = self.rows.iter().find(|other| {
            row.who == "busbar"
                && other.who != row.who
                && other.job == row.job
                && other.connections == row.connections
        })?;
        Some((row.events_per_second? / peer.events_per_second?, &peer.who))
    }
}

/// A number in groups of three digits.
pub fn thousands(rate: f64) -> String {
    let digits = (rate.round() as u64).to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(who: &str, rate: f64) -> Row {
        Row {
            job: "in",
            who: who.to_owned(),
            connections: 4,
            events_per_second: Some(rate),
            latency_ms: Some([0.5, 1.0, 2.0]),
            events: 10,
            lost: 0,
            note: None,
        }
    }

    #[test]
    fn a_rate_stands_beside_its_peer() {
        let mut report = Report::new();
        report.add(row("busbar", 1_234_567.4));
        report.add(row("mosquitto", 123_456.7));
        let table = report.table();
        assert!(table.contains(
            "| in | busbar | 4 | 1 234 567 | 0.50 | 1.00 | 2.00 | 0 | 10.0 × mosquitto |"
        ));
        assert!(table.contains("| in | mosquitto | 4 | 123 457 | 0.50 | 1.00 | 2.00 | 0 |  |"));
    }
}
