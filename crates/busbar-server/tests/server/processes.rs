//! Processes in XML over the API.

use crate::access::{as_user, with_admin};
use crate::support::World;
use serde_json::{Value, json};

const PROJECT: &[(&str, &str)] = &[
    (
        "streams/part.yaml",
        "topics: part/+\nformat: json\nschema: { price: float }\n",
    ),
    (
        "streams/shelf.yaml",
        "topics: [cheap/+, dear/+]\nformat: json\n",
    ),
];

const SORTED: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<esbprocess name="sorted">
  <inendpoints>
    <inendpoint name="parts" stream="part"><outbounds><nexthop>priced</nexthop></outbounds></inendpoint>
  </inendpoints>
  <mediations>
    <mediation name="priced" step="where">
      <config>price &gt; 0</config><outbounds><nexthop>by price</nexthop></outbounds>
    </mediation>
    <mediation name="by price" step="route">
      <outbounds>
        <outbound case="dear"><rule>price &gt; 100</rule><nexthop>dear</nexthop></outbound>
        <outbound default="true"><nexthop>cheap</nexthop></outbound>
      </outbounds>
    </mediation>
  </mediations>
  <outendpoints>
    <outendpoint name="cheap" topic="cheap/${client}"/>
    <outendpoint name="dear" topic="dear/${client}"/>
  </outendpoints>
</esbprocess>
"#;

fn import(world: &World, xml: &str, more: &Value) -> crate::support::Answer {
    let mut body = json!({ "xml": xml });
    let (body_map, more) = (body.as_object_mut().unwrap(), more.as_object().unwrap());
    body_map.extend(more.clone());
    world.post("/api/v1/processes", &body)
}

#[test]
fn a_process_is_imported_counted_at_each_node_exported_and_replaced() {
    let world = World::new(PROJECT);
    let dry = import(&world, SORTED, &json!({ "dry_run": true }));
    assert_eq!(dry.status, 200, "{dry:?}");
    assert_eq!(
        dry.json()["changes"],
        json!([{ "path": "flows/sorted.yaml", "kind": "added", "meaning": true }])
    );
    assert_eq!(world.get("/api/v1/flows/sorted").status, 404);

    let done = import(&world, SORTED, &json!({}));
    assert_eq!(
        (done.status, &done.json()["flow"]),
        (200, &json!("sorted")),
        "{done:?}"
    );
    assert_eq!(done.json()["applied"]["deployed"], json!(["sorted"]));
    for price in [5, 500, 0, 7] {
        world.publish("part/p", json!({ "price": price }));
    }
    // The name, what was received and what was sent, at each node.
    let wanted = json!([
        ["parts", 4, 4],
        ["priced", 4, 3],
        ["by price", 3, 3],
        ["cheap", 2, 2],
        ["dear", 1, 1]
    ]);
    world.until("/api/v1/flows/sorted", |flow| {
        let nodes = flow["graph"]["nodes"].as_array().unwrap().iter();
        let seen: Vec<Value> = nodes
            .map(|node| json!([node["name"], node["in"], node["out"]]))
            .collect();
        json!(seen) == wanted
    });

    // What comes out says the same.
    let xml = world.get_json("/api/v1/flows/sorted/process")["xml"].clone();
    let xml = xml.as_str().unwrap();
    let again = import(&world, xml, &json!({ "replace": true, "dry_run": true }));
    assert_eq!(again.json()["changes"], json!([]), "{xml}");

    // It is replaced only when that is said, and goes on where it was.
    let lower = xml.replace("price &gt; 100", "price &gt; 6");
    let there = import(&world, &lower, &json!({}));
    assert_eq!(
        (there.status, there.code()),
        (409, "server.flow-exists".into()),
        "{there:?}"
    );
    let done = import(&world, &lower, &json!({ "replace": true }));
    assert_eq!(done.status, 200, "{done:?}");
    world.publish("part/p", json!({ "price": 8 }));
    world.until("/api/v1/flows/sorted", |flow| {
        flow["graph"]["nodes"][4]["in"] == 2 && flow["in"] == 5
    });

    // What is wrong is pointed at, in the document or in the flow that it is.
    let hop = import(
        &world,
        &SORTED.replace("<nexthop>priced", "<nexthop>prized"),
        &json!({}),
    );
    assert_eq!(hop.status, 422, "{hop:?}");
    let wrong = &hop.json()["diagnostics"][0];
    assert_eq!(
        (&wrong["code"], &wrong["file"]),
        (&json!("process.no-endpoint"), &json!("process.xml"))
    );
    let column = import(
        &world,
        &xml.replace("price &gt; 0", "prize &gt; 0"),
        &json!({ "replace": true }),
    );
    assert_eq!(
        (column.status, column.code()),
        (422, "server.project-wrong".into()),
        "{column:?}"
    );
    assert_eq!(world.get_json("/api/v1/flows/sorted")["state"], "running");
    assert_eq!(world.get("/api/v1/flows/none/process").status, 404);
}

#[test]
fn who_may_not_deploy_imports_nothing() {
    let (world, admin) = with_admin(PROJECT);
    let new = json!({ "name": "olga", "password": "operator-word", "role": "operator" });
    let made = as_user(&world, "POST", "/api/v1/users", &admin, &new);
    assert_eq!(made.status, 201, "{made:?}");
    let olga = crate::access::basic("olga", "operator-word");
    let body = json!({ "xml": SORTED });
    let refused = as_user(&world, "POST", "/api/v1/processes", &olga, &body);
    assert_eq!(refused.status, 403, "{refused:?}");
    let done = as_user(&world, "POST", "/api/v1/processes", &admin, &body);
    assert_eq!(done.status, 200, "{done:?}");
    let xml = as_user(
        &world,
        "GET",
        "/api/v1/flows/sorted/process",
        &olga,
        &Value::Null,
    );
    assert_eq!(xml.status, 200, "{xml:?}");
    let audit = as_user(&world, "GET", "/api/v1/audit", &admin, &Value::Null);
    let entry = &audit.json()["entries"][0];
    assert_eq!(
        (&entry["action"], &entry["detail"]["process"]),
        (&json!("project.apply"), &json!("sorted")),
        "{audit:?}"
    );
}
