//! What `sqlserver` sends when it writes, to a stand-in that keeps transactions as a server does: a statement takes effect at once,
//! or with the transaction that is open, which ends with its connection.

use std::sync::Arc;

use busbar_connector::Delivery;
use parking_lot::Mutex;

use crate::postgres_sink::{ints, rows, texts, write};
use crate::tds_peer::{TdsCell, TdsPeer, TdsReply};

/// What a transaction does.
#[derive(Clone, Default)]
struct Written {
    /// Statements that write rows.
    statements: Vec<String>,
    position: Option<u64>,
}

#[derive(Default)]
struct WrittenServer {
    there: Written,
    open: Option<Written>,
    /// Rows that contain this are refused, as duplicates are.
    refuses: Option<&'static str>,
    refused: Vec<String>,
}

impl WrittenServer {
    fn answer(&mut self, sql: &str) -> Vec<TdsReply> {
        let number = || TdsCell::Int(0);
        let one = |cell: TdsCell| TdsReply::Rows(vec![("", number())], vec![vec![cell]]);
        if let Some(word) = self.refuses
            && sql.starts_with("INSERT INTO [dbo].[t]")
            && sql.contains(word)
        {
            // It ends the transaction, because XACT_ABORT is on.
            self.open = None;
            return vec![TdsReply::Error(2627, "a duplicate")];
        }
        let now = self.open.as_mut().unwrap_or(&mut self.there);
        match sql {
            // The first statement of a session: the one before is gone, and its transaction with it.
            _ if sql.starts_with("SET TRANSACTION ISOLATION") => {
                self.open = None;
                Vec::new()
            }
            _ if sql.contains("INFORMATION_SCHEMA.COLUMNS") => {
                let names = ["n", "t", "l", "p", "s", "d", "c"];
                let columns = names.map(|name| (name, TdsCell::from("")));
                let row = |name: &str, kind: &str| {
                    let mut row = vec![TdsCell::from(name), kind.into()];
                    row.extend(["", "", "", "", "iso_1"].map(TdsCell::from));
                    row
                };
                let rows = vec![row("id", "int"), row("code", "varchar")];
                vec![TdsReply::Rows(columns.into(), rows)]
            }
            _ if sql.contains("sys.indexes") => {
                let key = ["id", "code"].map(|name| vec![TdsCell::from("1"), name.into()]);
                vec![TdsReply::Rows(
                    vec![("i", "".into()), ("c", "".into())],
                    key.into(),
                )]
            }
            _ if sql.starts_with("SELECT TOP 0 position") => {
                vec![TdsReply::Rows(vec![("position", number())], Vec::new())]
            }
            _ if sql.starts_with("BEGIN TRANSACTION") => {
                self.open = Some(self.there.clone());
                let known = self.there.position.map(|at| vec![TdsCell::Int(at as i64)]);
                vec![TdsReply::Rows(
                    vec![("position", number())],
                    known.into_iter().collect(),
                )]
            }
            "COMMIT TRANSACTION" => {
                self.there = self.open.take().expect("a transaction");
                Vec::new()
            }
            "ROLLBACK TRANSACTION" => {
                self.open = None;
                Vec::new()
            }
            _ if sql.contains("[busbar_refused]") => {
                if sql.starts_with("INSERT") {
                    self.refused.push(sql.to_owned());
                }
                vec![TdsReply::Count(1)]
            }
            _ if sql.contains("[busbar_position]") => {
                if sql.starts_with("SELECT") {
                    return vec![one(now
                        .position
                        .map_or(TdsCell::Null, |at| TdsCell::Int(at as i64)))];
                }
                let digits = sql.split(|c: char| !c.is_ascii_digit());
                let position = digits.filter_map(|digits| digits.parse().ok()).next_back();
                now.position = position;
                vec![TdsReply::Count(1)]
            }
            _ => {
                now.statements.push(sql.to_owned());
                vec![TdsReply::Count(1)]
            }
        }
    }
}

