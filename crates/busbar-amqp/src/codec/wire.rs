//! Numbers, strings and tables at the front of a byte slice.

use crate::fault::AmqpFault;

use super::table::FieldTable;

/// Reads the fields of a method or a header one after the other.
#[derive(Clone, Debug)]
pub struct WireReader<'a> {
    bytes: &'a [u8],
}

impl<'a> WireReader<'a> {
    /// A reader of `bytes`.
    pub fn new(bytes: &'a [u8]) -> WireReader<'a> {
        WireReader { bytes }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// 502 when there are fewer; so for everything that is read here.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], AmqpFault> {
        match self.bytes.split_at_checked(n) {
            Some((head, rest)) => {
                self.bytes = rest;
                Ok(head)
            }
            None => Err(AmqpFault::syntax("a field goes beyond its frame")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AmqpFault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, AmqpFault> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, the highest first.
    pub fn u16(&mut self) -> Result<u16, AmqpFault> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, AmqpFault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, AmqpFault> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A string of up to 255 bytes of UTF-8.
    pub fn short(&mut self) -> Result<&'a str, AmqpFault> {
        let len = self.u8()?;
        let bytes = self.take(usize::from(len))?;
        std::str::from_utf8(bytes).map_err(|_| AmqpFault::syntax("a short string is not UTF-8"))
    }

    /// A string of up to 4 GiB of bytes.
    pub fn long(&mut self) -> Result<&'a [u8], AmqpFault> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    /// A field table, checked to the bottom.
    pub fn table(&mut self) -> Result<FieldTable<'a>, AmqpFault> {
        FieldTable::check(self.long()?)
    }
}
