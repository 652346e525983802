//! What the sink of `mongodb` does beside what all sinks do, seen by PyMongo.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use busbar_connector::Delivery;
use busbar_event::Class;
use tokio::runtime::Runtime;

use crate::postgres_sink::{ints, open, rows, texts, write};
use crate::servers::{DatabaseServer, mongodb, mongodb_set, own_mongodb_set};

fn connection(server: &DatabaseServer, database: &str, write: &str) -> String {
    format!(
        "mongodb: {{ address: '127.0.0.1:{}', database: {database}, timeout: 60s, write: {{ {write} }} }}\n",
        server.port
    )
}

/// The documents of `t`, as PyMongo shows them.
fn there(server: &DatabaseServer, database: &str) -> String {
    server.run(
        database,
        "print('; '.join(' '.join('%s=%s' % (k, v) for k, v in row.items()) for row in db.t.find().sort('_id')))",
    )
}

#[test]
fn values_are_those_of_the_types_that_are_documented() {
    let nested: ArrayRef = Arc::new(StructArray::from(vec![
        (
            Arc::new(Field::new("a", DataType::Int64, true)),
            ints(&[1, 2]),
        ),
        (
            Arc::new(Field::new("b", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("x"), None])) as ArrayRef,
        ),
    ]));
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
    ]));
    let decimal = Decimal128Array::from(vec![150, -1])
        .with_precision_and_scale(38, 2)
        .expect("decimals");
    let times = |values: Vec<i64>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
    };
    let delivery = |at| {
        rows(
            1,
            vec![
                (
                    "_id",
                    texts(&["507f1f77bcf86cd799439011", "507f1f77bcf86cd799439012"]),
                ),
                ("n", ints(&[i64::MIN, 7])),
                ("name", texts(&["张三", "it's"])),
                ("ok", Arc::new(BooleanArray::from(vec![Some(true), None]))),
                (
                    "x",
                    Arc::new(Float64Array::from(vec![0.1, f64::NEG_INFINITY])),
                ),
                ("d", Arc::new(decimal.clone())),
                ("at", at),
                (
                    "raw",
                    Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..], b""])),
                ),
                ("o", Arc::clone(&nested)),
                ("l", Arc::clone(&list)),
            ],
        )
    };
    for (server, more) in [(mongodb_set(), ""), (mongodb(), ", transactions: false")] {
        let database = server.name();
        let text = |cut| {
            connection(
                server,
                &database,
                &format!("collection: t, mode: replace, key: [_id], object_ids: [_id]{cut}{more}"),
            )
        };
        // A time with microseconds would not be the same there.
        let fine = delivery(times(vec![0, 1_709_164_800_000_001]));
        assert_eq!(write(&text(""), &fine).unwrap(), [1]);
        let whole = delivery(times(vec![0, 1_709_164_800_001_000]));
        let again = Delivery {
            position: 2,
            ..whole
        };
        assert_eq!(write(&text(""), &again).unwrap(), [0; 0]);
        let shown = server.run(
            &database,
            "for row in db.t.find().sort('_id'): print([(k, type(v).__name__, str(v)) for k, v in row.items()])",
        );
        let expected = "\
[('_id', 'ObjectId', '507f1f77bcf86cd799439011'), ('n', 'Int64', '-9223372036854775808'), ('name', 'str', '张三'), ('ok', 'bool', 'True'), ('x', 'float', '0.1'), ('d', 'Decimal128', '1.50'), ('at', 'datetime', '1970-01-01 00:00:00'), ('raw', 'bytes', \"b'\\\\x00\\\\xff'\"), ('o', 'dict', \"{'a': 1, 'b': 'x'}\"), ('l', 'list', '[1, None]')]
[('_id', 'ObjectId', '507f1f77bcf86cd799439012'), ('n', 'Int64', '7'), ('name', 'str', \"it's\"), ('x', 'float', '-inf'), ('d', 'Decimal128', '-0.01'), ('at', 'datetime', '2024-02-29 00:00:00.001000'), ('raw', 'bytes', \"b''\"), ('o', 'dict', \"{'a': 2}\")]";
        assert_eq!(shown.replace("'int'", "'Int64'"), expected);
        let cut = Delivery {
            position: 3,
            ..fine
        };
        assert_eq!(write(&text(", cut_times: true"), &cut).unwrap(), [0; 0]);
    }
}

#[test]
fn changes_are_followed_row_by_row() {
    for (server, more) in [(mongodb_set(), ""), (mongodb(), ", transactions: false")] {
        let database = server.name();
        let text = connection(
            server,
            &database,
            &format!("collection: t, key: [_id], change: change, unchanged: unchanged{more}"),
        );
        let changes = |position, all: &[(&str, Option<i64>, &str, &str, &str)]| {
            let text = |values: Vec<&str>| texts(&values);
            let id: ArrayRef = Arc::new(Int64Array::from_iter(all.iter().map(|row| row.1)));
            rows(
                position,
                vec![
                    ("change", text(all.iter().map(|row| row.0).collect())),
                    ("_id", id),
                    ("name", text(all.iter().map(|row| row.2).collect())),
                    ("bio", text(all.iter().map(|row| row.3).collect())),
                    ("unchanged", text(all.iter().map(|row| row.4).collect())),
                ],
            )
        };
        let first = changes(
            1,
            &[
                ("read", Some(1), "a", "long", ""),
                ("insert", Some(2), "b", "x", ""),
                ("update", Some(2), "b2", "x2", ""),
                ("insert", Some(3), "c", "y", ""),
                ("delete", Some(3), "", "", ""),
                ("schema", Some(0), "", "", ""),
                ("update", Some(1), "a2", "", "[\"bio\"]"),
            ],
        );
        assert_eq!(write(&text, &first).unwrap(), [0; 0]);
        assert_eq!(
            there(server, &database),
            "_id=1 name=a2 bio=long; _id=2 name=b2 bio=x2"
        );
        // Not what a change is, and no key.
        let wrong = changes(
            2,
            &[
                ("insert", Some(5), "e", "", ""),
                ("merge", Some(6), "f", "", ""),
                ("insert", None, "g", "", ""),
            ],
        );
        assert_eq!(write(&text, &wrong).unwrap(), [1, 2]);
        let emptied = changes(
            3,
            &[
                ("insert", Some(7), "g", "", ""),
                ("truncate", None, "", "", ""),
                ("insert", Some(8), "h", "k", ""),
            ],
        );
        assert_eq!(write(&text, &emptied).unwrap(), [0; 0]);
        assert_eq!(there(server, &database), "_id=8 name=h bio=k");
        if more.is_empty() {
            // What is delivered again is not done again.
            server.run(&database, "db.t.delete_many({})");
            write(&text, &emptied).unwrap();
            assert_eq!(there(server, &database), "");
        }
    }
}

#[test]
fn modes_do_what_they_say_and_a_key_without_a_unique_index_is_refused() {
    let server = mongodb_set();
    let database = server.name();
    let to = |mode: &str, position, rows_: Vec<(&str, ArrayRef)>| {
        let text = connection(server, &database, &format!("collection: t, mode: {mode}"));
        write(&text, &rows(position, rows_))
    };
    let two = |names: [Option<&str>; 2]| {
        let name: ArrayRef = Arc::new(StringArray::from(names.to_vec()));
        vec![
            ("_id", ints(&[1, 2])),
            ("name", name),
            ("k", texts(&["x", "y"])),
        ]
    };
    assert_eq!(
        to("insert", 1, two([Some("a"), Some("b")])).unwrap(),
        [0; 0]
    );
    // Two that are there already are refused, one by one, and the third is written.
    let three = vec![("_id", ints(&[1, 2, 3])), ("name", texts(&["n", "n", "c"]))];
    assert_eq!(to("insert", 2, three).unwrap(), [0, 1]);
    assert_eq!(
        there(server, &database),
        "_id=1 name=a k=x; _id=2 name=b k=y; _id=3 name=c"
    );
    let only = vec![("_id", ints(&[1, 9])), ("name", texts(&["A", "z"]))];
    assert_eq!(to("update, key: [_id]", 3, only).unwrap(), [0; 0]);
    let merged = vec![
        ("_id", ints(&[2, 4])),
        (
            "name",
            Arc::new(StringArray::from(vec![None, Some("d")])) as ArrayRef,
        ),
    ];
    assert_eq!(to("merge, key: [_id]", 4, merged).unwrap(), [0; 0]);
    assert_eq!(
        to("delete, key: [_id]", 5, vec![("_id", ints(&[3]))]).unwrap(),
        [0; 0]
    );
    assert_eq!(
        there(server, &database),
        "_id=1 name=A k=x; _id=2 k=y; _id=4 name=d"
    );
    let by_name = || {
        to(
            "replace, key: [k]",
            6,
            vec![("k", texts(&["x"])), ("n", ints(&[5]))],
        )
    };
    let refused = by_name().unwrap_err();
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "mongodb.no-index")
    );
    let statement = refused.args().iter().find(|(name, _)| *name == "statement");
    assert_eq!(
        statement.map(|(_, text)| text.as_str()),
        Some("db.getCollection(\"t\").createIndex({ \"k\": 1 }, { unique: true })")
    );
    server.run(
        &database,
        "db.t.create_index([('k', 1)], unique=True, sparse=True)",
    );
    server.run(&database, "db.t.delete_one({'_id': 4})");
    assert_eq!(by_name().unwrap(), [0; 0]);
    assert_eq!(there(server, &database), "_id=1 k=x n=5; _id=2 k=y");
    // A server that stands alone has no transactions.
    let alone = connection(mongodb(), &database, "collection: t");
    let refused = write(&alone, &rows(1, vec![("_id", ints(&[1]))])).unwrap_err();
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "mongodb.no-transactions")
    );
}

