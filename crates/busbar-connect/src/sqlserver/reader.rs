//! Reads what the protocol is made of.

/// Why a token is not read.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// Its end has not come.
    Short,
    /// It is not of the protocol.
    Strange(&'static str),
}

/// Bytes that are read from the front.
pub struct TdsReader<'a> {
    pub rest: &'a [u8],
}

impl<'a> TdsReader<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Unread> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Unread::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Unread> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Unread::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, Unread> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Unread> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Unread> {
        self.array().map(u32::from_le_bytes)
    }

    /// UTF-16 of so many units.
    pub fn text(&mut self, units: usize) -> Result<String, Unread> {
        self.take(units * 2).map(utf16)
    }

    /// A text whose length comes first, in one byte.
    pub fn short_text(&mut self) -> Result<String, Unread> {
        let units = self.u8()?;
        self.text(units.into())
    }

    /// The same, in two bytes.
    pub fn long_text(&mut self) -> Result<String, Unread> {
        let units = self.u16()?;
        self.text(units.into())
    }
}

/// The text of UTF-16; half a pair of surrogates becomes the sign for what cannot be read.
pub fn utf16(bytes: &[u8]) -> String {
    let units = bytes
        .chunks_exact(2)
        .map(|two| u16::from_le_bytes([two[0], two[1]]));
    char::decode_utf16(units)
        .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}
