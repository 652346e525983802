//! Gateways that a project declares: added, changed and removed while the node runs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use busbar_server::StartError;

use crate::support::{PATIENCE, World, config, start};

fn address(world: &World, name: &str) -> SocketAddr {
    let all = world.node().gateways();
    let found = all.into_iter().find(|(gateway, _)| gateway == name);
    found.expect("a gateway of this name").1.address
}

/// Sends a line and takes the answer.
fn ask(address: SocketAddr, line: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).unwrap();
    answer
}

fn codes(refused: StartError) -> Vec<String> {
    match refused {
        StartError::Project(all) => all.iter().map(|d| d.error().code().to_owned()).collect(),
        StartError::Node(error) => vec![error.code().to_owned()],
    }
}

fn file(listen: &str, topic: &str) -> String {
    format!("protocol: tcp\nlisten: {listen}\ntopic: {topic}\nacknowledge: true\n")
}

#[test]
fn gateways_come_change_and_go_without_a_restart() {
    let world = World::new(&[]);
    let one = file("127.0.0.1:0", "a/one");
    world.save(&[("gateways/g.yaml", &one)]).unwrap();
    let first = address(&world, "g");
    assert_eq!(ask(first, "1"), "ok\n");
    let mut open = TcpStream::connect(first).unwrap();
    open.set_read_timeout(Some(PATIENCE)).unwrap();

    // A change of meaning takes effect at the same port; others stay connected.
    let other = file("127.0.0.1:0", "b");
    let same = [("gateways/g.yaml", &*one), ("gateways/h.yaml", &other)];
    world.save(&same).unwrap();
    open.write_all(b"2\n").unwrap();
    open.read_exact(&mut [0; 3]).unwrap();
    let two = file("127.0.0.1:0", "a/two");
    world
        .save(&[("gateways/g.yaml", &two), ("gateways/h.yaml", &other)])
        .unwrap();
    assert_eq!(address(&world, "g"), first);
    assert_eq!(open.read(&mut [0]).unwrap(), 0);
    assert_eq!(ask(first, "3"), "ok\n");
    assert_eq!(
        world.sql("select topic, count(*) as n from inbox group by topic order by topic"),
        serde_json::json!([["a/one", 2], ["a/two", 1]])
    );

    // A port in use changes nothing.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = file(&taken.local_addr().unwrap().to_string(), "a/three");
    let refused = world.save(&[("gateways/g.yaml", &bad)]);
    assert_eq!(codes(refused.unwrap_err()), ["gateway.port-in-use"]);
    assert_eq!(ask(first, "4"), "ok\n");
    assert_eq!(ask(address(&world, "h"), "5"), "ok\n");

    let metrics = world.get("/metrics").body;
    assert!(metrics.contains("busbar_gateway_events_in_total{gateway=\"h\"} 1"));
    assert!(metrics.contains("busbar_gateway_connections{gateway=\"mqtt\"} 0"));

    let listed = world.get_json("/api/v1/gateways");
    let names: Vec<_> = listed["gateways"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["name"].clone())
        .collect();
    assert_eq!(names, ["amqp", "mqtt", "g", "h"]);
    assert_eq!(listed["gateways"][3]["events_in_total"], 1);
    let there = format!("tcp://{}", address(&world, "h"));
    assert_eq!(listed["gateways"][3]["addresses"][0], there);

    let off = format!("{two}enabled: false\n");
    world.save(&[("gateways/g.yaml", &off)]).unwrap();
    assert!(
        world
            .node()
            .gateways()
            .iter()
            .all(|(name, _)| name != "g" && name != "h")
    );
    assert!(TcpStream::connect(first).is_err());
}

#[test]
fn a_gateway_outlives_a_restart_and_a_wrong_one_is_pointed_at() {
    let mut world = World::new(&[("gateways/g.yaml", &file("127.0.0.1:0", "a"))]);
    assert_eq!(ask(address(&world, "g"), "1"), "ok\n");
    world.restart();
    assert_eq!(ask(address(&world, "g"), "2"), "ok\n");
    for (text, code) in [
        (file("0.0.0.0:0", "a"), "server.needs-users"),
        (file("127.0.0.1:0", "a/${x}"), "catalog.gateway-variable"),
        (file("nowhere.invalid:1", "a"), "server.needs-users"),
        (
            format!(
                "{}tls: {{ cert: no.pem, key: no.pem }}\n",
                file("127.0.0.1:0", "a")
            ),
            "gateway.tls-certificate",
        ),
    ] {
        let refused = world.save(&[("gateways/g.yaml", &text)]);
        assert_eq!(codes(refused.unwrap_err()), [code], "{text}");
    }
    let twice = [
        (
            "gateways/g.yaml",
            "protocol: tcp\nlisten: 127.0.0.1:9\ntopic: a\n",
        ),
        (
            "gateways/h.yaml",
            "protocol: tcp\nlisten: 127.0.0.1:9\ntopic: b\n",
        ),
    ];
    let refused = world.save(&twice).unwrap_err();
    assert_eq!(codes(refused), ["catalog.gateway-listen-twice"]);
    assert_eq!(ask(address(&world, "g"), "3"), "ok\n");
}

#[test]
fn the_default_address_of_amqp_is_given_up_when_it_is_taken() {
    let mut default = config();
    default.amqp = busbar_catalog::AmqpConfig::default();
    // Whoever has the port, this test or another program of this machine.
    let _taken = TcpListener::bind(&default.amqp.listen);
    let world = World::with(default, &[]);
    assert!(
        world
            .node()
            .gateways()
            .iter()
            .all(|(name, _)| name != "amqp")
    );
    assert!(world.node().is_ready());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut chosen = config();
    chosen.amqp.listen = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let refused = start(&world.runtime, folder.path(), chosen, None);
    let refused = refused.map(|_| "a node").unwrap_err();
    assert_eq!(codes(refused), ["gateway.port-in-use"]);
}
