//! What `sqlserver` does with a server that a test scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use busbar_connector::{Polled, Source, SourceContext};
use busbar_event::{Class, Error, Language};
use parking_lot::Mutex;
use serde_json::json;

use crate::captured_peer::{CapturedTable, captured_peer};
use crate::source_context;
use crate::tds_peer::{TdsCell, TdsPeer, TdsReply, tokens};
use crate::world::{World, eventually, spec};

pub fn connection(port: u16, more: &str) -> String {
    format!("sqlserver: {{ address: '127.0.0.1:{port}', database: d, user: u, {more} }}\n")
}

/// A table whose first row, `a`, is captured, and a connection that follows it with these options.
pub fn followed(first: i64, options: &str) -> (TdsPeer, Arc<Mutex<CapturedTable>>, String) {
    let (peer, table) = captured_peer();
    table.lock().commit(&[(first, Some("a"))]);
    table.lock().capture(0);
    let text = connection(peer.port, &format!("follow: {{ tables: [t], {options} }}"));
    (peer, table, text)
}

pub async fn open(text: &str) -> Result<Box<dyn Source>, Error> {
    open_with(text, source_context(Path::new("/"))).await
}

pub async fn open_with(text: &str, context: SourceContext) -> Result<Box<dyn Source>, Error> {
    let registry = busbar_connect::registry();
    let connector = registry.get("sqlserver").expect("registered");
    connector.source(&spec(text), context).await
}

/// The payloads that come until there are so many, or an error.
pub async fn payloads(
    source: &mut dyn Source,
    count: usize,
) -> Result<Vec<serde_json::Value>, Error> {
    let mut found = Vec::new();
    while found.len() < count {
        match source.poll().await? {
            Polled::Batch(polling) => {
                let all = polling.batch.payloads();
                let rows =
                    (0..polling.batch.rows()).map(|row| serde_json::from_slice(all.value(row)));
                found.extend(rows.map(|row| row.expect("JSON")));
            }
            Polled::Idle(wait) => tokio::time::sleep(wait).await,
            Polled::End => break,
        }
    }
    Ok(found)
}

#[test]
fn a_statement_goes_on_where_it_ended() {
    let peer = TdsPeer::new(|sql| {
        let from: i64 = match sql.strip_prefix("DECLARE @position bigint = ") {
            Some(rest) => rest
                .split(';')
                .next()
                .expect("a value")
                .parse()
                .expect("a number"),
            None => panic!("{sql}"),
        };
        assert!(
            sql.ends_with("; select id, name, raw from t where id > @position"),
            "{sql}"
        );
        let rows = (from + 1..=5).map(|id| {
            let name = if id == 2 {
                TdsCell::Null
            } else {
                "it's 雨".into()
            };
            vec![TdsCell::Int(id), name, TdsCell::Bytes(vec![0, 255])]
        });
        let columns = vec![
            ("id", TdsCell::Int(0)),
            ("name", "".into()),
            ("raw", TdsCell::Bytes(vec![])),
        ];
        // Rows beyond one packet.
        vec![TdsReply::Count(0), TdsReply::Rows(columns, rows.collect())]
    });
    let query = "query: { statement: select id, name, raw from t where id > @position, position: id, start: '2', every: 100ms }";
    let text = connection(
        peer.port,
        &query.replace(
            "select id, name, raw from t where id > @position",
            "'select id, name, raw from t where id > @position'",
        ),
    );
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let found = runtime.block_on(async { payloads(open(&text).await?.as_mut(), 3).await });
    let row = |id: i64| json!({ "id": id, "name": "it's 雨", "raw": "0x00ff" });
    assert_eq!(found.expect("rows"), [row(3), row(4), row(5)]);
}

