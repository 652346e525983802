//! What the change source of `mongodb` does beside what all sources do.

use std::collections::BTreeMap;
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
    let server = own_mongodb_set(&[]);
    let database = server.name();
    // Keys of several types; the order of some is not known here.
    server.run(
        &database,
        "db.t.insert_many([{'_id': n, 'v': 1} for n in range(1500)])\n\
         db.t.insert_many([{'_id': 's%d' % n, 'v': 1} for n in range(800)])\n\
         db.t.insert_many([{'_id': {'a': n}, 'v': 1} for n in range(200)])\n\
         db.t.insert_many([{'_id': bson.ObjectId(), 'v': 1} for n in range(400)])\n\
         c.admin.command({'busbarPeer': 1, 'churn': 't'})",
    );
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
