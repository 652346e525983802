//! The methods a client may send.

use crate::fault::AmqpFault;

use super::table::FieldTable;
use super::wire::WireReader;

/// Numbers of classes and methods, as `(class, method)`.
pub mod id {
    #![allow(missing_docs)]
    pub const CONNECTION_START: (u16, u16) = (10, 10);
    pub const CONNECTION_START_OK: (u16, u16) = (10, 11);
    pub const CONNECTION_SECURE_OK: (u16, u16) = (10, 21);
    pub const CONNECTION_TUNE: (u16, u16) = (10, 30);
    pub const CONNECTION_TUNE_OK: (u16, u16) = (10, 31);
    pub const CONNECTION_OPEN: (u16, u16) = (10, 40);
    pub const CONNECTION_OPEN_OK: (u16, u16) = (10, 41);
    pub const CONNECTION_CLOSE: (u16, u16) = (10, 50);
    pub const CONNECTION_CLOSE_OK: (u16, u16) = (10, 51);
    pub const CONNECTION_BLOCKED: (u16, u16) = (10, 60);
    pub const CONNECTION_UNBLOCKED: (u16, u16) = (10, 61);
    pub const CONNECTION_UPDATE_SECRET: (u16, u16) = (10, 70);
    pub const CHANNEL_OPEN: (u16, u16) = (20, 10);
    pub const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
    pub const CHANNEL_FLOW: (u16, u16) = (20, 20);
    pub const CHANNEL_FLOW_OK: (u16, u16) = (20, 21);
    pub const CHANNEL_CLOSE: (u16, u16) = (20, 40);
    pub const CHANNEL_CLOSE_OK: (u16, u16) = (20, 41);
    pub const ACCESS_REQUEST: (u16, u16) = (30, 10);
    pub const ACCESS_REQUEST_OK: (u16, u16) = (30, 11);
    pub const EXCHANGE_DECLARE: (u16, u16) = (40, 10);
    pub const EXCHANGE_DECLARE_OK: (u16, u16) = (40, 11);
    pub const EXCHANGE_DELETE: (u16, u16) = (40, 20);
    pub const EXCHANGE_DELETE_OK: (u16, u16) = (40, 21);
    pub const EXCHANGE_BIND: (u16, u16) = (40, 30);
    pub const EXCHANGE_BIND_OK: (u16, u16) = (40, 31);
    pub const EXCHANGE_UNBIND: (u16, u16) = (40, 40);
    pub const EXCHANGE_UNBIND_OK: (u16, u16) = (40, 51);
    pub const QUEUE_DECLARE: (u16, u16) = (50, 10);
    pub const QUEUE_DECLARE_OK: (u16, u16) = (50, 11);
    pub const QUEUE_BIND: (u16, u16) = (50, 20);
    pub const QUEUE_BIND_OK: (u16, u16) = (50, 21);
    pub const QUEUE_PURGE: (u16, u16) = (50, 30);
    pub const QUEUE_PURGE_OK: (u16, u16) = (50, 31);
    pub const QUEUE_DELETE: (u16, u16) = (50, 40);
    pub const QUEUE_DELETE_OK: (u16, u16) = (50, 41);
    pub const QUEUE_UNBIND: (u16, u16) = (50, 50);
    pub const QUEUE_UNBIND_OK: (u16, u16) = (50, 51);
    pub const BASIC_QOS: (u16, u16) = (60, 10);
    pub const BASIC_QOS_OK: (u16, u16) = (60, 11);
    pub const BASIC_CONSUME: (u16, u16) = (60, 20);
    pub const BASIC_CONSUME_OK: (u16, u16) = (60, 21);
    pub const BASIC_CANCEL: (u16, u16) = (60, 30);
    pub const BASIC_CANCEL_OK: (u16, u16) = (60, 31);
    pub const BASIC_PUBLISH: (u16, u16) = (60, 40);
    pub const BASIC_RETURN: (u16, u16) = (60, 50);
    pub const BASIC_DELIVER: (u16, u16) = (60, 60);
    pub const BASIC_GET: (u16, u16) = (60, 70);
    pub const BASIC_GET_OK: (u16, u16) = (60, 71);
    pub const BASIC_GET_EMPTY: (u16, u16) = (60, 72);
    pub const BASIC_ACK: (u16, u16) = (60, 80);
    pub const BASIC_REJECT: (u16, u16) = (60, 90);
    pub const BASIC_RECOVER_ASYNC: (u16, u16) = (60, 100);
    pub const BASIC_RECOVER: (u16, u16) = (60, 110);
    pub const BASIC_RECOVER_OK: (u16, u16) = (60, 111);
    pub const BASIC_NACK: (u16, u16) = (60, 120);
    pub const CONFIRM_SELECT: (u16, u16) = (85, 10);
    pub const CONFIRM_SELECT_OK: (u16, u16) = (85, 11);
    pub const TX_SELECT: (u16, u16) = (90, 10);
    pub const TX_SELECT_OK: (u16, u16) = (90, 11);
    pub const TX_COMMIT: (u16, u16) = (90, 20);
    pub const TX_COMMIT_OK: (u16, u16) = (90, 21);
    pub const TX_ROLLBACK: (u16, u16) = (90, 30);
    pub const TX_ROLLBACK_OK: (u16, u16) = (90, 31);
}