/// Whatever the other side sends: an error of its class, within the bounds.
#[test]
fn what_is_not_of_the_protocol_is_refused() {
    let columns = || {
        vec![
            ("id", TdsCell::Int(0)),
            ("name", "".into()),
            ("b", TdsCell::Bytes(vec![])),
        ]
    };
    let row = || {
        vec![
            TdsCell::Int(7),
            TdsCell::from("abc"),
            TdsCell::Bytes(vec![1; 40]),
        ]
    };
    let good = tokens(&[
        TdsReply::Rows(columns(), vec![row(), row()]),
        TdsReply::Error(50_000, "x"),
    ]);
    let peer = TdsPeer::new(|_| Vec::new());
    let text = connection(
        peer.port,
        "query: { statement: s, every: 1h }, timeout: 60s",
    );
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut state = 0x5eed_u64;
    let mut refused = 0;
    for round in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..1 + round % 3 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 11) as u8;
        }
        if round % 7 == 0 {
            bytes.truncate(bytes.len() * (round % 50) / 50 + 1);
        }
        let mut bytes = Some(bytes);
        peer.twist(move |_| bytes.take());
        let polled = runtime.block_on(async { open(&text).await?.poll().await });
        if let Err(error) = polled {
            refused += 1;
            assert!(error.code().starts_with("sqlserver."), "{error:?}");
            assert_ne!(error.code(), "sqlserver.silent", "round {round}");
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn what_is_missing_is_said_with_the_statement_that_makes_it() {
    let (peer, table) = captured_peer();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let by = |by: &str| connection(peer.port, &format!("follow: {{ tables: [t], by: {by} }}"));
    let refused = |text: &str| {
        let opened = runtime.block_on(open(text));
        let error = opened.err().expect("it is refused");
        let message = error.message(Language::En);
        (error.code().to_owned(), error.class(), message)
    };
    let idle = refused(&by("cdc"));
    assert_eq!(
        (idle.0.as_str(), idle.1),
        ("sqlserver.capture-idle", Class::Transient)
    );
    assert!(idle.2.contains("sp_cdc_start_job"), "{}", idle.2);
    for (word, number, method, code, statement) in [
        (
            "cdc.lsn_time_mapping",
            208,
            "cdc",
            "sqlserver.capture-off",
            "EXEC sys.sp_cdc_enable_db",
        ),
        (
            "cdc.change_tables",
            229,
            "cdc",
            "sqlserver.capture-rights",
            "GRANT SELECT ON SCHEMA::cdc TO [u]",
        ),
        ("KEY_COLUMN_USAGE", 1205, "cdc", "sqlserver.for-now", "1205"),
    ] {
        let mut there = table.lock();
        there.commit(&[(1, Some("a"))]);
        there.capture(0);
        there.fails = Some((word, number));
        drop(there);
        let (found, _, message) = refused(&by(method));
        assert_eq!(found, code);
        assert!(message.contains(statement), "{message}");
    }
    table.lock().fails = None;
    let user = by("cdc").replace("user: u", "user: no_user");
    assert_eq!(refused(&user).0, "sqlserver.credentials");
    let tls = by("cdc").replace("user: u", "user: u, trust_certificate: true");
    assert_eq!(refused(&tls).0, "sqlserver.no-tls");
}

/// What was cleaned up before it was read is an alarm; the table taken anew is the way out.
#[test]
fn a_position_that_is_gone_is_told() {
    for by in ["cdc", "tracking"] {
        let (_peer, table, text) = followed(1, &format!("by: {by}, every: 20ms"));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let error = runtime.block_on(async {
            let mut source = open(&text).await.expect("it opens");
            let first = payloads(source.as_mut(), 1).await.expect("a row");
            assert_eq!(first, [json!({ "change": "read", "id": 1, "name": "a" })]);
            {
                let mut there = table.lock();
                there.commit(&[(2, Some("b"))]);
                there.commit(&[(3, Some("c"))]);
                there.capture(0);
                there.oldest = 3;
            }
            payloads(source.as_mut(), 1)
                .await
                .expect_err("changes are gone")
        });
        assert_eq!(
            (error.code(), error.class()),
            ("sqlserver.position-lost", Class::Configuration)
        );
        let told = error.message(Language::En);
        assert!(
            told.contains("\"again\"") && told.contains("[dbo].[t]"),
            "{told}"
        );
    }
}

/// Rows of a transaction are as large as a page of them may not be: fewer are asked for, and all come.
#[test]
fn pages_of_large_rows_have_fewer() {
    const ROWS: i64 = 600;
    let (_peer, table, text) = followed(0, "snapshot: false, every: 20ms");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let large = "雨".repeat(32_000);
    let found = runtime.block_on(async {
        let mut source = open(&text).await?;
        let rows: Vec<_> = (1..=ROWS).map(|id| (id, Some(large.as_str()))).collect();
        table.lock().commit(&rows);
        table.lock().capture(0);
        payloads(source.as_mut(), rows.len()).await
    });
    let ids = found.expect("all rows");
    assert!(
        ids.iter()
            .map(|row| row["id"].as_i64())
            .eq((1..=ROWS).map(Some))
    );
    let pages = table.lock().pages.clone();
    let last = pages.last().expect("a page");
    assert!(*last < 100, "{pages:?}");
}

/// Commands of which older servers have kept no numbers, more than a page of them.
#[test]
fn changes_without_numbers_of_commands_are_all_read() {
    const ROWS: i64 = 2500;
    let (peer, table) = captured_peer();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    table.lock().unnumbered = true;
    table.lock().commit(&[(0, Some("a"))]);
    table.lock().capture(0);
    let text = connection(
        peer.port,
        "follow: { tables: [t], snapshot: false, every: 20ms }",
    );
    let found = runtime.block_on(async {
        let mut source = open(&text).await?;
        let rows: Vec<_> = (1..=ROWS).map(|id| (id, Some("b"))).collect();
        table.lock().commit(&rows);
        table.lock().commit(&[(-1, Some("last"))]);
        table.lock().capture(0);
        payloads(source.as_mut(), rows.len() + 1).await
    });
    let ids = found.expect("all rows");
    let ids = ids.iter().map(|row| row["id"].as_i64());
    assert!(ids.eq((1..=ROWS).chain([-1]).map(Some)));
}

/// An update of keys is a delete and an insert, whose places in the log may be the other way round.
#[test]
fn changes_come_in_the_order_of_their_commands() {
    let (_peer, table, text) = followed(1, "snapshot: false, every: 20ms");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let found = runtime.block_on(async {
        let mut source = open(&text).await.expect("it opens");
        table
            .lock()
            .commit_as(&[(2, 3, 2, 1, "b"), (1, 9, 1, 1, "a")]);
        table.lock().capture(0);
        payloads(source.as_mut(), 2).await.expect("rows")
    });
    let told = found
        .iter()
        .map(|row| (row["change"].as_str(), row["name"].as_str()));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [(Some("delete"), Some("a")), (Some("insert"), Some("b"))]
    );
}

