//! The bus and the gateway and nothing else: `serve [DATA_DIR] [ADDRESS]`.

use std::sync::Arc;

use busbar_bus::{Bus, BusOptions};
use busbar_gateway::Open;
use busbar_log::{Log, LogOptions, OsDisk, SystemClock};
use busbar_mqtt_gateway::{MqttGateway, MqttOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| "serve-data".to_owned());
    let address = args.next().unwrap_or_else(|| "127.0.0.1:1883".to_owned());
    let log = Log::open(
        Arc::new(OsDisk),
        dir.as_ref(),
        LogOptions::default(),
        Arc::new(SystemClock),
    )?;
    let bus = Bus::open(log, BusOptions::default())?;
    let config = MqttOptions {
        listen: vec![address.parse()?],
        websocket: args.next().map(|a| a.parse()).transpose()?,
        cores: std::env::var("CORES")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0),
        ..MqttOptions::default()
    };
    let handle = MqttGateway::start(bus, Arc::new(Open), config)?;
    println!("MQTT at {:?}", handle.local_addrs());
    loop {
        std::thread::park();
    }
}
