//! A stand-in for a SQL Server with one table, `dbo.t` with `id` and `name`, whose changes are captured and tracked. It answers
//! the statements of the change source as the server's manual says that it would.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::tds_peer::{TdsCell, TdsPeer, TdsReply};

/// A row of captured changes.
#[derive(Clone)]
pub struct Captured {
    /// The transaction.
    at: u32,
    /// The number of its command within the transaction; none in tables that older servers have made.
    pub command: Option<i64>,
    /// Its place in the log of the transaction.
    pub within: u32,
    pub operation: i64,
    pub id: i64,
    pub name: String,
}

#[derive(Default)]
pub struct CapturedTable {
    pub rows: BTreeMap<i64, String>,
    log: Vec<Captured>,
    /// Commands have no numbers.
    pub unnumbered: bool,
    /// The last transaction.
    last: u32,
    /// Transactions that have been captured; the others are committed and not read from the log yet.
    captured: u32,
    /// Behind this transaction changes are kept.
    pub oldest: u32,
    /// Behind this transaction changes are captured once more, with a column `note`.
    pub second: Option<u32>,
    /// The second capture has no column `note`, but bytes as `name`.
    pub retyped: bool,
    /// The table itself has a column `note`, too.
    pub wider: bool,
    /// The first capture was removed.
    pub first_is_gone: bool,
    /// Behind so many pages of changes, these are kept only behind this transaction.
    pub cleaned: Option<(usize, u32)>,
    /// How many rows each page of changes had that was asked for.
    pub pages: Vec<usize>,
    /// An error for statements that contain a word.
    pub fails: Option<(&'static str, i32)>,
}

impl CapturedTable {
    /// A transaction: rows that get a name, and those that go.
    pub fn commit(&mut self, changes: &[(i64, Option<&str>)]) {
        self.last += 1;
        for (at, (id, name)) in changes.iter().enumerate() {
            let within = at as u32 + 1;
            let mut log = |operation, name: &str| {
                self.log.push(Captured {
                    at: self.last,
                    command: (!self.unnumbered).then(|| within.into()),
                    within,
                    operation,
                    id: *id,
                    name: name.to_owned(),
                });
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

    /// A transaction whose changes are captured as they stand here: command, place in the log, operation, `id` and `name`.
    pub fn commit_as(&mut self, changes: &[(i64, u32, i64, i64, &str)]) {
        self.last += 1;
        for (command, within, operation, id, name) in changes {
            self.log.push(Captured {
                at: self.last,
                command: Some(*command),
                within: *within,
                operation: *operation,
                id: *id,
                name: (*name).to_owned(),
            });
        }
    }

    /// The capture job has read the log up to so many transactions before its end.
    pub fn capture(&mut self, behind: u32) {
        self.captured = self.captured.max(self.last.saturating_sub(behind));
    }

    fn answer(&mut self, sql: &str) -> TdsReply {
        if let Some((_, number)) = self.fails.filter(|(word, _)| sql.contains(word)) {
            return TdsReply::Error(number, "no");
        }
        let place = |at: u32| TdsCell::Bytes(place(at));
        let bytes = || TdsCell::Bytes(Vec::new());
        let one = |cell: TdsCell| TdsReply::Rows(vec![("", cell.clone())], vec![vec![cell]]);
        let top = number(sql, "TOP (").unwrap_or(usize::MAX as u64) as usize;
        let own = || [("id", TdsCell::Int(0)), ("name", TdsCell::from(""))];
        if sql.contains("TOP (")
            && ["[cdc].[dbo_t", "CHANGETABLE"]
                .iter()
                .any(|of| sql.contains(of))
        {
            self.pages.push(top);
            if let Some((pages, oldest)) = self.cleaned
                && self.pages.len() >= pages
            {
                self.oldest = oldest;
            }
        }
        if self.first_is_gone && sql.contains("[cdc].[dbo_t_CT]") {
            TdsReply::Error(208, "Invalid object name 'cdc.dbo_t_CT'.")
        } else if sql.contains("KEY_COLUMN_USAGE") {
            TdsReply::Rows(vec![("COLUMN_NAME", "".into())], vec![vec!["id".into()]])
        } else if sql.contains("SELECT TOP 0 * FROM [dbo].[t]") {
            let mut columns = Vec::from(own());
            columns.extend(self.wider.then(|| ("note", "".into())));
            TdsReply::Rows(columns, Vec::new())
        } else if sql.contains("SELECT TOP 0 * FROM [cdc].[dbo_t") {
            let mut columns = vec![("__$start_lsn", bytes()), ("__$operation", TdsCell::Int(0))];
            columns.extend(own());
            if sql.contains("dbo_t2_CT") {
                self.second_columns(&mut columns);
            }
            TdsReply::Rows(columns, Vec::new())
        } else if sql.contains("MIN(c.start_lsn)") {
            let second = self.second.filter(|_| self.first_is_gone);
            one(place(second.unwrap_or(self.oldest)))
        } else if sql.contains("cdc.change_tables") {
            let mut instances = Vec::new();
            if !self.first_is_gone {
                instances.push(vec!["dbo_t".into(), place(self.oldest)]);
            }
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
            let mut rows: Vec<_> = self.log.iter().collect();
            rows.retain(|change| change.at > from && change.at <= to && change.is_behind(sql));
            let (_, order) = sql.split_once(" ORDER BY ").expect("an order");
            let order: Vec<_> = order.split(", ").collect();
            let values = |change: &Captured| -> Vec<_> {
                order.iter().map(|column| change.value(column)).collect()
            };
            rows.sort_by_cached_key(|change| values(change));
            let second = sql.contains("dbo_t2_CT");
            let rows = rows.into_iter().take(top).map(|change| {
                let name = change.name.clone();
                let mut row = vec![
                    place(change.at),
                    change.command.map_or(TdsCell::Null, TdsCell::Int),
                    place(change.within),
                    TdsCell::Int(change.operation),
                    TdsCell::Int(change.id),
                ];
                row.push(match second && self.retyped {
                    true => TdsCell::Bytes(name.into_bytes()),
                    false => TdsCell::Text(name),
                });
                if second && !self.retyped {
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
                self.second_columns(&mut columns);
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
            for change in self.log.iter().filter(|change| change.at > from) {
                last.insert(change.id, change.at);
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
                let mut row = vec![TdsCell::Int(at.into()), operation.into(), key];
                row.extend(own);
                row.extend(self.wider.then(|| "new".into()));
                row
            });
            let rows = rows.collect();
            let mut columns = vec![
                ("v", TdsCell::Int(0)),
                ("o", "".into()),
                ("id", TdsCell::Int(0)),
            ];
            columns.extend(own());
            columns.extend(self.wider.then(|| ("note", "".into())));
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

impl CapturedTable {
    /// Makes of the columns of the first capture those of the second one.
    fn second_columns(&self, columns: &mut Vec<(&'static str, TdsCell)>) {
        if self.retyped {
            columns.pop();
            columns.push(("name", TdsCell::Bytes(Vec::new())));
        } else {
            columns.push(("note", "".into()));
        }
    }
}

/// A value that is compared: NULL is before all others.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Compared {
    Null,
    Int(i64),
    Bytes(Vec<u8>),
}

impl Captured {
    fn value(&self, column: &str) -> Compared {
        match column {
            "[__$start_lsn]" => Compared::Bytes(place(self.at)),
            "[__$command_id]" => self.command.map_or(Compared::Null, Compared::Int),
            "[__$seqval]" => Compared::Bytes(place(self.within)),
            "[__$operation]" => Compared::Int(self.operation),
            other => panic!("{other}"),
        }
    }

    /// Whether the condition of what is behind another row holds: `((a > 1) OR (a = 1 AND b > 2))`.
    fn is_behind(&self, sql: &str) -> bool {
        let Some((_, rest)) = sql.split_once(" AND ((") else {
            return true;
        };
        let (ways, _) = rest.split_once(")) ORDER BY ").expect("its end");
        let holds = |term: &str| {
            let (column, rest) = term.split_once(' ').expect("a column");
            let there = self.value(column);
            let value = |text: &str| match text.strip_prefix("0x") {
                Some(hex) => {
                    let digits = (0..hex.len()).step_by(2);
                    let bytes = digits.map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
                    Compared::Bytes(bytes.map(|byte| byte.expect("hex")).collect())
                }
                None => Compared::Int(text.parse().expect("a number")),
            };
            match rest.split_once(' ').expect("a comparison") {
                ("IS", "NULL") => there == Compared::Null,
                ("IS", "NOT NULL") => there != Compared::Null,
                // What is compared with NULL is not true.
                ("=", text) => there != Compared::Null && there == value(text),
                (">", text) => there != Compared::Null && there > value(text),
                other => panic!("{other:?}"),
            }
        };
        ways.split(") OR (")
            .any(|way| way.split(" AND ").all(holds))
    }
}

/// A place in the log.
fn place(at: u32) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0x20];
    bytes.extend(at.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// The server, and its table.
pub fn captured_peer() -> (TdsPeer, Arc<Mutex<CapturedTable>>) {
    let table: Arc<Mutex<CapturedTable>> = Arc::default();
    let answering = Arc::clone(&table);
    let peer = TdsPeer::new(move |sql| {
        let mut table = answering.lock();
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