/// Changes are removed while they are read page by page.
#[test]
fn what_is_removed_between_two_pages_is_told() {
    for by in ["cdc", "tracking"] {
        let (_peer, table, text) = followed(0, &format!("by: {by}, snapshot: false, every: 20ms"));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let error = runtime.block_on(async {
            let mut source = open(&text).await.expect("it opens");
            {
                let mut there = table.lock();
                for transaction in 0..4 {
                    let rows: Vec<_> = (0..1000)
                        .map(|id| (transaction * 1000 + id, Some("b")))
                        .collect();
                    there.commit(&rows);
                }
                there.capture(0);
                there.cleaned = Some((there.pages.len() + 3, 5));
            }
            payloads(source.as_mut(), 4000)
                .await
                .expect_err("some were removed")
        });
        assert_eq!(
            (error.code(), error.class()),
            ("sqlserver.position-lost", Class::Configuration),
            "{by}"
        );
    }
}

/// The statement's position is a text of single bytes, as is its column, whose index would not be used with another.
#[test]
fn a_position_of_single_bytes_is_compared_as_such() {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let asking = Arc::clone(&asked);
    let peer = TdsPeer::new(move |sql| {
        let mut asked = asking.lock();
        let row = ["it's b", "雨"].get(asked.len()).copied();
        asked.push(sql.to_owned());
        let rows = row.map(|name| vec![TdsCell::Plain(name)]);
        let columns = vec![("name", TdsCell::Plain(""))];
        vec![
            TdsReply::Count(0),
            TdsReply::Rows(columns, rows.into_iter().collect()),
        ]
    });
    let text = connection(
        peer.port,
        "query: { statement: s, position: name, start: a, every: 100ms }",
    );
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let found = runtime.block_on(async {
        let mut source = open(&text).await?;
        let found = payloads(source.as_mut(), 2).await?;
        while asked.lock().len() < 3 {
            if let Polled::Idle(wait) = source.poll().await? {
                tokio::time::sleep(wait).await;
            }
        }
        Ok::<_, Error>(found)
    });
    assert_eq!(
        found.expect("rows"),
        [json!({ "name": "it's b" }), json!({ "name": "雨" })]
    );
    let asked = asked.lock();
    assert_eq!(
        asked[..3],
        [
            "DECLARE @position varchar(8000) = 'a'; s",
            "DECLARE @position varchar(8000) = 'it''s b'; s",
            "DECLARE @position varchar(8000) = N'雨'; s",
        ]
    );
}

