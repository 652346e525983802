//! Drives a node with lapin: busbar-tests-lapin PORT. Ends with a panic at the first thing that is wrong.

use futures_lite::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties, ExchangeKind};

const COUNT: usize = 1000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> lapin::Result<()> {
    let port = std::env::args().nth(1).expect("a port");
    let url = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let none = FieldTable::default;
    channel
        .exchange_declare("lapin".into(), ExchangeKind::Topic, ExchangeDeclareOptions::default(), none())
        .await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("lapin".into(), durable, none()).await?;
    channel
        .queue_bind("lapin".into(), "lapin".into(), "a.*".into(), QueueBindOptions::default(), none())
        .await?;
    let mut headers = none();
    headers.insert("n".into(), AMQPValue::LongInt(7));
    let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers.clone());
    let mut confirms = Vec::new();
    for n in 0..COUNT {
        let body = n.to_string();
        let options = BasicPublishOptions::default();
        confirms.push(
            channel
                .basic_publish("lapin".into(), "a.b".into(), options, body.as_bytes(), properties.clone())
                .await?,
        );
    }
    for confirm in confirms {
        assert!(confirm.await?.is_ack());
    }
    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let mut consumer = channel
        .basic_consume("lapin".into(), "c".into(), BasicConsumeOptions::default(), none())
        .await?;
    for n in 0..COUNT {
        let delivery = consumer.next().await.expect("a delivery")?;
        assert_eq!(delivery.data, n.to_string().into_bytes());
        assert_eq!(delivery.properties.headers().as_ref(), Some(&headers));
        delivery.ack(BasicAckOptions::default()).await?;
    }
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let refused = channel.queue_declare("none".into(), passive, none()).await;
    let text = refused.expect_err("there is no such queue").to_string();
    assert!(text.contains("no queue 'none' in vhost '/'"), "{text}");
    connection.close(200, "done".into()).await?;
    println!("ok");
    Ok(())
}
