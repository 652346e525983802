//! MQTT from its settings.

use busbar_event::topic::TopicSpelling;
use std::sync::Arc;

use busbar_catalog::Config;
use busbar_event::Error;
use busbar_gateway::Gateway;
use busbar_mqtt_gateway::{Limits, MqttGateway, MqttOptions, TlsConfig};

use super::{GatewayContext, GatewayEntry, Started, resolve};

pub(super) const ENTRY: GatewayEntry = GatewayEntry {
    listens: |config| vec![&config.mqtt.listen, &config.mqtt.tls_listen],
    start: |context| Box::pin(start(context)),
};

async fn start(context: &GatewayContext<'_>) -> Result<Started, Error> {
    let options = options(context).await?;
    let authorizer = Arc::clone(&context.authorizer);
    let gateway = Arc::new(MqttGateway::start(
        context.bus.clone(),
        authorizer,
        options,
    )?);
    let _ = context.gateways.mqtt.set(Arc::clone(&gateway));
    Ok(Some(gateway as Arc<dyn Gateway>))
}

async fn options(context: &GatewayContext<'_>) -> Result<MqttOptions, Error> {
    let config: &Config = context.config;
    let mqtt = &config.mqtt;
    let tls = match (
        resolve(&mqtt.tls_listen, "mqtt.tls_listen").await?,
        &mqtt.tls_cert,
        &mqtt.tls_key,
    ) {
        (Some(listen), Some(cert), Some(key)) => Some(TlsConfig {
            listen,
            cert: context.folder.join(cert),
            key: context.folder.join(key),
            client_ca: mqtt
                .tls_client_ca
                .as_ref()
                .map(|ca| context.folder.join(ca)),
        }),
        _ => None,
    };
    let payload_bytes_max = usize::try_from(config.limits.payload_size.as_bytes());
    Ok(MqttOptions {
        listen: resolve(&mqtt.listen, "mqtt.listen")
            .await?
            .into_iter()
            .collect(),
        tls,
        websocket: None,
        cores: 0,
        limits: Limits {
            packet_bytes_max: Limits::packet_bytes_for(payload_bytes_max.unwrap_or(usize::MAX)),
            connections_max: config.limits.connections as usize,
            connections_per_second_max: config.limits.connection_rate,
            connect_wait_us: i64::try_from(mqtt.connect_timeout.as_duration().as_micros())
                .unwrap_or(i64::MAX),
            subscriptions_per_session_max: config.limits.subscriptions as usize,
            publishes_per_second_max: config.limits.publish_rate,
            receive_maximum: mqtt.receive_max,
            topic_alias_maximum: mqtt.topic_alias_max,
            topics: TopicSpelling::new(&mqtt.topic_separators, &mqtt.topic_template)?,
            sys_interval_us: mqtt.sys_interval.as_micros(),
            session_expiry_s_max: u32::try_from(mqtt.session_expiry.as_duration().as_secs())
                .unwrap_or(u32::MAX),
            ..Limits::default()
        },
    })
}
