//! The example of an order that goes through five services, run against its own services: it is done, or all of it is
//! undone, also when the node is killed.

#![allow(missing_docs)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::node::Node;

/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
const PATIENCE: Duration = Duration::from_secs(240);

struct Shop {
    node: Node,
    first_port: u16,
    services: Child,
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = self.services.kill();
        let _ = self.services.wait();
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/order-saga")
}

impl Shop {
    fn open() -> Shop {
        let first_port = support::ports::free_ports(5);
        let mut services = Command::new("python3")
            .arg(example().join("services.py"))
            .args([&first_port.to_string(), "--until-input-ends"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut said = String::new();
        let output = services.stdout.take().expect("their output");
        BufReader::new(output).read_line(&mut said).expect("a line");
        assert!(said.starts_with("services on"), "{said}");
        let mut files = Vec::new();
        for part in ["connections", "streams", "orchestrations"] {
            for entry in std::fs::read_dir(example().join(part)).expect("a folder") {
                let path = entry.expect("a file").path();
                let name = path.file_name().expect("a name").to_string_lossy();
                let mut text = std::fs::read_to_string(&path).expect("text");
                for i in 0..5 {
                    let (from, to) = (format!(":{}", 9101 + i), format!(":{}", first_port + i));
                    if text.contains(&from) {
                        text = text.replace(&from, &to);
                        break;
                    }
                }
                files.push((format!("{part}/{name}"), text));
            }
        }
        let files: Vec<_> = files
            .iter()
            .map(|(n, t)| (n.as_str(), t.as_str()))
            .collect();
        let mut node = Node::new(&files);
        node.start();
        Shop {
            node,
            first_port,
            services,
        }
    }

    /// What a service holds, by its place: orders, stock, users, projects, finance.
    fn state(&self, service: u16) -> Value {
        let url = format!("http://127.0.0.1:{}/state", self.first_port + service);
        let mut answer = ureq::get(&url).call().expect("the state of a service");
        answer.body_mut().read_json().expect("its JSON")
    }

    fn fault(&self, service: u16, path: &str, status: u16, times: u32) {
        let url = format!("http://127.0.0.1:{}/fault", self.first_port + service);
        let fault = json!({ "path": path, "status": status, "times": times });
        ureq::post(&url).send_json(fault).expect("a fault");
    }

    /// The command line, whose answer is JSON.
    fn cli(&self, args: &[&str]) -> Result<Value, String> {
        let mut command = self.node.command();
        command.args(["--json", "orchestrations"]).args(args);
        command.args(["--node", &format!("http://{}", self.node.http)]);
        let output = command.output().expect("the program runs");
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).expect("its JSON")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout)),
        }
    }

    fn start(&self, order: &Value, wait: Option<&str>) -> Value {
        let input = order.to_string();
        let mut args = vec!["start", "order", "--input", &input];
        args.extend(wait.map(|_| "--wait").into_iter().chain(wait));
        self.cli(&args).expect("a start")
    }

    fn instance(&self, key: &str) -> Value {
        self.node
            .get_json(&format!("/api/v1/orchestrations/order/instances/{key}"))
    }

    /// Waits until an instance is as it should be.
    fn until(&self, key: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let path = format!("/api/v1/orchestrations/order/instances/{key}");
            let instance = self.node.get(&path).ok();
            let instance = instance.and_then(|text| serde_json::from_str::<Value>(&text).ok());
            match instance {
                Some(instance) if is_so(&instance) => return instance,
                other => assert!(begun.elapsed() < PATIENCE, "{key}: {other:?}"),
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

fn order(id: &str, user: &str, amount: f64) -> Value {
    let lines = json!([{ "sku": "lamp", "quantity": 2 }, { "sku": "desk", "quantity": 1 }]);
    json!({ "order_id": id, "user_id": user, "amount": amount, "lines": lines })
}

/// What happened to the parts of an instance, in order.
fn happened(instance: &Value, what: &str) -> Vec<String> {
    let history = instance["history"].as_array().expect("a history");
    let of = history.iter().filter(|record| record["what"] == what);
    of.map(|record| record["place"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn an_order_is_done_or_undone_and_large_ones_wait_for_a_person() {
    let mut shop = Shop::open();

    // All five services take it; the caller gets the answer.
    let done = shop.start(&order("1", "anna", 80.0), Some("200s"));
    assert_eq!(done["status"], "done", "{done}");
    assert_eq!(done["answer"]["payment"], "F-1");
    assert_eq!(done["answer"]["level"], "vip");
    let reserved = [("lamp", "1.lamp"), ("desk", "1.desk")];
    for (at, (sku, name)) in reserved.into_iter().enumerate() {
        assert_eq!(done["answer"]["reservations"][at]["sku"], sku, "{done}");
        assert_eq!(done["answer"]["reservations"][at]["reservation"], name);
    }
    assert_eq!(shop.state(0)["1"], "confirmed");
    // The same key again is the same instance.
    let again = shop.start(&order("1", "anna", 80.0), None);
    assert_eq!(
        (&again["existed"], &again["status"]),
        (&json!(true), &json!("done"))
    );
    let instance = shop.instance("1");
    let history = instance["history"].as_array().expect("a history");
    let paid: Vec<_> = history
        .iter()
        .filter(|record| record["place"] == "pay")
        .collect();
    assert_eq!(
        paid[0]["before"]["body"],
        json!({ "order_id": "1", "user_id": "anna", "amount": 80.0 })
    );
    assert_eq!(paid[1]["after"], json!({ "payment": "F-1" }));

    // Finance refuses: everything before is undone, the last first.
    let failed = shop.start(&order("2", "ben", 9000.0), Some("200s"));
    assert_eq!(failed["status"], "failed", "{failed}");
    assert_eq!(failed["failure"]["place"], "pay");
    let instance = shop.instance("2");
    let mut undone = happened(&instance, "undone");
    assert_eq!(undone.pop().as_deref(), Some("open"));
    undone.sort();
    assert_eq!(
        undone,
        ["lines_of_order[0].reserve", "lines_of_order[1].reserve"]
    );
    assert_eq!(shop.state(0)["2"], "rejected");
    assert_eq!(
        shop.state(1)["free"],
        json!({ "lamp": 998, "desk": 999, "chair": 1000 })
    );

    // A large one waits for a person, also over a kill; meanwhile the file changes, and this one finishes on its version.
    shop.start(&order("3", "anna", 200_000.0), None);
    shop.until("3", |instance| instance["at"] == json!(["approval"]));
    let file = std::fs::read_to_string(shop.node.project().join("orchestrations/order.yaml"));
    let file = file.expect("the file").replace(
        "answer: order_id, level",
        "answer: \"'new' as version, order_id, level",
    );
    let file = file.replace("project, reservations", "project, reservations\"");
    shop.node.kill();
    shop.node.write("orchestrations/order.yaml", &file);
    shop.node.start();
    let waits = shop.until("3", |instance| instance["at"] == json!(["approval"]));
    assert_eq!(
        waits["waiting"][0]["title"],
        "Order 3 of anna is over 200000.0. May it go on?"
    );
    let wrong = shop.cli(&[
        "answer",
        "order",
        "3",
        "approval",
        "--values",
        "{\"approved\": \"perhaps\"}",
    ]);
    assert!(wrong.is_err(), "{wrong:?}");
    let answered = shop.cli(&[
        "answer",
        "order",
        "3",
        "approval",
        "--values",
        "{\"approved\": true}",
    ]);
    answered.expect("an answer");
    let done = shop.until("3", |instance| instance["status"] == "done");
    assert_eq!(done["version"], 1);
    assert!(done["answer"]["version"].is_null(), "{done}");
    let next = shop.start(&order("4", "anna", 5.0), Some("200s"));
    assert_eq!(next["answer"]["version"], "new", "{next}");

    // A person says no, and another one cancels.
    for (key, end) in [("5", "failed"), ("6", "cancelled")] {
        shop.start(&order(key, "anna", 300_000.0), None);
        shop.until(key, |instance| instance["at"] == json!(["approval"]));
        match end {
            "failed" => shop.cli(&[
                "answer",
                "order",
                key,
                "approval",
                "--values",
                "{\"approved\": false}",
            ]),
            _ => shop.cli(&["cancel", "order", key]),
        }
        .expect("an order");
        shop.until(key, |instance| instance["status"] == end);
        assert_eq!(shop.state(0)[key], "rejected");
    }

    // Events start instances, each key once.
    for _ in 0..3 {
        let event = json!({ "topic": "orders/placed", "payload": order("7", "anna", 10.0) });
        shop.node.post_json("/api/v1/events", None, &event);
    }
    shop.until("7", |instance| instance["status"] == "done");
    assert_eq!(
        shop.state(4)["balance"]["anna"],
        1_000_000.0 - 80.0 - 200_000.0 - 5.0 - 10.0
    );

    // A compensation that is refused stops the instance, loudly, until a person has decided.
    shop.fault(1, "/reservations/8/desk", 403, 1000);
    // Who waits for the end is told at once that it does not come by itself: the wait is longer than a test may take.
    let answer = shop.start(&order("8", "ben", 7000.0), Some("1h"));
    assert_eq!(answer["status"], "stuck", "{answer:#}");
    assert_eq!(
        answer["failure"]["code"], "connect.http-refused",
        "{answer:#}"
    );
    let chinese = answer["failure"]["message_zh"].as_str().unwrap();
    assert!(chinese.contains("返回 403"), "{answer:#}");
    let stuck = shop.until("8", |instance| instance["status"] == "stuck");
    assert_eq!(stuck["at"], json!(["lines_of_order[1].reserve"]));
    let begun = Instant::now();
    while shop
        .node
        .count("select count(*) from stuck where key = '8' and compensation")
        == 0
    {
        assert!(begun.elapsed() < PATIENCE, "no event of the alarm");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    shop.fault(1, "", 0, 0);
    shop.cli(&["retry", "order", "8"]).expect("a retry");
    shop.until("8", |instance| instance["status"] == "failed");
    assert_eq!(shop.state(0)["8"], "rejected");
    let list = shop
        .cli(&["instances", "order", "--status", "failed"])
        .expect("a list");
    let keys: Vec<_> = list["instances"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["key"])
        .collect();
    assert_eq!(keys, ["8", "5", "2"]);
}

#[test]
fn orders_end_the_same_however_often_the_node_is_killed() {
    const ORDERS: u32 = 30;
    let mut shop = Shop::open();
    for round in 0..6 {
        for id in 0..ORDERS {
            if id % 6 == round {
                // Every third one is refused by finance.
                let (user, amount) = if id % 3 == 0 {
                    ("ben", 9000.0)
                } else {
                    ("anna", 7.0)
                };
                shop.start(&order(&format!("k{id}"), user, amount), None);
            }
        }
        shop.node.kill();
        shop.node.start();
    }
    for id in 0..ORDERS {
        let end = if id % 3 == 0 { "failed" } else { "done" };
        let key = format!("k{id}");
        let instance = shop.until(&key, |instance| {
            ["done", "failed", "stuck"].contains(&instance["status"].as_str().unwrap_or_default())
        });
        assert_eq!(instance["status"], end, "{instance:#}");
        let order = if id % 3 == 0 { "rejected" } else { "confirmed" };
        assert_eq!(shop.state(0)[&key], order);
    }
    let done = f64::from(ORDERS - ORDERS.div_ceil(3));
    let stock = shop.state(1);
    assert_eq!(stock["free"]["lamp"], json!(1000 - 2 * done as u32));
    assert_eq!(stock["free"]["desk"], json!(1000 - done as u32));
    assert_eq!(
        shop.state(3).as_object().expect("projects").len(),
        done as usize
    );
    let finance = shop.state(4);
    assert_eq!(finance["balance"]["anna"], 1_000_000.0 - 7.0 * done);
    assert_eq!(finance["balance"]["ben"], 5000.0);
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_place() {
    let file =
        std::fs::read_to_string(example().join("orchestrations/order.yaml")).expect("a file");
    // What is changed in the file, the code, and a text that the message points at or holds.
    let cases = [
        (
            "connection: finance\n    path",
            "connection: finanz\n    path",
            "catalog.unknown-connection",
            "finance",
        ),
        (
            "send: order_id, sku, quantity",
            "send: order_id, sku, qty",
            "sql.unknown-column",
            "qty",
        ),
        (
            "answer: { project: text }",
            "answer: { payment: text }",
            "orchestrate.name-twice",
            "payment",
        ),
        (
            "list: lines",
            "list: amount",
            "orchestrate.list-type",
            "float",
        ),
        (
            "- stream: placed",
            "- stream: placed\n  select: order_id, 1 as sum",
            "orchestrate.value-unknown",
            "sum",
        ),
        (
            "- stream: placed",
            "- stream: bare",
            "orchestrate.event-columns",
            "bare",
        ),
        (
            "- stream: placed",
            "- stream: plced",
            "catalog.unknown-stream",
            "placed",
        ),
        ("name: pay\n", "name: open\n", "catalog.part-twice", "open"),
        (
            "  call: { connection: orders, method: POST",
            "  wait: 1s\n  call: { connection: orders, method: POST",
            "catalog.part-kind",
            "confirm",
        ),
        (
            "key: ${order_id}",
            "key: ${order}",
            "sql.unknown-column",
            "order_id",
        ),
        (
            "amount > limit_amount",
            "amount > limit_amout",
            "sql.unknown-column",
            "limit_amount",
        ),
        (
            "answer: { payment: text }",
            "answer: { key: text }",
            "orchestrate.name-reserved",
            "key",
        ),
    ];
    for (from, to, code, text) in cases {
        let wrong = file.replacen(from, to, 1);
        assert_ne!(wrong, file, "{from} is not in the file");
        let mut files = vec![(
            "streams/bare.yaml".to_owned(),
            "topics: bare/#\nformat: json\n".to_owned(),
        )];
        for part in ["connections", "streams"] {
            for entry in std::fs::read_dir(example().join(part)).expect("a folder") {
                let path = entry.expect("a file").path();
                let name = path
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                files.push((
                    format!("{part}/{name}"),
                    std::fs::read_to_string(&path).expect("text"),
                ));
            }
        }
        files.push(("orchestrations/order.yaml".to_owned(), wrong));
        let files: Vec<_> = files
            .iter()
            .map(|(n, t)| (n.as_str(), t.as_str()))
            .collect();
        let node = Node::new(&files);
        let output = node
            .command()
            .arg("check")
            .arg(node.project())
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{to}: {said}");
        assert!(
            said.contains(code) && said.contains(text),
            "{to}: no {code} with {text}:\n{said}"
        );
        assert!(
            said.contains("orchestrations/order.yaml:"),
            "{to}: no place:\n{said}"
        );
    }
}