/// Rows and position are one transaction: whatever fails between them, each row is there once, and what was refused is
/// refused again.
#[test]
fn a_delivery_that_comes_again_is_written_once_wherever_it_failed() {
    let server = own_mongodb_set(&[]);
    let database = server.name();
    let text = connection(&server, &database, "collection: t");
    server.run(
        &database,
        "db.create_collection('t', validator={'v': {'$not': {'$regex': 'bad'}}})",
    );
    // Refused rows that are more than are tried one after another.
    let values: Vec<String> = (0..300)
        .map(|n| {
            if n % 29 == 3 {
                format!("bad{n}")
            } else {
                format!("v{n}")
            }
        })
        .collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let bad: Vec<usize> = (0..300).filter(|n| n % 29 == 3).collect();
    let delivery = rows(7, vec![("v", texts(&values))]);
    Runtime::new().expect("a runtime").block_on(async {
        for fail in [
            // The answer to the rows is lost, the transaction is thrown away, and the answer to its end is lost.
            "'command': 'insert', 'code': 0",
            "'command': 'update', 'code': 112, 'labels': ['TransientTransactionError']",
            "'command': 'commitTransaction', 'code': 0",
            "'command': 'commitTransaction', 'code': 0, 'after': True",
        ] {
            let count = || server.run(&database, "print(len(list(db.t.find())))");
            let before: usize = count().parse().expect("a number");
            let mut sink = open(&text, &delivery).await.expect("it opens");
            server.run(
                &database,
                &format!("c.admin.command({{'busbarPeer': 1, 'failNext': {{{fail}}}}})"),
            );
            let position = before as u64 + 1;
            let delivery = Delivery {
                position,
                ..delivery.clone()
            };
            let failed = sink.write(&delivery).await.expect_err("it fails");
            assert_eq!(failed.class(), Class::Transient, "{fail}: {failed:?}");
            // Another process goes on.
            let mut sink = open(&text, &delivery).await.expect("it opens");
            for _ in 0..2 {
                let written = sink.write(&delivery).await.expect(fail);
                let refused: Vec<_> = written.rejected.iter().map(|(row, _)| *row).collect();
                assert_eq!(refused, bad, "{fail}");
                assert_eq!(written.rejected[0].1.code(), "mongodb.row");
            }
            assert_eq!(
                sink.position("flow:f:in:0:0:to").await.expect("it answers"),
                Some(position)
            );
            let after: usize = count().parse().expect("a number");
            assert_eq!(after, before + 300 - bad.len(), "{fail}");
        }
    });
}

