//! What a client sends, read from the front of a frame.

use super::fault::V1Fault;
use super::value::{ItemReader, TypedItems, TypedReader, TypedValue};

/// A performative of a client, borrowed from its frame.
#[derive(Clone, Debug)]
pub enum Performative<'a> {
    /// `open`
    Open(OpenFields<'a>),
    /// `begin`
    Begin(BeginFields),
    /// `attach`
    Attach(Box<AttachFields<'a>>),
    /// `flow`
    Flow(FlowFields),
    /// `transfer`
    Transfer(TransferFields),
    /// `disposition`
    Disposition(DispositionFields),
    /// `detach`: the handle, and whether the link is closed and not only detached
    Detach(u32, bool),
    /// `end`
    End,
    /// `close`
    Close,
    /// `sasl-init`: mechanism and response
    SaslInit(&'a str, &'a [u8]),
}

/// Fields of `open`.
#[derive(Clone, Debug)]
pub struct OpenFields<'a> {
    /// The name of the client.
    pub container: &'a str,
    /// The name of the server that it wants.
    pub hostname: Option<&'a str>,
    /// The largest frame that it takes, in bytes.
    pub frame_bytes_max: u32,
    /// The highest channel that it takes.
    pub channel_max: u16,
    /// Milliseconds of silence after which it closes the connection.
    pub idle_ms: Option<u32>,
}

/// Fields of `begin`.
#[derive(Clone, Copy, Debug)]
pub struct BeginFields {
    /// The channel of the session that this answers.
    pub remote_channel: Option<u16>,
    /// The number of the first transfer that it will send.
    pub next_outgoing_id: u32,
    /// Transfers that it takes.
    pub incoming_window: u32,
    /// The highest handle that it takes.
    pub handle_max: u32,
}

/// Fields of `attach`.
#[derive(Clone, Debug)]
pub struct AttachFields<'a> {
    /// The name of the link.
    pub name: &'a str,
    /// Its handle.
    pub handle: u32,
    /// Whether the client receives.
    pub receives: bool,
    /// 0 unsettled, 1 settled, 2 mixed.
    pub snd_settle_mode: u8,
    /// Where messages come from.
    pub source: Option<TerminusFields<'a>>,
    /// Where messages go.
    pub target: Option<TerminusFields<'a>>,
    /// The number of deliveries of a sender so far.
    pub initial_delivery_count: u32,
}

/// A source or a target.
#[derive(Clone, Copy, Debug)]
pub struct TerminusFields<'a> {
    /// Whether it coordinates transactions.
    pub coordinates: bool,
    /// Its address.
    pub address: Option<&'a str>,
    /// 0 for none, 1 for its configuration, 2 for what is unsettled too.
    pub durable: u32,
    /// When it ends.
    pub expiry: Option<&'a str>,
    /// Whether the node is made for it.
    pub dynamic: bool,
    /// `move` or `copy`.
    pub distribution: Option<&'a str>,
    /// Filters.
    pub filter: Option<TypedItems<'a>>,
    /// What the node has to be.
    pub capabilities: TypedValue<'a>,
}

/// Fields of `flow`.
#[derive(Clone, Copy, Debug)]
pub struct FlowFields {
    /// The number of the transfer that it expects next; none before it has seen `begin`.
    pub next_incoming_id: Option<u32>,
    /// Transfers that it takes from there on.
    pub incoming_window: u32,
    /// The number of its next transfer.
    pub next_outgoing_id: u32,
    /// The link.
    pub handle: Option<u32>,
    /// Deliveries of the link so far.
    pub delivery_count: Option<u32>,
    /// Deliveries that it takes from there on.
    pub link_credit: Option<u32>,
    /// Whether credit that nothing is there for is used up.
    pub drain: bool,
    /// Whether an answer is wanted.
    pub echo: bool,
}

