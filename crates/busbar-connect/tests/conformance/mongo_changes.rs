//! What the change source of `mongodb` does beside what all sources do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_event::Class;

use crate::postgres_changes::{apply, events, running, stopped};
use crate::servers::{DatabaseServer, mongodb, mongodb_set, own_mongodb_set};
use crate::world::{Event, World, eventually};

fn connection(server: &DatabaseServer, database: &str, follow: &str) -> String {
    format!(
        "mongodb: {{ address: '127.0.0.1:{}', database: {database}, timeout: 60s, follow: {{ {follow} }} }}\ntopic: in/${{collection}}\n",
        server.port
    )
}

fn world() -> World {
    World::new(Arc::new(tempfile::tempdir().expect("a folder")))
}

fn tag(event: &Event, name: &str) -> String {
    let found = event.tags.iter().find(|(tag, _)| tag == name);
    found.expect("the tag").1.clone()
}

#[test]
fn changes_come_behind_what_was_there_with_their_images() {
    let server = mongodb_set();
    let database = server.name();
    server.run(
        &database,
        "db.t.insert_one({'_id': 1, 'name': 'a', 'change': {'x': [1, None]}})",
    );
    let world = world();
    apply(
        &world,
        &connection(server, &database, "collections: [t], before: true"),
    );
    assert_eq!(
        events(&world, 1)[0].text(),
        r#"{"change":"read","_id":1,"name":"a","column_change":{"x":[1,null]}}"#
    );
    server.run(
        &database,
        "with c.start_session() as s:\n\
         \x20   with s.start_transaction():\n\
         \x20       db.t.insert_one({'_id': bson.ObjectId('507f1f77bcf86cd799439011'), 'd': bson.Decimal128('1.50'), 'at': datetime.datetime(2024, 2, 29)}, session=s)\n\
         \x20       db.t.update_one({'_id': 1}, {'$set': {'name': '张三'}}, session=s)\n",
    );
    // What an update made is looked up when it is read.
    events(&world, 3);
    server.run(
        &database,
        "db.other.insert_one({'_id': 1})\n\
         db.t.replace_one({'_id': 1}, {'name': 'c'})\n\
         db.t.delete_one({'_id': 1})\n\
         db.t.drop()\n\
         db.t.insert_one({'_id': 'z'})\n",
    );
    let events = events(&world, 7);
    let text: Vec<_> = events[1..].iter().map(Event::text).collect();
    assert_eq!(
        text,
        [
            r#"{"change":"insert","_id":"507f1f77bcf86cd799439011","d":"1.50","at":"2024-02-29T00:00:00.000000Z"}"#,
            r#"{"change":"update","_id":1,"name":"张三","column_change":{"x":[1,null]},"before":{"_id":1,"name":"a","change":{"x":[1,null]}}}"#,
            r#"{"change":"update","_id":1,"name":"c","before":{"_id":1,"name":"张三","change":{"x":[1,null]}}}"#,
            r#"{"change":"delete","_id":1,"before":{"_id":1,"name":"c"}}"#,
            r#"{"change":"truncate"}"#,
            r#"{"change":"insert","_id":"z"}"#,
        ]
        .map(str::to_owned)
    );
    assert_eq!(
        tag(&events[1], "transaction"),
        tag(&events[2], "transaction")
    );
    assert_ne!(
        tag(&events[2], "transaction"),
        tag(&events[3], "transaction")
    );
    assert_eq!(
        (tag(&events[1], "sequence"), tag(&events[2], "sequence")),
        ("1".into(), "2".into())
    );
}

/// Changes are made while the snapshot is read in chunks, and the process is killed meanwhile: what the events come to is
/// what is there.
#[test]
fn snapshot_and_changes_together_are_what_is_there() {
    // Keys of several types; the order of some is not known here.
    come_to_what_is_there(
        "db.t.insert_many([{'_id': n, 'v': 1} for n in range(1500)])\n\
         db.t.insert_many([{'_id': 's%d' % n, 'v': 1} for n in range(800)])\n\
         db.t.insert_many([{'_id': {'a': n}, 'v': 1} for n in range(200)])\n\
         db.t.insert_many([{'_id': bson.ObjectId(), 'v': 1} for n in range(400)])\n",
    );
}

