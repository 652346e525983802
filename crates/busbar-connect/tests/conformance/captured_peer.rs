//! A stand-in for a SQL Server with one table, `dbo.t` with `id` and `name`, whose changes are captured and tracked. It answers
//! the statements of the change source as the server's manual says that it would.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::tds_peer::{TdsCell, TdsPeer, TdsReply};

/// A row of captured changes: place, number within the transaction, operation, `id` and `name`.
type Captured = (u32, u32, i64, i64, String);

#[derive(Default)]
pub struct CapturedTable {
    pub rows: BTreeMap<i64, String>,
    log: Vec<Captured>,
    /// The last transaction.
    last: u32,
    /// Transactions that have been captured; the others are committed and not read from the log yet.
    captured: u32,
    /// Behind this transaction changes are kept.
    pub oldest: u32,
    /// Behind this transaction changes are captured once more, with a column `note`.
    pub second: Option<u32>,
    /// An error for statements that contain a word.
    pub fails: Option<(&'static str, i32)>,
}

impl CapturedTable {
    /// A transaction: rows that get a name, and those that go.
    pub fn commit(&mut self, changes: &[(i64, Option<&str>)]) {
        self.last += 1;
        for (at, (id, name)) in changes.iter().enumerate() {
            let mut log = |operation, name: &str| {
                let sequence = at as u32 + 1;
                self.log
                    .push((self.last, sequence, operation, *id, name.to_owned()));
            };
            match name {
                None => {
                    if let Some(gone) = self.rows.remove(id) {
                        log(1, &gone);
                    }
                }
                Some(name) => {
                    match self.rows.insert(*id, (*name).to_owned()) {
                        None => log(2, name),
                        Some(before) => {
                            log(3, &before);
                            log(4, name);
                        }
                    };
                }
            }
        }
    }

    /// The capture job has read the log up to so many transactions before its end.
    pub fn capture(&mut self, behind: u32) {
        self.captured = self.captured.max(self.last.saturating_sub(behind));
    }