fn written_peer() -> (TdsPeer, Arc<Mutex<WrittenServer>>) {
    let server: Arc<Mutex<WrittenServer>> = Arc::default();
    let answering = Arc::clone(&server);
    (
        TdsPeer::new(move |sql| answering.lock().answer(sql)),
        server,
    )
}

fn connection(peer: &TdsPeer, more: &str) -> String {
    format!(
        "sqlserver: {{ address: '127.0.0.1:{}', database: d, user: u, write: {{ table: t, {more} }} }}\n",
        peer.port
    )
}

fn delivery(position: u64, ids: &[i64], codes: &[&str]) -> Delivery {
    rows(position, vec![("id", ints(ids)), ("code", texts(codes))])
}

/// Whichever answer is lost, the rows are there once, and the position with them.
#[test]
fn rows_and_position_are_one_transaction() {
    let (mut ends, mut failed) = (0, 0);
    for lost in 0..20 {
        let (peer, server) = written_peer();
        let text = connection(&peer, "mode: insert");
        let delivery = delivery(5, &[1, 2], &["a", "b"]);
        let mut answered = 0;
        peer.twist(move |bytes| {
            answered += 1;
            (answered != lost + 1).then_some(bytes)
        });
        failed += u32::from(write(&text, &delivery).is_err());
        let there = server.lock().there.clone();
        assert_eq!(
            there.position.is_some(),
            there.statements.len() == 1,
            "answer {lost}"
        );
        peer.twist(Some);
        for _ in 0..2 {
            let rejected = write(&text, &delivery).expect("it is written");
            assert_eq!(rejected, [0; 0]);
            let there = server.lock().there.clone();
            assert_eq!(there.statements.len(), 1, "answer {lost}");
            assert_eq!(there.position, Some(5));
        }
        ends += 1;
    }
    // The last answers are not reached.
    assert!(failed >= 6 && failed < ends, "{failed} of {ends}");
}

/// What was written before a row that is refused is written again, in a transaction with the position.
#[test]
fn a_refused_row_leaves_the_others_and_is_kept() {
    let (peer, server) = written_peer();
    server.lock().refuses = Some("'bad'");
    let text = connection(&peer, "mode: insert");
    let delivery = delivery(5, &[1, 2, 3, 4, 5], &["a", "b", "bad", "d", "e"]);
    assert_eq!(write(&text, &delivery).expect("the others"), [2]);
    let there = server.lock();
    assert_eq!(there.there.position, Some(5));
    let all = there.there.statements.join(" ");
    for id in [1, 2, 4, 5] {
        assert_eq!(all.matches(&format!("({id}, ")).count(), 1, "{all}");
    }
    assert!(!all.contains("bad"), "{all}");
    assert_eq!(there.refused.len(), 1);
}

/// Statements as they are sent: texts of ASCII for columns of single bytes are such.
#[test]
fn statements_name_the_key_and_the_type_of_texts() {
    for (mode, expected) in [
        (
            "delete",
            "DELETE t FROM [dbo].[t] AS t JOIN (VALUES (1, 'a'), (2, N'é')) AS s ([id], [code]) ON t.[id] = s.[id] AND t.[code] = s.[code]",
        ),
        (
            "upsert",
            "INSERT INTO [dbo].[t] ([id], [code]) SELECT s.[id], s.[code] FROM (VALUES (1, 'a'), (2, N'é')) AS s ([id], [code]) \
             WHERE NOT EXISTS (SELECT 1 FROM [dbo].[t] AS t WHERE t.[id] = s.[id] AND t.[code] = s.[code])",
        ),
    ] {
        let (peer, server) = written_peer();
        let text = connection(&peer, &format!("mode: {mode}, key: [id, code]"));
        let rejected = write(&text, &delivery(1, &[1, 2], &["a", "é"]));
        assert_eq!(rejected.expect("it is written"), [0; 0]);
        assert_eq!(server.lock().there.statements, [expected]);
    }
}