/// A snapshot goes on behind the last key of a chunk, compared as the column compares.
#[test]
fn chunks_begin_behind_keys_of_each_kind() {
    for (key, more) in [
        (TdsCell::Bytes(vec![1, 0xff]), "[id] > 0x01ff"),
        (TdsCell::Plain("it's"), "[id] > 'it''s'"),
        (TdsCell::Plain("雨"), "[id] > N'雨'"),
        (TdsCell::from("雨"), "[id] > N'雨'"),
        (TdsCell::Int(7), "[id] > 7"),
    ] {
        let second: Arc<Mutex<Option<String>>> = Arc::default();
        let asking = Arc::clone(&second);
        let (like, last) = (key.clone(), key.clone());
        let peer = TdsPeer::new(move |sql| {
            let one = |cell| TdsReply::Rows(vec![("", TdsCell::Int(0))], vec![vec![cell]]);
            let columns = vec![("id", like.clone())];
            if sql.contains("KEY_COLUMN_USAGE") {
                let names = TdsReply::Rows(vec![("", "".into())], vec![vec!["id".into()]]);
                vec![names, TdsReply::Rows(columns, Vec::new())]
            } else if sql.contains("CHANGE_TRACKING") {
                vec![one(TdsCell::Int(1))]
            } else if sql.contains(" WHERE ") {
                *asking.lock() = Some(sql.to_owned());
                vec![TdsReply::Rows(columns, Vec::new())]
            } else {
                let rows = (0..1024).map(|_| vec![last.clone()]);
                vec![TdsReply::Rows(columns, rows.collect())]
            }
        });
        let text = connection(peer.port, "follow: { tables: [t], by: tracking }");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut source = open(&text).await.expect("it opens");
            while second.lock().is_none() {
                source.poll().await.expect("it answers");
            }
        });
        let second = second.lock().clone().unwrap_or_default();
        assert!(
            second.contains(&format!("WHERE ({more}) ORDER BY [id]")),
            "{second}"
        );
    }
}

/// Numbers by chance, the same ones for each seed.
struct MssqlChance(u64);

