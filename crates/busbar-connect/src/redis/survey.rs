//! What is on the other side: the server's version, and its keys by what they have in common.

use std::collections::BTreeMap;

use busbar_connector::{Survey, SurveyedColumn, SurveyedTable};
use busbar_event::Error;

use super::failure::told;
use super::limits::{SCAN_KEYS, SURVEYED_KEYS_MAX};
use super::link::RedisServer;
use super::wire::{Commands, Reply};

/// Looks at the server, and at some of its keys where they are asked for: keys with the same text before their last colon
/// are one table, and the fields of one of them its columns, each with the
/// kind of value that Redis keeps them in as its type.
///
/// # Errors
/// As [`RedisServer::open`].
pub async fn survey(server: &RedisServer, tables: bool) -> Result<Survey, Error> {
    let mut link = server.open().await?;
    let version = link.version.replacen("redis ", "Redis ", 1);
    let refused = |said: &str| told(said, server.doing("*", "+scan +type +hkeys +xrevrange"));
    let mut found: BTreeMap<String, (u64, bytes::Bytes)> = BTreeMap::new();
    let mut seen = 0;
    let mut next = tables.then(|| "0".to_owned());
    while let Some(cursor) = next {
        let mut commands = Commands::default();
        let count = SCAN_KEYS.to_string();
        commands.add(&[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()]);
        let replies = link.run(&commands).await?;
        if let Some(Reply::Refused(said)) = replies.first() {
            return Err(refused(said));
        }
        let scanned = replies.first().and_then(Reply::list).unwrap_or_default();
        let keys = scanned.get(1).and_then(Reply::list).unwrap_or_default();
        for key in keys {
            let Reply::Value(key) = key else { continue };
            let text = String::from_utf8_lossy(key);
            let name = text.rsplit_once(':').map_or(&*text, |(name, _)| name);
            let known = found.entry(name.to_owned());
            known.or_insert_with(|| (0, key.clone())).0 += 1;
            seen += 1;
        }
        let cursor = scanned.first().and_then(Reply::text);
        let cursor = cursor.filter(|cursor| *cursor != "0" && seen < SURVEYED_KEYS_MAX);
        next = cursor.map(str::to_owned);
    }
    let mut survey = Survey {
        server: version,
        tables: Vec::new(),
    };
    for (name, (rows, key)) in found {
        let mut commands = Commands::default();
        commands.add(&[b"TYPE", &key]);
        let kind = link.run(&commands).await?;
        let kind = kind.first().and_then(Reply::text).unwrap_or_default();
        let mut commands = Commands::default();
        match kind {
            "hash" => commands.add(&[b"HKEYS", &key]),
            "stream" => commands.add(&[b"XREVRANGE", &key, b"+", b"-", b"COUNT", b"1"]),
            _ => {}
        }
        let fields = link.run(&commands).await?;
        let names: Vec<&Reply> = match (kind, fields.first()) {
            ("hash", Some(Reply::List(names))) => names.iter().collect(),
            // One entry: its number and its fields.
            ("stream", Some(Reply::List(entries))) => entries
                .first()
                .and_then(Reply::list)
                .and_then(|entry| entry.get(1))
                .and_then(Reply::list)
                .unwrap_or_default()
                .iter()
                .step_by(2)
                .collect(),
            _ => Vec::new(),
        };
        let column = |name: &str| SurveyedColumn {
            name: name.to_owned(),
            kind: kind.to_owned(),
            key: false,
            required: false,
        };
        let mut columns: Vec<_> = names
            .iter()
            .filter_map(|name| name.text())
            .map(column)
            .collect();
        if columns.is_empty() {
            columns.push(column("value"));
        }
        columns.sort_by(|a, b| a.name.cmp(&b.name));
        survey.tables.push(SurveyedTable {
            schema: format!("db{}", server.database),
            name,
            rows: Some(rows),
            columns,
        });
    }
    link.close().await;
    Ok(survey)
}