/// The process that was there before cannot commit what it has begun.
#[test]
fn a_writer_that_was_replaced_changes_nothing() {
    let server = own_mongodb_set(&[]);
    let database = server.name();
    let text = connection(&server, &database, "collection: t");
    let delivery = rows(1, vec![("v", texts(&["a", "b"]))]);
    Runtime::new().expect("a runtime").block_on(async {
        let mut old = open(&text, &delivery).await.expect("it opens");
        let mut new = open(&text, &delivery).await.expect("it opens");
        // The old one has its rows in a transaction whose end the server does not hear of.
        server.run(
            &database,
            "c.admin.command({'busbarPeer': 1, 'failNext': {'command': 'commitTransaction', 'code': 0}})",
        );
        old.write(&delivery).await.expect_err("it fails");
        new.write(&delivery).await.expect("the transaction before is ended at once");
        for _ in 0..3 {
            match old.write(&delivery).await {
                Ok(_) => break,
                Err(error) => assert_eq!(error.class(), Class::Transient),
            }
        }
        assert_eq!(server.run(&database, "print(len(list(db.t.find())))"), "2");
    });
}

#[test]
fn a_password_is_proven_and_never_sent() {
    let server = own_mongodb_set(&[("user", "u=,ser pencil".as_bytes())]);
    let text = |user: &str, password: &str| {
        format!(
            "mongodb: {{ address: '127.0.0.1:{}', database: d, user: '{user}', password: '{password}', write: {{ collection: t }} }}\n",
            server.port
        )
    };
    let one = rows(1, vec![("v", texts(&["a"]))]);
    // Commas and equals signs are escaped in this protocol.
    let refused = write(&text("user", "pencil"), &one).unwrap_err();
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "mongodb.credentials")
    );
    let refused = write(&text("u=,ser", "pen"), &one).unwrap_err();
    assert_eq!(
        (refused.class(), refused.code()),
        (Class::Configuration, "mongodb.credentials")
    );
    assert_eq!(write(&text("u=,ser", "pencil"), &one).unwrap(), [0; 0]);
}

