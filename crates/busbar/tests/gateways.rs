//! What every gateway promises, whatever its protocol: a publish is durable before it is acknowledged, nobody takes
//! more than his share, and a login holds for as long as it is valid. A gateway takes part with a driver of its own
//! in `gateways/`.

#![allow(missing_docs)]

#[path = "gateways/amqp.rs"]
mod amqp;
#[path = "gateways/amqp1.rs"]
mod amqp1;
#[path = "gateways/driver.rs"]
mod driver;
#[path = "gateways/http.rs"]
mod http;
#[path = "gateways/mllp.rs"]
mod mllp;
#[path = "gateways/mqtt.rs"]
mod mqtt;
mod support;
#[path = "gateways/tcp.rs"]
mod tcp;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use driver::{Driver, Login, PATIENCE, Publisher};
use serde_json::json;
use support::node::Node;

/// Every gateway that takes part.
const DRIVERS: &[&dyn Driver] = &[
    &amqp::Amqp,
    &amqp1::Amqp1,
    &http::Http,
    &mllp::Mllp,
    &mqtt::Mqtt,
    &tcp::Tcp,
];

const ADMIN: Login = Login {
    user: "ann",
    password: "a-good-password",
};
const DEVICE: Login = Login {
    user: "device",
    password: "another-good-password",
};
const WRONG: Login = Login {
    user: "device",
    password: "a-wrong-password",
};

const STREAM: (&str, &str) = (
    "streams/suite.yaml",
    "topics: suite/#\nformat: json\nschema:\n  n: int\n",
);

/// Bounds that a test reaches soon.
const SETTINGS: &str =
    "[limits]\npayload_size = \"64KiB\"\nconnections = 64\n[mqtt]\nconnect_timeout = \"2s\"\n";

fn node() -> Node {
    let mut node = Node::new(&[STREAM, ("busbar.toml", SETTINGS)]);
    for driver in DRIVERS {
        driver.prepare(&node);
    }
    node.start();
    let admin = json!({"name": ADMIN.user, "password": ADMIN.password, "role": "admin"});
    node.post_json("/api/v1/users", None, &admin);
    node.login = Some((ADMIN.user, ADMIN.password));
    node
}

fn publisher(node: &Node, driver: &dyn Driver, login: Login) -> Box<dyn Publisher> {
    let name = driver.name();
    driver
        .connect(driver.address(node), login)
        .unwrap_or_else(|why| panic!("{name}: {why}\n{}", node.output()))
}

