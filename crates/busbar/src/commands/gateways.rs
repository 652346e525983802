//! `busbar gateways`: the gateways of a node.

use crate::client::NodeArgs;
use crate::exit::Failure;
use crate::say;

/// List the gateways of a node, who is connected, and what came in.
#[derive(Debug, clap::Args)]
pub struct GatewaysArgs {}

/// Runs `busbar gateways`.
pub fn run(GatewaysArgs {}: &GatewaysArgs, node: &NodeArgs, json: bool) -> Result<(), Failure> {
    let mut answer = node.get("/api/v1/gateways")?;
    if json {
        println!("{answer}");
        return Ok(());
    }
    for gateway in answer["gateways"].as_array_mut().into_iter().flatten() {
        let addresses = gateway["addresses"].as_array().into_iter().flatten();
        let addresses: Vec<_> = addresses.filter_map(|a| a.as_str()).collect();
        gateway["address"] = addresses.join(" ").into();
        for (column, member) in [
            ("in", "events_in_total"),
            ("out", "events_out_total"),
            ("refused", "events_refused_total"),
        ] {
            gateway[column] = gateway[member].clone();
        }
    }
    let columns = ["name", "address", "connections", "in", "out", "refused"];
    say::list(&answer["gateways"], &columns, "cli.no-gateways");
    Ok(())
}