/// Rows that were written on one server and not on the others may be lost with it: the delivery comes again, and what was
/// refused beside them is not told of before it is written.
#[test]
fn rows_that_were_not_replicated_are_written_again_also_beside_refused_ones() {
    let server = own_mongodb_set(&[]);
    let database = server.name();
    let text = connection(
        &server,
        &database,
        "collection: t, transactions: false, mode: replace, key: [_id]",
    );
    server.run(
        &database,
        "db.create_collection('t', validator={'v': {'$not': {'$regex': 'bad'}}})",
    );
    let delivery = rows(
        1,
        vec![("_id", ints(&[1, 2, 3])), ("v", texts(&["a", "bad", "c"]))],
    );
    Runtime::new().expect("a runtime").block_on(async {
        let mut sink = open(&text, &delivery).await.expect("it opens");
        server.run(
            &database,
            "c.admin.command({'busbarPeer': 1, 'failConcern': True})",
        );
        let failed = sink.write(&delivery).await.expect_err("not replicated");
        assert_eq!(failed.class(), Class::Transient, "{failed:?}");
        let written = sink.write(&delivery).await.expect("it is written");
        let refused: Vec<_> = written.rejected.iter().map(|(row, _)| *row).collect();
        assert_eq!(refused, [1]);
    });
    assert_eq!(there(&server, &database), "_id=1 v=a; _id=3 v=c");
}