impl MssqlChance {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// Changes are made while the snapshot is read and after it; the node is killed and the connections are cut in between. In the
/// end the table is what the events say, and no change has come twice.
#[test]
fn snapshot_and_changes_are_joined_although_the_node_is_killed() {
    for by in ["cdc", "tracking"] {
        followed_through_kills(by);
    }
}

const STREAM: (&str, &str) = ("streams/in.yaml", "topics: change/#\n");

/// Its rows are appended in several batches, of which none may count as known because of the one before.
#[test]
fn a_tracked_transaction_of_several_batches_comes_whole() {
    const ROWS: i64 = 36_000;
    let (peer, table) = captured_peer();
    table.lock().commit(&[(0, Some("first"))]);
    let text = connection(
        peer.port,
        "follow: { tables: [t], by: tracking, every: 20ms }",
    );
    let files = [STREAM, ("connections/c.yaml", text.as_str())];
    let world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    world.apply(&files);
    let come = |wanted: usize| {
        eventually("the rows", || match world.events("in").len() {
            count if count >= wanted => Ok(()),
            count => Err(format!("{count} of {wanted} {:?}", world.source("c"))),
        });
    };
    come(1);
    table.lock().commit(&[(0, Some("second"))]);
    come(2);
    let large: Vec<_> = (1..=ROWS).map(|id| (id, Some("large"))).collect();
    table.lock().commit(&large);
    come(2 + large.len());
    let ids: BTreeSet<_> = world
        .events("in")
        .iter()
        .filter_map(|event| event.json()["id"].as_i64())
        .collect();
    assert!(ids.into_iter().eq(0..=ROWS));
}

fn followed_through_kills(by: &str) {
    let (peer, table) = captured_peer();
    let rows: Vec<_> = (0..6000).map(|id| (id * 2, Some("first"))).collect();
    table.lock().commit(&rows);
    table.lock().capture(0);
    let text = connection(
        peer.port,
        &format!("follow: {{ tables: [t], by: {by}, every: 40ms }}"),
    );
    let files = [STREAM, ("connections/c.yaml", text.as_str())];
    let mut world = World::new(Arc::new(tempfile::tempdir().expect("a folder")));
    world.apply(&files);
    let mut dice = MssqlChance(0xcafe_f00d_1234);
    for round in 0..24 {
        for _ in 0..12 {
            let changes: Vec<_> = (0..1 + dice.below(5))
                .map(|_| (dice.below(12_200) as i64, dice.below(4) > 0))
                .collect();
            let name = format!("r{round}-{}", dice.below(1000));
            let changes: Vec<_> = changes
                .iter()
                .map(|(id, there)| (*id, there.then_some(name.as_str())))
                .collect();
            table.lock().commit(&changes);
            table.lock().capture(dice.below(20) as u32);
        }
        if round == 9 {
            // One that is larger than a page and than a batch.
            let large: Vec<_> = (0..5000).map(|id| (id + 20_000, Some("large"))).collect();
            table.lock().commit(&large);
        }
        crate::world::rest(dice.below(60));
        match dice.below(4) {
            0 => peer.cut(),
            1 => {
                world = world.restart();
                world.apply(&files);
            }
            _ => {}
        }
    }
    table.lock().capture(0);
    let wanted = table.lock().rows.clone();
    let told = |world: &World| {
        let mut rows = BTreeMap::new();
        for event in world.events("in") {
            let event = event.json();
            let id = event["id"].as_i64().expect("a key");
            match event["change"].as_str().expect("a change") {
                "delete" => drop(rows.remove(&id)),
                _ => drop(rows.insert(id, event["name"].as_str().expect("a name").to_owned())),
            }
        }
        rows
    };
    eventually("the table as it is", || match told(&world) {
        rows if rows == wanted => Ok(()),
        rows => {
            let other = wanted.iter().find(|(id, name)| rows.get(id) != Some(name));
            Err(format!(
                "{by}: {} of {} {other:?} {:?}",
                rows.len(),
                wanted.len(),
                world.source("c")
            ))
        }
    });
    let mut seen = BTreeSet::new();
    let mut updates = 0;
    for event in world.events("in") {
        let tag = |name: &str| {
            event
                .tags
                .iter()
                .find(|(tag, _)| tag == name)
                .map(|(_, value)| value.clone())
        };
        if let Some(transaction) = tag("transaction") {
            let sequence: u64 = tag("sequence")
                .expect("a number")
                .parse()
                .expect("a number");
            assert!(
                seen.insert((transaction, sequence)),
                "{by}: twice {}",
                event.text()
            );
        }
        let event = event.json();
        if by == "cdc" && event["change"] == "update" {
            updates += 1;
            assert!(event["before"]["name"].is_string(), "{event}");
        }
    }
    assert!(by != "cdc" || updates > 50, "{updates}");
}