/// Fields of `transfer`.
#[derive(Clone, Copy, Debug)]
pub struct TransferFields {
    /// The link.
    pub handle: u32,
    /// The number of the delivery; none in all its frames but the first.
    pub delivery_id: Option<u32>,
    /// Whether the sender has settled it.
    pub settled: bool,
    /// Whether more of the message follows.
    pub more: bool,
    /// Whether the delivery is given up.
    pub aborted: bool,
}

/// Fields of `disposition`.
#[derive(Clone, Copy, Debug)]
pub struct DispositionFields {
    /// Whether it speaks of what the client received.
    pub of_receiver: bool,
    /// The first delivery.
    pub first: u32,
    /// The last one.
    pub last: u32,
    /// Whether they are settled.
    pub settled: bool,
    /// What became of them.
    pub state: Option<DeliveryOutcome>,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// A part of it arrived.
    Received,
    /// It was taken.
    Accepted,
    /// It is not a message for this receiver.
    Rejected,
    /// It was not processed.
    Released,
    /// It was not processed.
    Modified {
        /// The attempt counts.
        failed: bool,
        /// It should not come here again.
        undeliverable: bool,
    },
}

impl<'a> Performative<'a> {
    /// Reads a performative; what follows it is the payload.
    ///
    /// # Errors
    /// `amqp:decode-error` when it is none, or not well formed.
    pub fn read(r: &mut TypedReader<'a>) -> Result<Performative<'a>, V1Fault> {
        let (code, value) = r.described()?;
        let TypedValue::List(items) = value else {
            return Err(V1Fault::decode("a performative is not a list"));
        };
        let mut f = items.reader();
        Ok(match code {
            0x10 => Performative::Open(OpenFields {
                container: need(f.text()?, "container-id")?,
                hostname: f.text()?,
                frame_bytes_max: f.uint()?.unwrap_or(u32::MAX),
                channel_max: f.uint()?.unwrap_or(65_535).min(65_535) as u16,
                idle_ms: f.uint()?,
            }),
            0x11 => Performative::Begin(BeginFields {
                remote_channel: f.uint()?.map(|n| n as u16),
                next_outgoing_id: need(f.uint()?, "next-outgoing-id")?,
                incoming_window: need(f.uint()?, "incoming-window")?,
                handle_max: {
                    f.uint()?;
                    f.uint()?.unwrap_or(u32::MAX)
                },
            }),
            0x12 => Performative::Attach(Box::new(read_attach(&mut f)?)),
            0x13 => Performative::Flow(read_flow(&mut f)?),
            0x14 => Performative::Transfer(read_transfer(&mut f)?),
            0x15 => Performative::Disposition(read_disposition(&mut f)?),
            0x16 => Performative::Detach(need(f.uint()?, "handle")?, f.flag()?),
            0x17 => Performative::End,
            0x18 => Performative::Close,
            0x41 => Performative::SaslInit(
                need(f.text()?, "mechanism")?,
                f.binary()?.unwrap_or_default(),
            ),
            code => {
                return Err(V1Fault::decode(format!(
                    "there is no performative {code:#04x}"
                )));
            }
        })
    }
}

fn need<T>(field: Option<T>, name: &str) -> Result<T, V1Fault> {
    field.ok_or_else(|| V1Fault::decode(format!("the field {name} is not there")))
}

fn read_attach<'a>(f: &mut ItemReader<'a>) -> Result<AttachFields<'a>, V1Fault> {
    let name = need(f.text()?, "name")?;
    let handle = need(f.uint()?, "handle")?;
    let receives = f.flag()?;
    let snd_settle_mode = f.uint()?.unwrap_or(2) as u8;
    f.value()?;
    let source = read_terminus(f.value()?)?;
    let target = read_terminus(f.value()?)?;
    f.value()?;
    f.value()?;
    Ok(AttachFields {
        name,
        handle,
        receives,
        snd_settle_mode,
        source,
        target,
        initial_delivery_count: f.uint()?.unwrap_or(0),
    })
}