/// A connection that has published, connecting anew while the node has no room.
fn admitted(node: &Node, driver: &dyn Driver) -> Box<dyn Publisher> {
    let begun = Instant::now();
    loop {
        if let Ok(mut publisher) = driver.connect(driver.address(node), ADMIN)
            && matches!(publisher.publish(0), Ok(true))
        {
            return publisher;
        }
        assert!(begun.elapsed() < PATIENCE, "{}: no room", driver.name());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Whether the other side closes the connection, reading all that it still says.
fn is_closed(mut socket: &TcpStream) -> bool {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(why) => return !matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    const ROUNDS: u64 = 5;
    let mut node = node();
    let mut first = 0;
    for round in 0..ROUNDS {
        if round > 0 {
            node.start();
        }
        let alive = AtomicBool::new(true);
        // Before the threads begin: the scope would wait for those that publish where another one cannot log in.
        let publishers: Vec<_> = DRIVERS
            .iter()
            .map(|driver| publisher(&node, *driver, ADMIN))
            .collect();
        let promised: Vec<BTreeSet<u64>> = std::thread::scope(|scope| {
            let publishing: Vec<_> = publishers
                .into_iter()
                .map(|mut publisher| {
                    let alive = &alive;
                    scope.spawn(move || {
                        let mut promised = BTreeSet::new();
                        for n in first.. {
                            match publisher.publish(n) {
                                Ok(true) => drop(promised.insert(n)),
                                Ok(false) => panic!("a publish was refused"),
                                Err(why) if alive.load(Ordering::Acquire) => panic!("{why}"),
                                Err(_) => break,
                            }
                        }
                        promised
                    })
                })
                .collect();
            std::thread::park_timeout(Duration::from_millis(200 + 70 * round));
            alive.store(false, Ordering::Release);
            node.kill();
            publishing
                .into_iter()
                .map(|p| p.join().expect("a publisher"))
                .collect()
        });
        node.start();
        for (driver, promised) in DRIVERS.iter().zip(promised) {
            let (name, stream) = (driver.name(), driver.stream());
            let rows = node.sql(&format!(
                "select n from {stream} where topic = 'suite/{name}' and n >= {first}"
            ));
            let there: BTreeSet<u64> = rows.iter().filter_map(|row| row[0].as_u64()).collect();
            let lost: Vec<_> = promised.difference(&there).take(5).collect();
            assert!(!promised.is_empty(), "{name}: nothing was acknowledged");
            assert!(lost.is_empty(), "{name}: acknowledged and gone: {lost:?}");
        }
        first += 1_000_000;
        node.kill();
    }
}

#[test]
fn an_oversize_message_is_refused_and_costs_no_memory() {
    let node = node();
    let large = vec![b'7'; 1 << 20];
    let before = node.memory_bytes();
    for driver in DRIVERS {
        let name = driver.name();
        for _ in 0..8 {
            let mut hostile = publisher(&node, *driver, ADMIN);
            let message = hostile.message(&large);
            // The answer may come, and the connection end, before all is sent.
            let _ = hostile.socket().write_all(&message);
            assert!(
                !matches!(hostile.answer(), Ok(true)),
                "{name}: it was taken"
            );
        }
        assert!(
            publisher(&node, *driver, ADMIN).publish(1).unwrap(),
            "{name}"
        );
        let stream = driver.stream();
        let count = format!("select count(*) from {stream} where topic = 'suite/{name}'");
        assert_eq!(node.count(&count), 1, "{name}");
    }
    assert!(node.memory_bytes() < before + (128 << 20));
}

#[test]
fn who_does_not_read_the_answers_is_no_longer_read() {
    const READ_MAX: Duration = Duration::from_secs(90);
    let node = node();
    for driver in DRIVERS {
        let name = driver.name();
        let before = node.memory_bytes();
        let hostile = publisher(&node, *driver, ADMIN);
        let message = hostile.message(b"{\"n\":0}");
        let batch = message.repeat((64 << 10) / message.len() + 1);
        let mut socket = hostile.socket();
        socket
            .set_write_timeout(Some(Duration::from_secs(3)))
            .unwrap();
        let begun = Instant::now();
        // It is read no more, or closed, whichever the protocol asks for.
        while socket.write_all(&batch).is_ok() {
            let read = begun.elapsed();
            assert!(read < READ_MAX, "{name}: it is read and does not read");
        }
        assert!(
            publisher(&node, *driver, ADMIN).publish(1).unwrap(),
            "{name}"
        );
        let memory = node.memory_bytes();
        assert!(memory < before + (192 << 20), "{name}: {before} {memory}");
    }
}

#[test]
fn half_a_message_and_silence_is_closed() {
    let node = node();
    for driver in DRIVERS {
        let name = driver.name();
        let mut socket = TcpStream::connect(driver.address(&node)).unwrap();
        socket.write_all(&driver.half_hello()).unwrap();
        let silent = TcpStream::connect(driver.address(&node)).unwrap();
        assert!(
            publisher(&node, *driver, ADMIN).publish(1).unwrap(),
            "{name}"
        );
        assert!(is_closed(&socket), "{name}");
        assert!(is_closed(&silent), "{name}");
    }
}

#[test]
fn a_flood_of_connections_leaves_those_that_work_alone() {
    let node = node();
    for driver in DRIVERS {
        let name = driver.name();
        let mut steady = admitted(&node, *driver);
        let flood: Vec<_> = (0..200)
            .filter_map(|_| TcpStream::connect(driver.address(&node)).ok())
            .collect();
        for n in 0..20 {
            match steady.publish(n) {
                Err(_) if driver.ends_idle_connections() => {
                    steady = admitted(&node, *driver);
                }
                published => assert!(published.unwrap(), "{name}"),
            }
        }
        drop(flood);
        admitted(&node, *driver);
    }
}

#[test]
fn a_login_is_needed_and_holds_as_long_as_the_user_exists() {
    let node = node();
    for driver in DRIVERS.iter().filter(|driver| driver.has_passwords()) {
        let (name, address) = (driver.name(), driver.address(&node));
        let device = json!({"name": DEVICE.user, "password": DEVICE.password, "role": "operator"});
        node.post_json("/api/v1/users", Some((ADMIN.user, ADMIN.password)), &device);
        let refused = |login| match driver.connect(address, login) {
            Err(_) => true,
            Ok(mut publisher) => !matches!(publisher.publish(0), Ok(true)),
        };
        assert!(refused(WRONG), "{name}: a wrong password");
        let mut publisher = publisher(&node, *driver, DEVICE);
        assert!(publisher.publish(1).unwrap(), "{name}");
        node.delete("/api/v1/users/device", (ADMIN.user, ADMIN.password));
        let begun = Instant::now();
        while matches!(publisher.publish(2), Ok(true)) {
            assert!(
                begun.elapsed() < PATIENCE,
                "{name}: a removed user publishes"
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
        assert!(refused(DEVICE), "{name}: a removed user");
    }
}
