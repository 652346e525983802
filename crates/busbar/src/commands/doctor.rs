//! `busbar doctor`: checks a data folder, byte by byte, without changing it.

use std::path::{Path, PathBuf};

use busbar_event::{Class, Error, messages};
use busbar_log::{OsDisk, Severity};

use crate::exit::{self, Failure};
use crate::say;

/// Check a data folder without changing it.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// The data folder.
    dir: PathBuf,
}

/// Reads everything and prints what it found.
pub fn run(args: &DoctorArgs, json: bool) -> Result<(), Failure> {
    if !args.dir.join("VERSION").exists() {
        let error =
            Error::new(Class::Configuration, "cli.no-data").with("path", args.dir.display());
        return Err(error.into());
    }
    let progress = say::progress(json, "cli.doctor-reads");
    progress.set_style(say::bytes_bar());
    progress.set_length(size(&args.dir));
    let report = busbar_log::doctor_with(&OsDisk, &args.dir, &mut |_, checked| {
        progress.set_position(checked);
    });
    progress.finish_and_clear();
    if json {
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(|finding| {
                let args: serde_json::Map<_, _> = finding
                    .args
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
                    .collect();
                serde_json::json!({
                    "severity": format!("{:?}", finding.severity).to_lowercase(),
                    "code": finding.code,
                    "file": finding.file.display().to_string(),
                    "position": finding.position,
                    "args": args,
                    "text": finding.text,
                })
            })
            .collect();
        let summary = serde_json::json!({
            "healthy": report.healthy(),
            "partitions": report.partitions,
            "segments": report.segments,
            "frames": report.frames,
            "rows": report.rows,
            "bytes": report.bytes,
            "findings": findings,
        });
        println!("{summary}");
    } else {
        for finding in &report.findings {
            let place = finding
                .position
                .map_or(String::new(), |at| format!(":{at}"));
            let severity = match finding.severity {
                Severity::Note => "cli.finding-note",
                Severity::Warning => "cli.finding-warning",
                Severity::Error => "cli.finding-error",
            };
            let severity = say::line(severity, &[]);
            println!("{severity}  {}{place}", finding.file.display());
            let language = say::language();
            // Reasons are texts of the catalogue themselves.
            let args = finding.args.iter().map(|(name, value)| {
                let word = messages::code_of(value);
                let word = word.and_then(|code| messages::template(language, code));
                (*name, word.unwrap_or(value))
            });
            let args: Vec<_> = args.collect();
            println!("    {}", messages::text(language, finding.code, &args));
        }
        let counts = [
            ("partitions", report.partitions.to_string()),
            ("segments", report.segments.to_string()),
            ("frames", report.frames.to_string()),
            ("rows", report.rows.to_string()),
            ("size", say::bytes(report.bytes as f64)),
        ];
        println!("{}", say::line("cli.doctor-read", &counts));
    }
    if report.healthy() {
        if !json {
            println!("{}", say::line("cli.doctor-healthy", &[]));
        }
        return Ok(());
    }
    let error =
        Error::new(Class::Permanent, "cli.doctor-found").with("count", report.findings.len());
    Err(Failure::new(exit::FOUND, error).answered())
}

/// Bytes of all files in a folder; what cannot be read counts nothing, and the doctor names it.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => size(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}