fn read_terminus(value: TypedValue<'_>) -> Result<Option<TerminusFields<'_>>, V1Fault> {
    let (code, bytes) = match value {
        TypedValue::Null => return Ok(None),
        TypedValue::Described(code, bytes) => (code, bytes),
        _ => return Err(V1Fault::decode("a source or a target has no type")),
    };
    let TypedValue::List(items) = TypedReader::new(bytes).value()? else {
        return Err(V1Fault::decode("a source or a target is not a list"));
    };
    let mut f = items.reader();
    let mut terminus = TerminusFields {
        coordinates: code == 0x30,
        address: None,
        durable: 0,
        expiry: None,
        dynamic: false,
        distribution: None,
        filter: None,
        capabilities: TypedValue::Null,
    };
    match code {
        0x30 => return Ok(Some(terminus)),
        0x28 | 0x29 => {}
        _ => return Err(V1Fault::decode("a source or a target of unknown type")),
    }
    terminus.address = f.text()?;
    terminus.durable = f.uint()?.unwrap_or(0);
    terminus.expiry = f.text()?;
    f.value()?;
    terminus.dynamic = f.flag()?;
    f.value()?;
    if code == 0x28 {
        terminus.distribution = f.text()?;
        terminus.filter = match f.value()? {
            TypedValue::Map(items) => Some(items),
            TypedValue::Null => None,
            _ => return Err(V1Fault::decode("a filter is not a map")),
        };
        f.value()?;
        f.value()?;
    }
    terminus.capabilities = f.value()?;
    Ok(Some(terminus))
}

fn read_flow(f: &mut ItemReader<'_>) -> Result<FlowFields, V1Fault> {
    let next_incoming_id = f.uint()?;
    let incoming_window = need(f.uint()?, "incoming-window")?;
    let next_outgoing_id = need(f.uint()?, "next-outgoing-id")?;
    f.uint()?;
    let handle = f.uint()?;
    let delivery_count = f.uint()?;
    let link_credit = f.uint()?;
    f.uint()?;
    Ok(FlowFields {
        next_incoming_id,
        incoming_window,
        next_outgoing_id,
        handle,
        delivery_count,
        link_credit,
        drain: f.flag()?,
        echo: f.flag()?,
    })
}

fn read_transfer(f: &mut ItemReader<'_>) -> Result<TransferFields, V1Fault> {
    let handle = need(f.uint()?, "handle")?;
    let delivery_id = f.uint()?;
    f.binary()?;
    f.uint()?;
    let settled = f.flag()?;
    let more = f.flag()?;
    f.value()?;
    f.value()?;
    f.flag()?;
    Ok(TransferFields {
        handle,
        delivery_id,
        settled,
        more,
        aborted: f.flag()?,
    })
}

fn read_disposition(f: &mut ItemReader<'_>) -> Result<DispositionFields, V1Fault> {
    let of_receiver = f.flag()?;
    let first = need(f.uint()?, "first")?;
    let last = f.uint()?.unwrap_or(first);
    let settled = f.flag()?;
    let state = match f.value()? {
        TypedValue::Described(code, bytes) => read_outcome(code, bytes)?,
        _ => None,
    };
    Ok(DispositionFields {
        of_receiver,
        first,
        last,
        settled,
        state,
    })
}

fn read_outcome(code: u64, bytes: &[u8]) -> Result<Option<DeliveryOutcome>, V1Fault> {
    Ok(Some(match code {
        0x23 => DeliveryOutcome::Received,
        0x24 => DeliveryOutcome::Accepted,
        0x25 => DeliveryOutcome::Rejected,
        0x26 => DeliveryOutcome::Released,
        0x27 => {
            let TypedValue::List(items) = TypedReader::new(bytes).value()? else {
                return Err(V1Fault::decode("an outcome is not a list"));
            };
            let mut f = items.reader();
            DeliveryOutcome::Modified {
                failed: f.flag()?,
                undeliverable: f.flag()?,
            }
        }
        _ => return Ok(None),
    }))
}