/// A method from a client; everything is borrowed from its frame.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum ClientMethod<'a> {
    StartOk {
        properties: FieldTable<'a>,
        mechanism: &'a str,
        response: &'a [u8],
    },
    SecureOk,
    TuneOk {
        channel_max: u16,
        frame_max: u32,
        heartbeat: u16,
    },
    Open {
        vhost: &'a str,
    },
    Close,
    CloseOk,
    UpdateSecret,
    ChannelOpen,
    ChannelFlow {
        active: bool,
    },
    ChannelFlowOk,
    ChannelClose,
    ChannelCloseOk,
    AccessRequest,
    ExchangeDeclare(ExchangeDeclare<'a>),
    ExchangeDelete {
        exchange: &'a str,
        if_unused: bool,
        no_wait: bool,
    },
    ExchangeBind(Bind<'a>),
    ExchangeUnbind(Bind<'a>),
    QueueDeclare(QueueDeclare<'a>),
    QueueBind(Bind<'a>),
    QueueUnbind(Bind<'a>),
    QueuePurge {
        queue: &'a str,
        no_wait: bool,
    },
    QueueDelete {
        queue: &'a str,
        if_unused: bool,
        if_empty: bool,
        no_wait: bool,
    },
    Qos {
        size: u32,
        count: u16,
        global: bool,
    },
    Consume(Consume<'a>),
    Cancel {
        tag: &'a str,
        no_wait: bool,
    },
    CancelOk,
    Publish {
        exchange: &'a str,
        key: &'a str,
        mandatory: bool,
        immediate: bool,
    },
    Get {
        queue: &'a str,
        no_ack: bool,
    },
    Ack {
        tag: u64,
        multiple: bool,
    },
    Reject {
        tag: u64,
        requeue: bool,
    },
    Nack {
        tag: u64,
        multiple: bool,
        requeue: bool,
    },
    /// `recover`, or `recover-async`, which has no answer.
    Recover {
        requeue: bool,
        answered: bool,
    },
    ConfirmSelect {
        no_wait: bool,
    },
    TxSelect,
    TxCommit,
    TxRollback,
}

/// `exchange.declare`
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ExchangeDeclare<'a> {
    pub exchange: &'a str,
    pub kind: &'a str,
    pub passive: bool,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub no_wait: bool,
    pub arguments: FieldTable<'a>,
}

/// `queue.declare`
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct QueueDeclare<'a> {
    pub queue: &'a str,
    pub passive: bool,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub no_wait: bool,
    pub arguments: FieldTable<'a>,
}

/// Binds, or unbinds, a queue or an exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Bind<'a> {
    pub destination: &'a str,
    pub source: &'a str,
    pub key: &'a str,
    pub no_wait: bool,
    pub arguments: FieldTable<'a>,
}

/// `basic.consume`
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Consume<'a> {
    pub queue: &'a str,
    pub tag: &'a str,
    pub no_ack: bool,
    pub exclusive: bool,
    pub no_wait: bool,
    pub arguments: FieldTable<'a>,
}

fn bit(bits: u8, n: u8) -> bool {
    bits & (1 << n) != 0
}

impl<'a> ClientMethod<'a> {
    /// Decodes the payload of a method frame, and says which method it is.
    ///
    /// # Errors
    /// 502 when a field is wrong, 540 when there is no such method or a client may not send it.
    pub fn decode(payload: &'a [u8]) -> Result<((u16, u16), ClientMethod<'a>), AmqpFault> {
        let mut r = WireReader::new(payload);
        let id = (r.u16()?, r.u16()?);
        match ClientMethod::fields(id, &mut r) {
            Ok(method) => Ok((id, method)),
            Err(fault) => Err(fault.of(id)),
        }
    }

    fn fields(id: (u16, u16), r: &mut WireReader<'a>) -> Result<ClientMethod<'a>, AmqpFault> {
        Ok(match id {
            id::CONNECTION_START_OK => {
                let properties = r.table()?;
                let mechanism = r.short()?;
                let response = r.long()?;
                r.short()?;
                ClientMethod::StartOk {
                    properties,
                    mechanism,
                    response,
                }
            }
            id::CONNECTION_SECURE_OK => ClientMethod::SecureOk,
            id::CONNECTION_TUNE_OK => ClientMethod::TuneOk {
                channel_max: r.u16()?,
                frame_max: r.u32()?,
                heartbeat: r.u16()?,
            },
            id::CONNECTION_OPEN => ClientMethod::Open { vhost: r.short()? },
            id::CONNECTION_CLOSE => ClientMethod::Close,
            id::CONNECTION_CLOSE_OK => ClientMethod::CloseOk,
            id::CONNECTION_UPDATE_SECRET => ClientMethod::UpdateSecret,
            id::CHANNEL_OPEN => ClientMethod::ChannelOpen,
            id::CHANNEL_FLOW => ClientMethod::ChannelFlow {
                active: bit(r.u8()?, 0),
            },
            id::CHANNEL_FLOW_OK => ClientMethod::ChannelFlowOk,
            id::CHANNEL_CLOSE => ClientMethod::ChannelClose,
            id::CHANNEL_CLOSE_OK => ClientMethod::ChannelCloseOk,
            id::ACCESS_REQUEST => ClientMethod::AccessRequest,
            id::EXCHANGE_DECLARE => {
                r.u16()?;
                let (exchange, kind, bits) = (r.short()?, r.short()?, r.u8()?);
                ClientMethod::ExchangeDeclare(ExchangeDeclare {
                    exchange,
                    kind,
                    passive: bit(bits, 0),
                    durable: bit(bits, 1),
                    auto_delete: bit(bits, 2),
                    internal: bit(bits, 3),
                    no_wait: bit(bits, 4),
                    arguments: r.table()?,
                })
            }
            id::EXCHANGE_DELETE => {
                r.u16()?;
                let (exchange, bits) = (r.short()?, r.u8()?);
                ClientMethod::ExchangeDelete {
                    exchange,
                    if_unused: bit(bits, 0),
                    no_wait: bit(bits, 1),
                }
            }
            id::EXCHANGE_BIND => ClientMethod::ExchangeBind(bind(r, true)?),
            id::EXCHANGE_UNBIND => ClientMethod::ExchangeUnbind(bind(r, true)?),
            id::QUEUE_DECLARE => {
                r.u16()?;
                let (queue, bits) = (r.short()?, r.u8()?);
                ClientMethod::QueueDeclare(QueueDeclare {
                    queue,
                    passive: bit(bits, 0),
                    durable: bit(bits, 1),
                    exclusive: bit(bits, 2),
                    auto_delete: bit(bits, 3),
                    no_wait: bit(bits, 4),
                    arguments: r.table()?,
                })
            }
            id::QUEUE_BIND => ClientMethod::QueueBind(bind(r, true)?),
            id::QUEUE_UNBIND => ClientMethod::QueueUnbind(bind(r, false)?),
            id::QUEUE_PURGE => {
                r.u16()?;
                ClientMethod::QueuePurge {
                    queue: r.short()?,
                    no_wait: bit(r.u8()?, 0),
                }
            }
            id::QUEUE_DELETE => {
                r.u16()?;
                let (queue, bits) = (r.short()?, r.u8()?);
                ClientMethod::QueueDelete {
                    queue,
                    if_unused: bit(bits, 0),
                    if_empty: bit(bits, 1),
                    no_wait: bit(bits, 2),
                }
            }
            id::BASIC_QOS => ClientMethod::Qos {
                size: r.u32()?,
                count: r.u16()?,
                global: bit(r.u8()?, 0),
            },
            id::BASIC_CONSUME => {
                r.u16()?;
                let (queue, tag, bits) = (r.short()?, r.short()?, r.u8()?);
                // Bit 0 is no-local, which RabbitMQ ignores too.
                ClientMethod::Consume(Consume {
                    queue,
                    tag,
                    no_ack: bit(bits, 1),
                    exclusive: bit(bits, 2),
                    no_wait: bit(bits, 3),
                    arguments: r.table()?,
                })
            }
            id::BASIC_CANCEL => ClientMethod::Cancel {
                tag: r.short()?,
                no_wait: bit(r.u8()?, 0),
            },
            id::BASIC_CANCEL_OK => ClientMethod::CancelOk,
            id::BASIC_PUBLISH => {
                r.u16()?;
                let (exchange, key, bits) = (r.short()?, r.short()?, r.u8()?);
                ClientMethod::Publish {
                    exchange,
                    key,
                    mandatory: bit(bits, 0),
                    immediate: bit(bits, 1),
                }
            }
            id::BASIC_GET => {
                r.u16()?;
                ClientMethod::Get {
                    queue: r.short()?,
                    no_ack: bit(r.u8()?, 0),
                }
            }
            id::BASIC_ACK => ClientMethod::Ack {
                tag: r.u64()?,
                multiple: bit(r.u8()?, 0),
            },
            id::BASIC_REJECT => ClientMethod::Reject {
                tag: r.u64()?,
                requeue: bit(r.u8()?, 0),
            },
            id::BASIC_NACK => {
                let (tag, bits) = (r.u64()?, r.u8()?);
                ClientMethod::Nack {
                    tag,
                    multiple: bit(bits, 0),
                    requeue: bit(bits, 1),
                }
            }
            id::BASIC_RECOVER_ASYNC | id::BASIC_RECOVER => ClientMethod::Recover {
                requeue: bit(r.u8()?, 0),
                answered: id == id::BASIC_RECOVER,
            },
            id::CONFIRM_SELECT => ClientMethod::ConfirmSelect {
                no_wait: bit(r.u8()?, 0),
            },
            id::TX_SELECT => ClientMethod::TxSelect,
            id::TX_COMMIT => ClientMethod::TxCommit,
            id::TX_ROLLBACK => ClientMethod::TxRollback,
            _ => {
                return Err(AmqpFault::not_implemented(format!(
                    "method {} of class {}",
                    id.1, id.0
                )));
            }
        })
    }
}

fn bind<'a>(r: &mut WireReader<'a>, has_no_wait: bool) -> Result<Bind<'a>, AmqpFault> {
    r.u16()?;
    let (destination, source, key) = (r.short()?, r.short()?, r.short()?);
    let no_wait = has_no_wait && bit(r.u8()?, 0);
    Ok(Bind {
        destination,
        source,
        key,
        no_wait,
        arguments: r.table()?,
    })
}
