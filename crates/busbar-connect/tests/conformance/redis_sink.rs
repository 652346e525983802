//! What the sink of `redis` does beside what all sinks do.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, StringArray, TimestampMicrosecondArray,
};
use busbar_event::{Class, Language};
use tokio::runtime::Runtime;

use crate::postgres_sink::{ints, open, rows, texts, write};
use crate::servers::{DatabaseServer, own_redis, redis};
use crate::world::eventually;

/// With positions of its own.
fn connection(server: &DatabaseServer, write: &str) -> String {
    format!(
        "redis: {{ address: '127.0.0.1:{}', write: {{ {write}, producer: {} }} }}\n",
        server.port,
        server.name()
    )
}

/// The fields of a hash, in order, as `a=1 b=2`.
fn hash(server: &DatabaseServer, key: &str) -> String {
    let all = server.run("", &format!("hgetall {key}"));
    let lines: Vec<_> = all.lines().collect();
    let mut pairs: Vec<_> = lines.chunks_exact(2).map(|pair| pair.join("=")).collect();
    pairs.sort();
    pairs.join(" ")
}

#[test]
fn a_row_is_a_hash_whose_values_are_whole() {
    let server = redis();
    let name = server.name();
    let text = connection(server, &format!("key: '{name}:${{id}}:${{name}}', ttl: 1h"));
    let at: ArrayRef = Arc::new(
        TimestampMicrosecondArray::from(vec![0, 1_709_164_800_000_001]).with_timezone("UTC"),
    );
    let delivery = rows(
        1,
        vec![
            ("id", ints(&[i64::MIN, 7])),
            ("name", texts(&["张三", "it's \\ x"])),
            ("ok", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            (
                "x",
                Arc::new(Float64Array::from(vec![0.1, f64::NEG_INFINITY])),
            ),
            ("at", at),
            ("raw", Arc::new(BinaryArray::from(vec![&b"r1"[..], b""]))),
        ],
    );
    assert_eq!(write(&text, &delivery).unwrap(), [0; 0]);
    assert_eq!(
        hash(server, &format!("{name}:-9223372036854775808:张三")),
        "at=1970-01-01T00:00:00.000000Z id=-9223372036854775808 name=张三 ok=true raw=r1 x=0.1"
    );
    let second = format!("\"{name}:7:it's \\\\ x\"");
    assert_eq!(
        server.run("", &format!("hmget {second} at x ok raw name")),
        "2024-02-29T00:00:00.000001Z\n-Infinity\n\n\nit's \\ x"
    );
    assert_eq!(server.run("", &format!("hexists {second} raw")), "1");
    assert_eq!(server.run("", &format!("hexists {second} ok")), "0");
    let left: i64 = server
        .run("", &format!("pttl {second}"))
        .parse()
        .expect("a number");
    assert!((1..=3_600_000).contains(&left), "{left}");
    // What becomes NULL is removed.
    let gone = rows(
        2,
        vec![
            ("id", ints(&[7])),
            ("name", texts(&["it's \\ x"])),
            ("x", Arc::new(Float64Array::from(vec![None]))),
        ],
    );
    write(&text, &gone).unwrap();
    assert_eq!(server.run("", &format!("hexists {second} x")), "0");
}

#[test]
fn changes_are_followed_row_by_row() {
    let server = redis();
    let name = server.name();
    let text = connection(
        server,
        &format!("key: '{name}:${{id}}', change: change, unchanged: unchanged"),
    );
    let changes = |position, all: &[(&str, Option<i64>, &str, &str, &str)]| {
        let text = |values: Vec<&str>| texts(&values);
        let id: ArrayRef = Arc::new(arrow::array::Int64Array::from_iter(
            all.iter().map(|row| row.1),
        ));
        rows(
            position,
            vec![
                ("change", text(all.iter().map(|row| row.0).collect())),
                ("id", id),
                ("name", text(all.iter().map(|row| row.2).collect())),
                ("bio", text(all.iter().map(|row| row.3).collect())),
                ("unchanged", text(all.iter().map(|row| row.4).collect())),
            ],
        )
    };
    let there = || {
        let keys = server.run("", &format!("keys {name}:*"));
        let mut keys: Vec<_> = keys.lines().filter(|key| !key.is_empty()).collect();
        keys.sort_unstable();
        let of = |key: &&str| {
            format!(
                "{} {}",
                key.rsplit(':').next().unwrap_or_default(),
                hash(server, key)
            )
        };
        keys.iter().map(of).collect::<Vec<_>>().join("; ")
    };
    let first = changes(
        1,
        &[
            ("read", Some(1), "a", "long", ""),
            ("insert", Some(2), "b", "x", ""),
            ("insert", Some(3), "c", "y", ""),
            ("delete", Some(3), "", "", ""),
            ("schema", Some(0), "", "", ""),
            ("update", Some(1), "a2", "", "[\"bio\"]"),
        ],
    );
    assert_eq!(write(&text, &first).unwrap(), [0; 0]);
    assert_eq!(there(), "1 bio=long id=1 name=a2; 2 bio=x id=2 name=b");
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
    // A key of another table begins in the same way.
    server.run("", &format!("set {name} kept\nset other{name}:1 kept"));
    let emptied = changes(
        3,
        &[
            ("insert", Some(7), "g", "", ""),
            ("truncate", None, "", "", ""),
            ("insert", Some(8), "h", "k", ""),
        ],
    );
    assert_eq!(write(&text, &emptied).unwrap(), [0; 0]);
    assert_eq!(there(), "8 bio=k id=8 name=h");
    assert_eq!(
        server.run("", &format!("mget {name} other{name}:1")),
        "kept\nkept"
    );
    // What is delivered again is not done again.
    server.run("", &format!("del {name}:8"));
    write(&text, &emptied).unwrap();
    assert_eq!(there(), "");
}

#[test]
fn each_kind_keeps_its_own() {
    let server = redis();
    let name = server.name();
    let two = |position| {
        rows(
            position,
            vec![("id", ints(&[1, 2])), ("v", texts(&["a", "b"]))],
        )
    };
    let to = |write_: &str, position| write(&connection(server, write_), &two(position)).unwrap();
    // The payload of these rows is {}.
    to(&format!("key: '{name}:v:${{id}}', as: value, ttl: 1h"), 1);
    assert_eq!(
        server.run("", &format!("mget {name}:v:1 {name}:v:2")),
        "{}\n{}"
    );
    assert_ne!(server.run("", &format!("pttl {name}:v:1")), "-1");
    to(&format!("key: '{name}:s:${{v}}', as: set"), 2);
    to(&format!("key: '{name}:s:${{v}}', as: set"), 3);
    assert_eq!(server.run("", &format!("smembers {name}:s:a")), "{}");
    to(&format!("key: '{name}:s:${{v}}', as: set, delete: true"), 4);
    assert_eq!(server.run("", &format!("exists {name}:s:a")), "0");
    to(
        &format!("key: '{name}:v:${{id}}', as: value, delete: true"),
        5,
    );
    assert_eq!(
        server.run("", &format!("exists {name}:v:1 {name}:v:2")),
        "0"
    );
    to(&format!("key: {name}:x, as: stream, max: 100000"), 6);
    let entries = server.run("", &format!("xrange {name}:x - +"));
    let entries: Vec<_> = entries.lines().filter(|line| !line.contains('-')).collect();
    assert_eq!(entries, ["id", "1", "v", "a", "id", "2", "v", "b"]);
    // About so many are kept.
    let text = connection(server, &format!("key: {name}:y, as: stream, max: 10"));
    let many: Vec<i64> = (0..5_000).collect();
    write(&text, &rows(7, vec![("n", ints(&many))])).unwrap();
    let length: u64 = server
        .run("", &format!("xlen {name}:y"))
        .parse()
        .expect("a number");
    assert!((10..1_000).contains(&length), "{length}");
}

/// The writer dies between the rows and its note of what was refused: what comes again is refused again.
#[test]
fn a_row_that_was_refused_is_refused_when_it_comes_again() {
    let server = redis();
    let name = server.name();
    server.run("", &format!("set {name}:2 taken"));
    let text = connection(server, &format!("key: '{name}:${{id}}'"));
    let three = rows(1, vec![("id", ints(&[1, 2, 3]))]);
    assert_eq!(write(&text, &three).unwrap(), [1]);
    assert_eq!(write(&text, &three).unwrap(), [1]);
    assert_eq!(hash(server, &format!("{name}:3")), "id=3");
}

#[test]
fn what_is_wrong_is_said_with_what_mends_it() {
    let server = redis();
    let name = server.name();
    server.run(
        "",
        &format!("acl setuser {name} on >secret ~{name}:* +hset +@connection"),
    );
    let plain = connection(server, &format!("key: '{name}:${{id}}'"));
    let user = |user: &str, password: &str| {
        plain.replace(
            "write:",
            &format!("user: {user}, password: {password}, write:"),
        )
    };
    let cluster = own_redis(&[("redis.conf", b"cluster-enabled yes\n")]);
    let locked = own_redis(&[("redis.conf", b"requirepass secret\n")]);
    let gone = connection(server, "key: '${nam}x'");
    for (text, class, code, mends) in [
        (
            user(&name, "no"),
            Class::Configuration,
            "redis.credentials",
            "ACL SETUSER",
        ),
        (
            user("nobody", "secret"),
            Class::Configuration,
            "redis.credentials",
            "nobody",
        ),
        (
            connection(&locked, "key: 'a:${id}'"),
            Class::Configuration,
            "redis.credentials",
            "default",
        ),
        (
            user(&name, "secret"),
            Class::Configuration,
            "redis.rights",
            "~busbar:position:*",
        ),
        (
            plain.replace("write:", "database: 99, write:"),
            Class::Configuration,
            "redis.no-database",
            "99",
        ),
        (
            connection(&cluster, "key: 'a:${id}'"),
            Class::Configuration,
            "redis.cluster",
            "cluster",
        ),
        (gone, Class::Configuration, "redis.flow-column", "id"),
    ] {
        let error = write(&text, &rows(1, vec![("id", ints(&[1]))])).unwrap_err();
        let (en, zh) = (error.message(Language::En), error.message(Language::Zh));
        assert_eq!((error.class(), error.code()), (class, code), "{en}");
        assert!(en.contains(mends) && zh.contains(mends), "{en} {zh}");
    }
    // The password is taken, and the rights that are asked for are enough.
    let open = connection(&locked, "key: 'a:${id}'").replace("write:", "password: secret, write:");
    write(&open, &rows(1, vec![("id", ints(&[1]))])).unwrap();
    // Where the rows are refused as a whole, the position is not there either.
    let rights = |more: &str| {
        let all = "+@transaction +get +set +hdel +del +unlink +pexpire +scan +type";
        let acl = format!("acl setuser {name} ~{name}:* ~busbar:position:* {all} {more}");
        server.run("", &acl);
    };
    let weak = user(&name, "secret");
    rights("-hset");
    let error = write(&weak, &rows(1, vec![("id", ints(&[1]))])).unwrap_err();
    assert_eq!(error.code(), "redis.rights");
    rights("+hset");
    write(&weak, &rows(1, vec![("id", ints(&[1]))])).unwrap();
    assert_eq!(hash(server, &format!("{name}:1")), "id=1");
}

/// A server without memory takes nothing of a delivery, and all of it when it has some.
#[test]
fn a_full_server_is_waited_for() {
    let server = own_redis(&[]);
    let text = connection(&server, "key: 'a:${id}'");
    let long: Vec<String> = (0..200)
        .map(|n| format!("{n}{}", "x".repeat(1_000)))
        .collect();
    let ids: Vec<i64> = (0..200).collect();
    let long: ArrayRef = Arc::new(StringArray::from(long));
    let delivery = rows(1, vec![("id", ints(&ids)), ("v", long)]);
    let runtime = Runtime::new().expect("a runtime");
    let mut sink = runtime.block_on(open(&text, &delivery)).expect("opens");
    server.run("", "config set maxmemory 1");
    let error = runtime.block_on(sink.write(&delivery)).unwrap_err();
    assert_eq!(
        (error.class(), error.code()),
        (Class::Transient, "redis.full")
    );
    assert_eq!(server.run("", "dbsize"), "0");
    server.run("", "config set maxmemory 0");
    runtime.block_on(sink.write(&delivery)).expect("written");
    assert_eq!(server.run("", "dbsize"), "201");
}

/// Rows and position are one transaction: wherever the server dies, neither is there without the other.
#[test]
fn a_server_that_is_killed_in_the_middle_loses_and_repeats_nothing() {
    let server = own_redis(&[]);
    let text = connection(&server, "key: s, as: stream");
    let of = |position: u64| {
        let numbers: Vec<_> = (0..100).map(|n| position as i64 * 100 + n).collect();
        rows(position, vec![("n", ints(&numbers))])
    };
    let runtime = Runtime::new().expect("a runtime");
    let mut sink = runtime.block_on(open(&text, &of(1))).expect("opens");
    let mut position = 1;
    for round in 0..5_u64 {
        let error = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                crate::world::rest(40 + 17 * round);
                server.kill();
            });
            let failed = runtime.block_on(async {
                loop {
                    match sink.write(&of(position)).await {
                        Ok(_) => position += 1,
                        Err(error) => break error,
                    }
                }
            });
            killer.join().expect("killed");
            failed
        });
        assert_eq!(error.class(), Class::Transient, "{error:?}");
        server.start();
        eventually("a write", || {
            runtime
                .block_on(sink.write(&of(position)))
                .map(drop)
                .map_err(|why| why.to_string())
        });
        position += 1;
    }
    let entries = server.run("", "xrange s - +");
    let numbers: Vec<i64> = entries
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    let expected: Vec<i64> = (100..position as i64 * 100).collect();
    assert!(
        numbers == expected,
        "{} of {}",
        numbers.len(),
        expected.len()
    );
    server.kill();
}