/// Where the server orders texts otherwise than by their bytes, here `S1` beside `s1`.
#[test]
fn snapshot_and_changes_of_a_collection_with_a_collation_are_what_is_there() {
    come_to_what_is_there(
        "db.command({'create': 't', 'collation': {'locale': 'en', 'strength': 2}})\n\
         db.t.insert_many([{'_id': '%s%d' % ('sS'[n % 2], n // 2), 'v': 1} for n in range(4000)])\n",
    );
}

fn come_to_what_is_there(begin: &str) {
    let server = own_mongodb_set(&[]);
    let database = server.name();
    let churn = "c.admin.command({'busbarPeer': 1, 'churn': 't'})";
    server.run(&database, &format!("{begin}{churn}"));
    let mut world = world();
    let text = connection(&server, &database, "collections: [t]");
    apply(&world, &text);
    for round in 0..4 {
        server.run(
            &database,
            &format!(
                "import random\n\
                 r = random.Random({round})\n\
                 ids = [row['_id'] for row in db.t.find()]\n\
                 for n in range(150):\n\
                 \x20   i = r.choice(ids)\n\
                 \x20   if n % 9 == 0: db.t.delete_one({{'_id': i}})\n\
                 \x20   elif n % 5 == 0: db.t.insert_one({{'_id': 'n%d-{round}' % n, 'v': 1}})\n\
                 \x20   else: db.t.update_one({{'_id': i}}, {{'$set': {{'v': n + {round} * 1000}}}})\n"
            ),
        );
        if round == 1 {
            world = world.restart();
            apply(&world, &text);
        }
    }
    server.run(&database, "db.t.insert_one({'_id': 'end'})");
    let there = server.run(
        &database,
        "print(json.dumps({str(row['_id']) if not isinstance(row['_id'], dict) else json.dumps(row['_id']).replace(' ', ''): row.get('v') for row in db.t.find()}))",
    );
    let there: BTreeMap<String, serde_json::Value> = serde_json::from_str(&there).expect("JSON");
    eventually("all of it", || {
        let mut rows: BTreeMap<String, serde_json::Value> = BTreeMap::new();
        for event in world.events("in") {
            let json = event.json();
            let id = match &json["_id"] {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            match json["change"].as_str() {
                Some("delete") => {
                    rows.remove(&id);
                }
                _ => {
                    rows.insert(id, json["v"].clone());
                }
            }
        }
        match rows == there {
            true => Ok(()),
            false => Err(format!(
                "{} of {}, {:?}",
                rows.len(),
                there.len(),
                world.source("c")
            )),
        }
    });
}

/// What comes twice or is missing shows in the rows.
fn ids(world: &World, count: usize) -> Vec<i64> {
    let events = events(world, count);
    let mut ids: Vec<i64> = events
        .iter()
        .map(|event| event.json()["_id"].as_i64().expect("a number"))
        .collect();
    ids.sort_unstable();
    ids
}

#[test]
fn changes_that_were_made_while_the_node_was_dead_come_once() {
    let server = mongodb_set();
    let database = server.name();
    let text = connection(server, &database, "collections: [t]");
    server.run(&database, "db.t.insert_one({'_id': 0})");
    let mut world = world();
    apply(&world, &text);
    events(&world, 1);
    for round in 0..3 {
        let (disk, folder) = world.kill();
        server.run(
            &database,
            &format!("for n in range(1, 21): db.t.insert_one({{'_id': {round} * 20 + n}})"),
        );
        world = World::open(disk, folder);
        apply(&world, &text);
        let count = 21 + round * 20;
        let expected: Vec<i64> = (0..i64::try_from(count).expect("small")).collect();
        assert_eq!(ids(&world, count), expected);
    }
    // Those of a document come in their order.
    let (disk, folder) = world.kill();
    server.run(
        &database,
        "db.t.update_one({'_id': 7}, {'$set': {'v': 1}})\n\
         db.t.delete_one({'_id': 7})\n\
         db.t.insert_one({'_id': 7, 'v': 2})\n",
    );
    let world = World::open(disk, folder);
    apply(&world, &text);
    let all = events(&world, 64);
    let words: Vec<_> = all[61..].iter().map(Event::json).collect();
    let words: Vec<_> = words.iter().map(|json| json["change"].clone()).collect();
    assert_eq!(words, ["update", "delete", "insert"]);
}

/// A source that goes on reads a chunk before it takes anything of the stream, so that the chunk has the documents that came behind
/// the event that empties the collection, and stands in front of it. With more documents than one chunk has, others are read behind
/// it.
#[test]
fn a_collection_that_is_dropped_and_filled_before_its_chunk_comes_whole() {
    let server = mongodb_set();
    for documents in [4, 3_000] {
        let database = server.name();
        server.run(&database, "db.t.insert_many([{'_id': 1}, {'_id': 2}])");
        let world = world();
        apply(&world, &connection(server, &database, "collections: [t]"));
        events(&world, 2);
        let (disk, folder) = world.kill();
        server.run(
            &database,
            &format!(
                "db.t.drop()\ndb.t.insert_many([{{'_id': n}} for n in range(2, {documents})])\n"
            ),
        );
        let world = World::open(disk, folder);
        apply(
            &world,
            &connection(server, &database, "collections: [t], again: { t: 1 }"),
        );
        server.run(&database, "db.t.insert_one({'_id': 0})");
        let wanted: BTreeSet<_> = (2..documents).chain([0]).map(Some).collect();
        eventually("all of it", || {
            let mut rows = BTreeSet::new();
            for event in world.events("in") {
                let json = event.json();
                match json["change"].as_str() {
                    Some("truncate") => rows.clear(),
                    _ => drop(rows.insert(json["_id"].as_i64())),
                }
            }
            match rows == wanted {
                true => Ok(()),
                false => Err(format!("{} documents {:?}", rows.len(), world.source("c"))),
            }
        });
        let events = world.events("in").into_iter();
        let words: Vec<_> = events.map(|event| event.json()["change"].clone()).collect();
        let empties: Vec<_> = (0..words.len())
            .filter(|at| words[*at] == "truncate")
            .collect();
        let [asked, emptied] = empties[..] else {
            panic!("{empties:?}");
        };
        let before = &words[asked + 1..emptied];
        assert!(!before.is_empty() && before.iter().all(|word| word == "read"));
    }
}

#[test]
fn an_answer_with_changes_that_is_lost_comes_again() {
    let server = own_mongodb_set(&[]);
    let database = server.name();
    server.run(&database, "db.t.insert_one({'_id': 0})");
    let world = world();
    apply(&world, &connection(&server, &database, "collections: [t]"));
    ids(&world, 1);
    for round in 0..3 {
        server.run(
            &database,
            &format!(
                "c.admin.command({{'busbarPeer': 1, 'loseChanges': True}})\n\
                 db.t.insert_many([{{'_id': {round} * 5 + n}} for n in range(1, 6)])"
            ),
        );
        let count = 6 + round * 5;
        let expected: Vec<i64> = (0..i64::try_from(count).expect("small")).collect();
        assert_eq!(ids(&world, count), expected);
        let waiting = "print(c.admin.command({'busbarPeer': 1})['waiting'])";
        assert_eq!(server.run(&database, waiting), "[]", "nothing was lost");
    }
}

/// A mongos merges the changes of several sets: those of one time may come late, one after another.
#[test]
fn changes_of_one_time_that_sets_send_late_are_not_taken_for_known() {
    let server = own_mongodb_set(&[]);
    let database = server.name();
    server.run(
        &database,
        "db.t.insert_one({'_id': 0})\nc.admin.command({'busbarPeer': 1, 'sharded': True})",
    );
    let world = world();
    apply(&world, &connection(&server, &database, "collections: [t]"));
    ids(&world, 1);
    server.run(
        &database,
        "c.admin.command({'busbarPeer': 1, 'sharded': False})",
    );
    // The client has no transactions with a mongos that says so little of itself.
    server.run(
        &database,
        "with c.start_session() as s:\n\
         \x20   with s.start_transaction():\n\
         \x20       for n in range(1, 5): db.t.insert_one({'_id': n}, session=s)\n\
         \x20       c.admin.command({'busbarPeer': 1, 'sharded': True})\n",
    );
    // All sets have passed that time.
    server.run(&database, "db.other.insert_one({'_id': 1})");
    assert_eq!(ids(&world, 5), [0, 1, 2, 3, 4]);
    let all = events(&world, 5);
    let of = tag(&all[1], "transaction");
    assert!(all[1..].iter().all(|event| tag(event, "transaction") == of));
}

#[test]
fn a_text_that_is_no_utf_8_comes_as_its_digits_and_stops_nothing() {
    let server = mongodb_set();
    let database = server.name();
    let world = world();
    server.run(
        &database,
        "db.t.insert_one({'_id': 1, 'name': 'a <no utf-8>', 'kw': 5})",
    );
    apply(&world, &connection(server, &database, "collections: [t]"));
    events(&world, 1);
    server.run(
        &database,
        "db.t.insert_one({'_id': 2, 'of': {'<no utf-8>': 'x'}, 'code': bson.Code('<no utf-8>')})\n\
         db.t.insert_one({'_id': '<no utf-8>'})\n\
         db.t.insert_one({'_id': 4})\n",
    );
    let events = events(&world, 4);
    let text: Vec<_> = events.iter().map(Event::text).collect();
    let ff = "ff".repeat(10);
    assert_eq!(
        text,
        [
            format!(r#"{{"change":"read","_id":1,"name":"\\x6120{ff}","kw":5}}"#),
            format!(r#"{{"change":"insert","_id":2,"of":{{"\\x{ff}":"x"}},"code":"\\x{ff}"}}"#),
            format!(r#"{{"change":"insert","_id":"\\x{ff}"}}"#),
            r#"{"change":"insert","_id":4}"#.to_owned(),
        ]
    );
}

#[test]
fn a_log_that_has_lost_the_place_stops_the_source_and_says_the_way_out() {
    let server = own_mongodb_set(&[]);
    let database = server.name();
    server.run(&database, "db.t.insert_one({'_id': 1})");
    let world = world();
    apply(&world, &connection(&server, &database, "collections: [t]"));
    running(&world);
    events(&world, 1);
    server.run(&database, "db.t.insert_one({'_id': 2})");
    events(&world, 2);
    let world = {
        let (disk, folder) = world.kill();
        server.run(
            &database,
            "db.t.insert_one({'_id': 3})\nc.admin.command({'busbarPeer': 1, 'forgetOplog': True})",
        );
        World::open(disk, folder)
    };
    apply(&world, &connection(&server, &database, "collections: [t]"));
    let error = stopped(&world).error.expect("why");
    assert_eq!(
        (error.class(), error.code()),
        (Class::Configuration, "mongodb.history-lost")
    );
    let told = error.message(busbar_event::Language::En);
    assert!(told.contains("generation: 1"), "{told}");
    // With it, what is there comes anew behind a truncate.
    apply(
        &world,
        &connection(&server, &database, "collections: [t], generation: 1"),
    );
    let all = events(&world, 6);
    let text: Vec<_> = all[2..].iter().map(Event::text).collect();
    assert_eq!(
        text,
        [
            r#"{"change":"truncate"}"#,
            r#"{"change":"read","_id":1}"#,
            r#"{"change":"read","_id":2}"#,
            r#"{"change":"read","_id":3}"#,
        ]
    );
}

#[test]
fn a_server_that_stands_alone_has_no_changes() {
    let world = world();
    let server = mongodb();
    apply(
        &world,
        &connection(server, &server.name(), "collections: [t]"),
    );
    let error = stopped(&world).error.expect("why");
    assert_eq!(
        (error.class(), error.code()),
        (Class::Configuration, "mongodb.no-changes")
    );
}
