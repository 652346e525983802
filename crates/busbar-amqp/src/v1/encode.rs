//! Values and frames that a server writes.

use super::fault::V1Fault;
use super::value::TypedValue;

/// Appends a frame whose performative and payload `write` appends.
#[inline]
pub fn frame(kind: u8, channel: u16, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, 2, kind]);
    out.extend_from_slice(&channel.to_be_bytes());
    write(out);
    let len = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// Appends a frame that holds a performative.
pub fn performative(
    code: u8,
    channel: u16,
    out: &mut Vec<u8>,
    fields: impl FnOnce(&mut ListWriter<'_>),
) {
    frame(0, channel, out, |out| put_described(code, out, fields));
}

/// Appends a described list.
pub fn put_described(code: u8, out: &mut Vec<u8>, fields: impl FnOnce(&mut ListWriter<'_>)) {
    out.extend_from_slice(&[0, 0x53, code]);
    let mut list = ListWriter::begin(out);
    fields(&mut list);
    list.end();
}

/// A sign of life.
pub fn empty_frame(out: &mut Vec<u8>) {
    frame(0, 0, out, |_| {});
}

/// Appends the fields of a list, or the names and values of a map.
#[derive(Debug)]
pub struct ListWriter<'a> {
    out: &'a mut Vec<u8>,
    at: usize,
    count: u32,
}

impl<'a> ListWriter<'a> {
    /// Begins a list.
    pub fn begin(out: &'a mut Vec<u8>) -> ListWriter<'a> {
        ListWriter::of_code(0xd0, out)
    }

    /// Begins a map.
    pub fn begin_map(out: &'a mut Vec<u8>) -> ListWriter<'a> {
        ListWriter::of_code(0xd1, out)
    }

    fn of_code(code: u8, out: &'a mut Vec<u8>) -> ListWriter<'a> {
        out.push(code);
        let at = out.len();
        out.extend_from_slice(&[0; 8]);
        ListWriter { out, at, count: 0 }
    }

    /// A field that `write` appends.
    pub fn field(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        write(self.out);
        self.count += 1;
        self
    }

    /// A value.
    pub fn value(&mut self, value: &TypedValue<'_>) -> &mut Self {
        self.field(|out| put_value(value, out))
    }

    /// A field that is left out.
    pub fn null(&mut self) -> &mut Self {
        self.field(|out| out.push(0x40))
    }

    /// A boolean.
    pub fn flag(&mut self, on: bool) -> &mut Self {
        self.value(&TypedValue::Bool(on))
    }

    /// An integer of 32 bits.
    pub fn uint(&mut self, n: u32) -> &mut Self {
        self.value(&TypedValue::Uint(n))
    }

    /// A string.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.value(&TypedValue::Text(text))
    }

    /// A symbol.
    pub fn symbol(&mut self, text: &str) -> &mut Self {
        self.value(&TypedValue::Symbol(text))
    }

    /// A string, or nothing.
    pub fn text_or_null(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }

    /// A symbol, or nothing.
    pub fn symbol_or_null(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.symbol(text),
            None => self.null(),
        }
    }

    /// Symbols: nothing, or an array.
    pub fn symbols(&mut self, names: &[&str]) -> &mut Self {
        if names.is_empty() {
            return self.null();
        }
        self.field(|out| {
            out.push(0xf0);
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&(names.len() as u32).to_be_bytes());
            out.push(0xb3);
            for name in names {
                out.extend_from_slice(&(name.len() as u32).to_be_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            let len = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&len.to_be_bytes());
        })
    }

    /// A described list.
    pub fn described(&mut self, code: u8, fields: impl FnOnce(&mut ListWriter<'_>)) -> &mut Self {
        self.field(|out| put_described(code, out, fields))
    }

    /// An error.
    pub fn fault(&mut self, fault: Option<&V1Fault>) -> &mut Self {
        match fault {
            None => self.null(),
            Some(fault) => self.described(0x1d, |l| {
                l.symbol(fault.condition).text(&fault.text);
            }),
        }
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Writes length and count.
    pub fn end(self) {
        let len = (self.out.len() - self.at - 4) as u32;
        self.out[self.at..self.at + 4].copy_from_slice(&len.to_be_bytes());
        self.out[self.at + 4..self.at + 8].copy_from_slice(&self.count.to_be_bytes());
    }
}

/// Appends bytes or characters with their length; `short` is the constructor for up to 255 of them.
fn put_variable(short: u8, bytes: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(bytes.len()) {
        Ok(len) => out.extend_from_slice(&[short, len]),
        Err(_) => {
            out.push(short + 0x10);
            out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

/// Appends a value. A described one is written without its descriptor.
pub fn put_value(value: &TypedValue<'_>, out: &mut Vec<u8>) {
    let mut fixed = |code: u8, bytes: &[u8]| {
        out.push(code);
        out.extend_from_slice(bytes);
    };
    match *value {
        TypedValue::Null => fixed(0x40, &[]),
        TypedValue::Bool(true) => fixed(0x41, &[]),
        TypedValue::Bool(false) => fixed(0x42, &[]),
        TypedValue::Ubyte(n) => fixed(0x50, &[n]),
        TypedValue::Ushort(n) => fixed(0x60, &n.to_be_bytes()),
        TypedValue::Uint(0) => fixed(0x43, &[]),
        TypedValue::Uint(n) => match u8::try_from(n) {
            Ok(n) => fixed(0x52, &[n]),
            Err(_) => fixed(0x70, &n.to_be_bytes()),
        },
        TypedValue::Ulong(n) => match u8::try_from(n) {
            Ok(n) => fixed(0x53, &[n]),
            Err(_) => fixed(0x80, &n.to_be_bytes()),
        },
        TypedValue::Byte(n) => fixed(0x51, &n.to_be_bytes()),
        TypedValue::Short(n) => fixed(0x61, &n.to_be_bytes()),
        TypedValue::Int(n) => fixed(0x71, &n.to_be_bytes()),
        TypedValue::Long(n) => fixed(0x81, &n.to_be_bytes()),
        TypedValue::Float(n) => fixed(0x72, &n.to_be_bytes()),
        TypedValue::Double(n) => fixed(0x82, &n.to_be_bytes()),
        TypedValue::Decimal(bytes) => match bytes.len() {
            4 => fixed(0x74, bytes),
            8 => fixed(0x84, bytes),
            _ => fixed(0x94, bytes),
        },
        TypedValue::Char(c) => fixed(0x73, &c.to_be_bytes()),
        TypedValue::Timestamp(ms) => fixed(0x83, &ms.to_be_bytes()),
        TypedValue::Uuid(bytes) => fixed(0x98, &bytes),
        TypedValue::Binary(bytes) => put_variable(0xa0, bytes, out),
        TypedValue::Text(text) => put_variable(0xa1, text.as_bytes(), out),
        TypedValue::Symbol(text) => put_variable(0xa3, text.as_bytes(), out),
        TypedValue::List(items) => put_items(0xd0, items.len(), items.bytes(), out),
        TypedValue::Map(items) => put_items(0xd1, items.len(), items.bytes(), out),
        TypedValue::Array(items) => {
            out.push(0xf0);
            out.extend_from_slice(&(items.bytes().len() as u32 + 5).to_be_bytes());
            out.extend_from_slice(&(items.len() as u32).to_be_bytes());
            out.push(items.code());
            out.extend_from_slice(items.bytes());
        }
        TypedValue::Described(_, bytes) => out.extend_from_slice(bytes),
    }
}

fn put_items(code: u8, count: usize, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(code);
    out.extend_from_slice(&(bytes.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&(count as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// `sasl-mechanisms`
pub fn sasl_mechanisms(names: &[&str], out: &mut Vec<u8>) {
    frame(1, 0, out, |out| {
        put_described(0x40, out, |l| {
            l.symbols(names);
        });
    });
}

/// `sasl-outcome`: 0 for a login that is right, 1 for one that is not.
pub fn sasl_outcome(code: u8, out: &mut Vec<u8>) {
    frame(1, 0, out, |out| {
        put_described(0x44, out, |l| {
            l.value(&TypedValue::Ubyte(code));
        });
    });
}

/// The state of a delivery.
#[derive(Clone, Copy, Debug)]
pub enum SentState<'a> {
    /// `accepted`
    Accepted,
    /// `rejected`, with the reason
    Rejected(&'a V1Fault),
}

/// `disposition` of a receiver for the deliveries from `first` to `last`, which it settles.
#[inline]
pub fn disposition(channel: u16, first: u32, last: u32, state: SentState<'_>, out: &mut Vec<u8>) {
    performative(0x15, channel, out, |l| {
        l.flag(true).uint(first);
        match first == last {
            true => l.null(),
            false => l.uint(last),
        };
        l.flag(true);
        match state {
            SentState::Accepted => l.field(|out| out.extend_from_slice(&[0, 0x53, 0x24, 0x45])),
            SentState::Rejected(fault) => l.described(0x25, |l| {
                l.fault(Some(fault));
            }),
        };
    });
}

/// `detach` that closes a link.
pub fn detach(channel: u16, handle: u32, closed: bool, fault: Option<&V1Fault>, out: &mut Vec<u8>) {
    performative(0x16, channel, out, |l| {
        l.uint(handle).flag(closed).fault(fault);
    });
}

/// `end`
pub fn end(channel: u16, fault: Option<&V1Fault>, out: &mut Vec<u8>) {
    performative(0x17, channel, out, |l| {
        if fault.is_some() {
            l.fault(fault);
        }
    });
}

/// `close`
pub fn close(fault: Option<&V1Fault>, out: &mut Vec<u8>) {
    performative(0x18, 0, out, |l| {
        if fault.is_some() {
            l.fault(fault);
        }
    });
}

/// Appends a `transfer` without its payload. The tag is the delivery's number.
#[inline]
pub fn transfer(handle: u32, delivery: Option<u32>, settled: bool, more: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0x53, 0x14, 0xc0, 0, 6]);
    let at = out.len() - 2;
    put_value(&TypedValue::Uint(handle), out);
    match delivery {
        Some(n) => {
            out.push(0x70);
            out.extend_from_slice(&n.to_be_bytes());
            out.extend_from_slice(&[0xa0, 4]);
            out.extend_from_slice(&n.to_be_bytes());
            out.push(0x43);
        }
        None => out.extend_from_slice(&[0x40, 0x40, 0x40]),
    }
    out.push(if settled { 0x41 } else { 0x42 });
    out.push(if more { 0x41 } else { 0x42 });
    out[at] = (out.len() - at - 1) as u8;
}
/// The longest `transfer` without its payload, in bytes, with the head of its frame.
pub const TRANSFER_BYTES_MAX: usize = 40;
