//! AMQP 0-9-1 and 1.0 from its settings.

use std::sync::Arc;

use busbar_amqp::{AmqpGateway, AmqpLimits, AmqpOptions, AmqpTls};
use busbar_catalog::AmqpConfig;
use busbar_event::Error;
use busbar_gateway::Gateway;

use super::{GatewayContext, GatewayEntry, OFF, Started, resolve};

pub(super) const ENTRY: GatewayEntry = GatewayEntry {
    listens: |config| vec![&config.amqp.listen, &config.amqp.tls_listen],
    start: |context| Box::pin(start(context)),
};

async fn start(context: &GatewayContext<'_>) -> Result<Started, Error> {
    let (amqp, limits) = (&context.config.amqp, &context.config.limits);
    if amqp.listen == OFF && amqp.tls_listen == OFF {
        return Ok(None);
    }
    let tls = match (
        resolve(&amqp.tls_listen, "amqp.tls_listen").await?,
        &amqp.tls_cert,
        &amqp.tls_key,
    ) {
        (Some(listen), Some(cert), Some(key)) => Some(AmqpTls {
            listen,
            cert: context.folder.join(cert),
            key: context.folder.join(key),
            client_ca: amqp
                .tls_client_ca
                .as_ref()
                .map(|ca| context.folder.join(ca)),
        }),
        _ => None,
    };
    let options = AmqpOptions {
        listen: resolve(&amqp.listen, "amqp.listen")
            .await?
            .into_iter()
            .collect(),
        tls,
        connections_per_second_max: limits.connection_rate,
        limits: AmqpLimits {
            payload_bytes_max: usize::try_from(limits.payload_size.as_bytes())
                .unwrap_or(usize::MAX),
            connections_max: limits.connections as usize,
            heartbeat_s: u16::try_from(amqp.heartbeat.as_duration().as_secs()).unwrap_or(u16::MAX),
            ..AmqpLimits::default()
        },
    };
    let authorizer = Arc::clone(&context.authorizer);
    match AmqpGateway::start(context.bus.clone(), authorizer, options) {
        Ok(gateway) => Ok(Some(Arc::new(gateway) as Arc<dyn Gateway>)),
        // A RabbitMQ on the same machine is no reason to refuse those who never asked for AMQP.
        Err(error) if error.code() == "gateway.port-in-use" && *amqp == AmqpConfig::default() => {
            tracing::warn!(%error, "AMQP is off; set amqp.listen to another address, or to off");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