    fn answer(&self, sql: &str) -> TdsReply {
        if let Some((_, number)) = self.fails.filter(|(word, _)| sql.contains(word)) {
            return TdsReply::Error(number, "no");
        }
        let place = |at: u32| {
            let mut bytes = vec![0, 0, 0, 0x20];
            bytes.extend(at.to_be_bytes());
            bytes.extend([0, 1]);
            TdsCell::Bytes(bytes)
        };
        let bytes = || TdsCell::Bytes(Vec::new());
        let one = |cell: TdsCell| TdsReply::Rows(vec![("", cell.clone())], vec![vec![cell]]);
        let top = number(sql, "TOP (").unwrap_or(usize::MAX as u64) as usize;
        let own = || [("id", TdsCell::Int(0)), ("name", TdsCell::from(""))];
        if sql.contains("KEY_COLUMN_USAGE") {
            TdsReply::Rows(vec![("COLUMN_NAME", "".into())], vec![vec!["id".into()]])
        } else if sql.contains("SELECT TOP 0 * FROM [dbo].[t]") {
            TdsReply::Rows(own().into(), Vec::new())
        } else if sql.contains("SELECT TOP 0 * FROM [cdc].[dbo_t") {
            let mut columns = vec![("__$start_lsn", bytes()), ("__$operation", TdsCell::Int(0))];
            columns.extend(own());
            if sql.contains("dbo_t2_CT") {
                columns.push(("note", "".into()));
            }
            TdsReply::Rows(columns, Vec::new())
        } else if sql.contains("MIN(c.start_lsn)") {
            one(place(self.oldest))
        } else if sql.contains("cdc.change_tables") {
            let mut instances = vec![vec!["dbo_t".into(), place(self.oldest)]];
            instances.extend(self.second.map(|start| vec!["dbo_t2".into(), place(start)]));
            let columns = vec![("capture_instance", "".into()), ("start_lsn", bytes())];
            TdsReply::Rows(columns, instances)
        } else if sql.contains("lsn_time_mapping") {
            let from = log_place(sql, "start_lsn > 0x").unwrap_or(0);
            let last = self.captured.min(from.saturating_add(top.min(1000) as u32));
            if sql.contains("COUNT(*)") {
                return one(TdsCell::Int(i64::from(self.captured.saturating_sub(from))));
            }
            match last > from {
                true => one(place(last)),
                false => TdsReply::Rows(vec![("", bytes())], vec![vec![TdsCell::Null]]),
            }
        } else if sql.contains("[cdc].[dbo_t") {
            let from = log_place(sql, "[__$start_lsn] > 0x").expect("a place");
            let to = log_place(sql, "[__$start_lsn] <= 0x").expect("a place");
            let behind = sql.split_once("[__$seqval] = 0x").map(|(_, rest)| {
                let at = log_place(sql, "[__$start_lsn] = 0x").expect("a place");
                let within = u32::from_str_radix(&rest[8..16], 16).expect("a number");
                (
                    at,
                    within,
                    number(rest, "[__$operation] > ").expect("a number") as i64,
                )
            });
            let rows = self.log.iter().filter(|(at, within, operation, ..)| {
                *at > from
                    && *at <= to
                    && behind.is_none_or(|behind| (*at, *within, *operation) > behind)
            });
            let second = sql.contains("dbo_t2_CT");
            let rows = rows.take(top).map(|(at, within, operation, id, name)| {
                let command = TdsCell::Int(i64::from(*within));
                let mut row = vec![
                    place(*at),
                    command,
                    place(*within),
                    TdsCell::Int(*operation),
                ];
                row.extend([TdsCell::Int(*id), TdsCell::Text(name.clone())]);
                if second {
                    row.push("new".into());
                }
                row
            });
            let rows = rows.collect();
            let mut columns = vec![
                ("l", bytes()),
                ("c", TdsCell::Int(0)),
                ("s", bytes()),
                ("o", TdsCell::Int(0)),
            ];
            columns.extend(own());
            if second {
                columns.push(("note", "".into()));
            }
            TdsReply::Rows(columns, rows)
        } else if sql.contains("CHANGE_TRACKING_CURRENT_VERSION") {
            one(TdsCell::Int(self.last.into()))
        } else if sql.contains("CHANGE_TRACKING_MIN_VALID_VERSION") {
            one(TdsCell::Int(self.oldest.into()))
        } else if sql.contains("CHANGETABLE") {
            let from = number(sql, "CHANGES [dbo].[t], ").expect("a version") as u32;
            let to = number(sql, "c.SYS_CHANGE_VERSION <= ").expect("a version") as u32;
            let behind = sql.split_once("c.SYS_CHANGE_VERSION = ").map(|(_, rest)| {
                let at = number(&format!(" {rest}"), " ").expect("a version") as u32;
                (at, number(rest, "c.[id] > ").expect("a key") as i64)
            });
            // Of each row the last change.
            let mut last: BTreeMap<i64, u32> = BTreeMap::new();
            for (at, _, _, id, _) in self.log.iter().filter(|change| change.0 > from) {
                last.insert(*id, *at);
            }
            let mut found: Vec<_> = last.into_iter().map(|(id, at)| (at, id)).collect();
            found.sort_unstable();
            found.retain(|change| change.0 <= to && behind.is_none_or(|behind| *change > behind));
            let rows = found.into_iter().take(top).map(|(at, id)| {
                let key = TdsCell::Int(id);
                let (operation, own) = match self.rows.get(&id) {
                    Some(name) => ("U", [key.clone(), TdsCell::Text(name.clone())]),
                    None => ("D", [TdsCell::Null, TdsCell::Null]),
                };
                let [id, name] = own;
                vec![TdsCell::Int(at.into()), operation.into(), key, id, name]
            });
            let rows = rows.collect();
            let mut columns = vec![
                ("v", TdsCell::Int(0)),
                ("o", "".into()),
                ("id", TdsCell::Int(0)),
            ];
            columns.extend(own());
            TdsReply::Rows(columns, rows)
        } else if sql.contains("[id], [name] FROM [dbo].[t]") {
            let after = sql.split_once("[id] > ").map(|(_, rest)| rest);
            let after = after.map(|rest| {
                rest[..rest.find(')').expect("its end")]
                    .parse::<i64>()
                    .expect("a number")
            });
            let rows = self
                .rows
                .iter()
                .filter(|(id, _)| after.is_none_or(|after| **id > after));
            let rows = rows
                .take(top)
                .map(|(id, name)| vec![TdsCell::Int(*id), TdsCell::Text(name.clone())]);
            TdsReply::Rows(own().into(), rows.collect())
        } else {
            panic!("no answer to {sql}")
        }
    }
}

/// The server, and its table.
pub fn captured_peer() -> (TdsPeer, Arc<Mutex<CapturedTable>>) {
    let table: Arc<Mutex<CapturedTable>> = Arc::default();
    let answering = Arc::clone(&table);
    let peer = TdsPeer::new(move |sql| {
        let table = answering.lock();
        let statements = sql.split(';').map(str::trim).filter(|sql| !sql.is_empty());
        let mut replies = Vec::new();
        for sql in statements {
            replies.push(table.answer(sql));
            if matches!(replies.last(), Some(TdsReply::Error(..))) {
                break;
            }
        }
        replies
    });
    (peer, table)
}

/// The number behind a word.
fn number(sql: &str, word: &str) -> Option<u64> {
    let (_, rest) = sql.split_once(word)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The transaction of the place in the log behind a word.
fn log_place(sql: &str, word: &str) -> Option<u32> {
    let (_, rest) = sql.split_once(word)?;
    u32::from_str_radix(rest.get(8..16)?, 16).ok()
}
