//! Types and values as the server sends them, and the texts that values become.
//!
//! Numbers are in digits, times as `2024-05-06 07:08:09.5`, with `+08:00` behind them where they have an offset, bytes as
//! they are, and everything else as UTF-8.

use busbar_connector::{ColumnType, number_kind};
use bytes::Bytes;
use encoding_rs::Encoding;

use super::codepage;
use super::reader::{TdsReader, Unread, utf16};

/// The type of a column.
#[derive(Clone, Copy, Debug)]
pub struct TdsType {
    shape: ValueForm,
    /// How the length of a value is told.
    length: LengthForm,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ValueForm {
    Nothing,
    Bit,
    /// Whole numbers of 1, 2, 4 or 8 bytes.
    Int,
    /// Of 4 or 8 bytes.
    Float,
    Money,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// Days and ticks of 1/300 s, or days and minutes.
    DateTime,
    Date,
    Time {
        scale: u8,
    },
    DateTime2 {
        scale: u8,
    },
    DateTimeOffset {
        scale: u8,
    },
    Guid,
    Unicode,
    Text(&'static Encoding),
    Bytes,
    Variant,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum LengthForm {
    Fixed(usize),
    /// In one byte; 0 is NULL.
    Byte,
    /// In two bytes; 0xffff is NULL.
    Short,
    /// In pieces.
    Parts,
    /// In four bytes; 0 is NULL.
    Long,
    /// Behind a pointer and a time stamp, in four bytes.
    Pointer,
}

/// What values are, as positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssqlPositions {
    Number,
    Time,
    Other,
}

/// Why a value is not read.
pub enum UnreadValue {
    Short,
    Strange,
}

impl From<Unread> for UnreadValue {
    fn from(unread: Unread) -> UnreadValue {
        match unread {
            Unread::Short => UnreadValue::Short,
            Unread::Strange(_) => UnreadValue::Strange,
        }
    }
}

impl TdsType {
    /// Reads a type.
    pub fn read(reader: &mut TdsReader<'_>) -> Result<TdsType, Unread> {
        use LengthForm as L;
        use ValueForm as V;
        let kind = reader.u8()?;
        let (shape, length) = match kind {
            0x1f => (V::Nothing, L::Fixed(0)),
            0x30 => (V::Int, L::Fixed(1)),
            0x32 => (V::Bit, L::Fixed(1)),
            0x34 => (V::Int, L::Fixed(2)),
            0x38 => (V::Int, L::Fixed(4)),
            0x7f => (V::Int, L::Fixed(8)),
            0x3a => (V::DateTime, L::Fixed(4)),
            0x3d => (V::DateTime, L::Fixed(8)),
            0x3b => (V::Float, L::Fixed(4)),
            0x3e => (V::Float, L::Fixed(8)),
            0x3c => (V::Money, L::Fixed(8)),
            0x7a => (V::Money, L::Fixed(4)),
            0x24 | 0x26 | 0x68 | 0x6d | 0x6e | 0x6f => {
                reader.u8()?;
                let shape = match kind {
                    0x24 => V::Guid,
                    0x26 => V::Int,
                    0x68 => V::Bit,
                    0x6d => V::Float,
                    0x6e => V::Money,
                    _ => V::DateTime,
                };
                (shape, L::Byte)
            }
            0x37 | 0x3f | 0x6a | 0x6c => {
                let [_, precision, scale] = reader.array()?;
                (V::Decimal { precision, scale }, L::Byte)
            }
            0x28 => (V::Date, L::Byte),
            0x29 => (
                V::Time {
                    scale: reader.u8()?,
                },
                L::Byte,
            ),
            0x2a => (
                V::DateTime2 {
                    scale: reader.u8()?,
                },
                L::Byte,
            ),
            0x2b => (
                V::DateTimeOffset {
                    scale: reader.u8()?,
                },
                L::Byte,
            ),
            0xa5 | 0xad | 0xa7 | 0xaf | 0xe7 | 0xef => {
                let length = if reader.u16()? == 0xffff {
                    L::Parts
                } else {
                    L::Short
                };
                let shape = match kind {
                    0xa5 | 0xad => V::Bytes,
                    0xa7 | 0xaf => V::Text(codepage::of(reader.array()?)),
                    _ => {
                        reader.array::<5>()?;
                        V::Unicode
                    }
                };
                (shape, length)
            }
            0xf1 => {
                if reader.u8()? != 0 {
                    reader.short_text()?;
                    reader.short_text()?;
                    reader.long_text()?;
                }
                (V::Unicode, L::Parts)
            }
            // A type of the .NET runtime: hierarchyid, geometry.
            0xf0 => {
                reader.u16()?;
                for _ in 0..3 {
                    reader.short_text()?;
                }
                reader.long_text()?;
                (V::Bytes, L::Parts)
            }
            0x22 => {
                reader.u32()?;
                (V::Bytes, L::Pointer)
            }
            0x23 => {
                reader.u32()?;
                (V::Text(codepage::of(reader.array()?)), L::Pointer)
            }
            0x63 => {
                reader.u32()?;
                reader.array::<5>()?;
                (V::Unicode, L::Pointer)
            }
            0x62 => {
                reader.u32()?;
                (V::Variant, L::Long)
            }
            _ => return Err(Unread::Strange("a column of a type that is not known")),
        };
        if let V::Time { scale } | V::DateTime2 { scale } | V::DateTimeOffset { scale } = shape
            && scale > 7
        {
            return Err(Unread::Strange("a time with more than 7 digits"));
        }
        Ok(TdsType { shape, length })
    }

    /// Whether the name of a table follows.
    pub fn names_table(&self) -> bool {
        self.length == LengthForm::Pointer
    }

    /// What holds its values without loss.
    pub fn kind(&self) -> ColumnType {
        match self.shape {
            ValueForm::Bit => ColumnType::Bool,
            ValueForm::Int => ColumnType::Int,
            ValueForm::Float => ColumnType::Float,
            ValueForm::Decimal { precision, scale } => number_kind(precision.into(), scale.into()),
            ValueForm::DateTime
            | ValueForm::DateTime2 { .. }
            | ValueForm::DateTimeOffset { .. } => ColumnType::Time,
            ValueForm::Bytes => ColumnType::Binary,
            _ => ColumnType::Text,
        }
    }

    /// Reads a value of it; `None` for NULL.
    pub fn value(&self, reader: &mut TdsReader<'_>) -> Result<Option<Bytes>, UnreadValue> {
        let bytes = match self.length {
            LengthForm::Fixed(0) => return Ok(None),
            LengthForm::Fixed(length) => reader.take(length)?,
            LengthForm::Byte => match reader.u8()? {
                0 => return Ok(None),
                length => reader.take(length.into())?,
            },
            LengthForm::Short => match reader.u16()? {
                0xffff => return Ok(None),
                length => reader.take(length.into())?,
            },
            LengthForm::Long => match reader.u32()? {
                0 => return Ok(None),
                length => reader.take(length as usize)?,
            },
            LengthForm::Pointer => {
                match reader.u8()? {
                    0 => return Ok(None),
                    length => reader.take(usize::from(length) + 8)?,
                };
                let length = reader.u32()?;
                reader.take(length as usize)?
            }
            LengthForm::Parts => {
                let Some(parts) = parts(reader)? else {
                    return Ok(None);
                };
                // Bytes are not copied once more.
                let value = match self.shape {
                    ValueForm::Bytes => Some(parts),
                    shape => written(shape, &parts),
                };
                return Ok(Some(value.ok_or(UnreadValue::Strange)?.into()));
            }
        };
        let value = match self.shape {
            ValueForm::Variant => variant(bytes)?,
            shape => written(shape, bytes).ok_or(UnreadValue::Strange)?,
        };
        Ok(Some(value.into()))
    }

    /// Appends a value as JSON: numbers and truth values as such, times as `2024-02-29T23:59:59`, bytes as `0x00ff`.
    pub fn json(&self, value: &[u8], out: &mut Vec<u8>) {
        let text = || String::from_utf8_lossy(value);
        match self.shape {
            ValueForm::Bit => out.extend_from_slice(if value == b"1" { b"true" } else { b"false" }),
            ValueForm::Int | ValueForm::Float => out.extend_from_slice(value),
            ValueForm::Bytes => {
                out.extend_from_slice(b"\"0x");
                for byte in value {
                    out.extend_from_slice(format!("{byte:02x}").as_bytes());
                }
                out.push(b'"');
            }
            ValueForm::DateTime
            | ValueForm::DateTime2 { .. }
            | ValueForm::DateTimeOffset { .. } => {
                busbar_change::event::text(&text().replacen(' ', "T", 1), out);
            }
            _ => busbar_change::event::text(&text(), out),
        }
    }

    /// The type of a variable that holds its values, as it is written in SQL.
    pub fn sql(&self) -> String {
        match self.shape {
            ValueForm::Bit => "bit".into(),
            ValueForm::Int => "bigint".into(),
            ValueForm::Float => "float".into(),
            ValueForm::Money => "decimal(19,4)".into(),
            ValueForm::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
            ValueForm::DateTime => "datetime".into(),
            ValueForm::Date => "date".into(),
            ValueForm::Time { .. } => "time".into(),
            ValueForm::DateTime2 { .. } => "datetime2".into(),
            ValueForm::DateTimeOffset { .. } => "datetimeoffset".into(),
            ValueForm::Guid => "uniqueidentifier".into(),
            ValueForm::Bytes => "varbinary(8000)".into(),
            _ => "nvarchar(4000)".into(),
        }
    }

    /// The type of a variable that is compared with a column of it. A text of single bytes stays one where nothing of it is lost, since
    /// variables are kept in the encoding of the database.
    pub fn variable(&self, value: &[u8], database: Option<&'static Encoding>) -> String {
        match self.shape {
            ValueForm::Text(encoding) if value.is_ascii() || database == Some(encoding) => {
                "varchar(8000)".into()
            }
            _ => self.sql(),
        }
    }

    /// A value as text: bytes are `0x00ff`, everything else is as it was sent.
    pub fn text(&self, value: &[u8]) -> String {
        match self.shape {
            ValueForm::Bytes => super::wire::bytes_literal(value),
            _ => String::from_utf8_lossy(value).into_owned(),
        }
    }

    /// A value that [`TdsType::text`] has written, as it is written in SQL.
    pub fn literal_of_text(&self, text: &str) -> String {
        let is_hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        match self.shape {
            ValueForm::Bytes if text.strip_prefix("0x").is_some_and(is_hex) => text.to_owned(),
            _ => self.literal(text.as_bytes()),
        }
    }

    /// A value as it is written in SQL.
    pub fn literal(&self, value: &[u8]) -> String {
        let text = String::from_utf8_lossy(value);
        match self.shape {
            ValueForm::Bit | ValueForm::Int => text.into_owned(),
            ValueForm::Bytes => super::wire::bytes_literal(value),
            ValueForm::DateTime
            | ValueForm::DateTime2 { .. }
            | ValueForm::DateTimeOffset { .. } => {
                format!("CAST(N'{}' AS {})", text.replacen(' ', "T", 1), self.sql())
            }
            // Some collations order texts of single bytes in another way than texts in Unicode: rows are compared with this as they
            // are ordered.
            ValueForm::Text(_) if text.is_ascii() => super::wire::plain(&text),
            ValueForm::Nothing | ValueForm::Unicode | ValueForm::Text(_) | ValueForm::Variant => {
                super::wire::literal(&text)
            }
            _ => format!("CAST(N'{text}' AS {})", self.sql()),
        }
    }
}

impl MssqlPositions {
    /// What values of a type are, as it is written in SQL.
    pub fn of(kind: &str) -> MssqlPositions {
        match kind.split('(').next().unwrap_or_default() {
            "bigint" | "decimal" | "float" => MssqlPositions::Number,
            "datetime" | "datetime2" | "datetimeoffset" | "date" => MssqlPositions::Time,
            _ => MssqlPositions::Other,
        }
    }
}

/// A value that comes in pieces.
fn parts(reader: &mut TdsReader<'_>) -> Result<Option<Vec<u8>>, UnreadValue> {
    let whole = u64::from_le_bytes(reader.array()?);
    if whole == u64::MAX {
        return Ok(None);
    }
    let mut value = Vec::new();
    loop {
        match reader.u32()? {
            0 => return Ok(Some(value)),
            length => value.extend_from_slice(reader.take(length as usize)?),
        }
    }
}

/// A value that has its type with it.
fn variant(bytes: &[u8]) -> Result<Vec<u8>, UnreadValue> {
    use ValueForm as V;
    let mut reader = TdsReader { rest: bytes };
    let short = |_| UnreadValue::Strange;
    let [kind, about] = reader.array().map_err(short)?;
    let about = reader.take(about.into()).map_err(short)?;
    let scale = about.first().copied().unwrap_or(0).min(7);
    let shape = match kind {
        0x24 => V::Guid,
        0x30 | 0x34 | 0x38 | 0x7f => V::Int,
        0x32 => V::Bit,
        0x3a | 0x3d => V::DateTime,
        0x3b | 0x3e => V::Float,
        0x3c | 0x7a => V::Money,
        0x28 => V::Date,
        0x29 => V::Time { scale },
        0x2a => V::DateTime2 { scale },
        0x2b => V::DateTimeOffset { scale },
        0x6a | 0x6c => V::Decimal {
            precision: scale,
            scale: about.get(1).copied().unwrap_or(0),
        },
        0xa7 | 0xaf => {
            let collation = about.first_chunk::<5>().ok_or(UnreadValue::Strange)?;
            V::Text(codepage::of(*collation))
        }
        0xe7 | 0xef => V::Unicode,
        0xa5 | 0xad => {
            // Among values of other types it is a text like them.
            return Ok(super::wire::bytes_literal(reader.rest).into_bytes());
        }
        _ => return Err(UnreadValue::Strange),
    };
    written(shape, reader.rest).ok_or(UnreadValue::Strange)
}

/// The text of a value; none for one that its type cannot have.
fn written(shape: ValueForm, bytes: &[u8]) -> Option<Vec<u8>> {
    Some(match shape {
        ValueForm::Nothing | ValueForm::Variant => return None,
        ValueForm::Bit => vec![if bytes.first()? == &0 { b'0' } else { b'1' }],
        ValueForm::Int => match bytes {
            [byte] => byte.to_string(),
            _ => whole(bytes)?.to_string(),
        }
        .into_bytes(),
        ValueForm::Float => match bytes.len() {
            4 => format!("{:?}", f32::from_le_bytes(bytes.try_into().ok()?)),
            8 => format!("{:?}", f64::from_le_bytes(bytes.try_into().ok()?)),
            _ => return None,
        }
        .into_bytes(),
        ValueForm::Money => {
            let value = match bytes.len() {
                // The upper half comes first.
                8 => {
                    let (high, low) = bytes.split_at(4);
                    let high = i64::from(i32::from_le_bytes(high.try_into().ok()?));
                    high << 32 | i64::from(u32::from_le_bytes(low.try_into().ok()?))
                }
                _ => whole(bytes)?,
            };
            digits(value < 0, value.unsigned_abs().into(), 4).into_bytes()
        }
        ValueForm::Decimal { scale, .. } => {
            let (sign, number) = bytes.split_first()?;
            let mut wide = [0; 16];
            wide.get_mut(..number.len())?.copy_from_slice(number);
            digits(*sign == 0, u128::from_le_bytes(wide), scale.into()).into_bytes()
        }
        ValueForm::DateTime => match bytes.len() {
            4 => {
                let days = u16::from_le_bytes([bytes[0], bytes[1]]);
                let minutes = u64::from(u16::from_le_bytes([bytes[2], bytes[3]]));
                format!(
                    "{} {}",
                    date(i64::from(days) + DAYS_TO_1900)?,
                    clock(minutes * 60, 0)
                )
            }
            8 => {
                let (days, ticks) = bytes.split_at(4);
                let days = i64::from(i32::from_le_bytes(days.try_into().ok()?));
                let ticks = u64::from(u32::from_le_bytes(ticks.try_into().ok()?));
                // 1/300 s, shown in milliseconds as the server does: .000, .003, .007.
                let millis = (ticks * 10 + 1) / 3;
                format!("{} {}", date(days + DAYS_TO_1900)?, clock(millis, 3))
            }
            _ => return None,
        }
        .into_bytes(),
        ValueForm::Date => date(unsigned(bytes)?.try_into().ok()?)?.into_bytes(),
        ValueForm::Time { scale } => clock(unsigned(bytes)?, scale.into()).into_bytes(),
        ValueForm::DateTime2 { scale } => {
            let (time, day) = bytes.split_at_checked(bytes.len().checked_sub(3)?)?;
            let day = i64::try_from(unsigned(day)?).ok()?;
            format!("{} {}", date(day)?, clock(unsigned(time)?, scale.into())).into_bytes()
        }
        ValueForm::DateTimeOffset { scale } => {
            let (rest, offset) = bytes.split_at_checked(bytes.len().checked_sub(2)?)?;
            let offset = i64::from(i16::from_le_bytes(offset.try_into().ok()?));
            let (time, day) = rest.split_at_checked(rest.len().checked_sub(3)?)?;
            let ticks = 10_i64.pow(scale.into());
            // Kept in UTC, shown where it was.
            let time = i64::try_from(unsigned(time)?).ok()?;
            let time = time.checked_add(offset * 60 * ticks)?;
            let day = i64::try_from(unsigned(day)?).ok()? + time.div_euclid(86_400 * ticks);
            let time = time.rem_euclid(86_400 * ticks).unsigned_abs();
            let sign = if offset < 0 { '-' } else { '+' };
            let offset = offset.unsigned_abs();
            format!(
                "{} {}{sign}{:02}:{:02}",
                date(day)?,
                clock(time, scale.into()),
                offset / 60,
                offset % 60
            )
            .into_bytes()
        }
        ValueForm::Guid => {
            let b: [u8; 16] = bytes.try_into().ok()?;
            format!(
                "{:08X}-{:04X}-{:04X}-{:04X}-{:012X}",
                u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                u16::from_le_bytes([b[4], b[5]]),
                u16::from_le_bytes([b[6], b[7]]),
                u16::from_be_bytes([b[8], b[9]]),
                u64::from_be_bytes([0, 0, b[10], b[11], b[12], b[13], b[14], b[15]]),
            )
            .into_bytes()
        }
        ValueForm::Unicode => utf16(bytes).into_bytes(),
        ValueForm::Text(encoding) => {
            let (text, _) = encoding.decode_without_bom_handling(bytes);
            text.into_owned().into_bytes()
        }
        ValueForm::Bytes => bytes.to_vec(),
    })
}

/// Days from the year 1 to 1900, and to 1970.
const DAYS_TO_1900: i64 = 693_595;
const DAYS_TO_1970: i64 = 719_162;

/// A signed number of up to 8 bytes.
fn whole(bytes: &[u8]) -> Option<i64> {
    let negative = bytes.last()? & 0x80 != 0;
    let mut wide = if negative { [0xff; 8] } else { [0; 8] };
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

fn unsigned(bytes: &[u8]) -> Option<u64> {
    let mut wide = [0; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(wide))
}

/// A number with so many digits behind the point.
fn digits(negative: bool, value: u128, scale: usize) -> String {
    let mut text = format!("{value:0width$}", width = scale + 1);
    if scale > 0 {
        text.insert(text.len() - scale, '.');
    }
    if negative && value != 0 {
        text.insert(0, '-');
    }
    text
}

/// A time of day: ticks since midnight, so many digits of a second.
fn clock(ticks: u64, scale: usize) -> String {
    let unit = 10_u64.pow(scale as u32);
    let (seconds, fraction) = (ticks / unit, ticks % unit);
    let text = format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    match scale {
        0 => text,
        _ => format!("{text}.{fraction:0scale$}"),
    }
}

/// A day, counted from the first of the year 1; none for one that no calendar has.
fn date(days: i64) -> Option<String> {
    // Years 1 to 9999.
    (0..=3_652_058).contains(&days).then_some(())?;
    // Days of the civil calendar, with years that begin in March (Howard Hinnant).
    let z = days - DAYS_TO_1970 + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Some(format!("{year:04}-{month:02}-{day:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_texts() {
        let gbk = codepage::of([0x04, 0x08, 0, 0, 0]);
        for (shape, bytes, expected) in [
            (ValueForm::Int, &[200][..], "200"),
            (ValueForm::Int, &[0xfe, 0xff], "-2"),
            (ValueForm::Float, &0.1_f32.to_le_bytes(), "0.1"),
            (ValueForm::Float, &1e300_f64.to_le_bytes(), "1e300"),
            (
                ValueForm::Money,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                "-0.0001",
            ),
            (ValueForm::Money, &[0x10, 0x27, 0, 0], "1.0000"),
            (
                ValueForm::Decimal {
                    precision: 5,
                    scale: 2,
                },
                &[1, 0x39, 0x30, 0, 0],
                "123.45",
            ),
            (
                ValueForm::Decimal {
                    precision: 5,
                    scale: 4,
                },
                &[0, 5, 0, 0, 0],
                "-0.0005",
            ),
            (
                ValueForm::Decimal {
                    precision: 5,
                    scale: 0,
                },
                &[0, 0, 0, 0, 0],
                "0",
            ),
            (
                ValueForm::DateTime,
                &[0, 0, 0, 0, 0, 0, 0, 0],
                "1900-01-01 00:00:00.000",
            ),
            (
                ValueForm::DateTime,
                &[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0],
                "1899-12-31 00:00:00.003",
            ),
            (
                ValueForm::DateTime,
                &[0, 0, 0, 0, 2, 0, 0, 0],
                "1900-01-01 00:00:00.007",
            ),
            (ValueForm::DateTime, &[1, 0, 61, 0], "1900-01-02 01:01:00"),
            (ValueForm::Date, &[0, 0, 0], "0001-01-01"),
            (ValueForm::Date, &[0xda, 0xb9, 0x37], "9999-12-31"),
            (ValueForm::Date, &[0x5b, 0x95, 0x0a], "1900-01-01"),
            (
                ValueForm::Time { scale: 1 },
                &[0xff, 0x2e, 0x0d],
                "23:59:59.9",
            ),
            (
                ValueForm::DateTime2 { scale: 0 },
                &[1, 0, 0, 0x5b, 0x95, 0x0a],
                "1900-01-01 00:00:01",
            ),
            (
                ValueForm::DateTimeOffset { scale: 0 },
                &[0x7f, 0x51, 0x01, 0x5b, 0x95, 0x0a, 0xe0, 0x01],
                "1900-01-02 07:59:59+08:00",
            ),
            (
                ValueForm::Guid,
                &[
                    0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf0, 0xde, 1, 2, 3, 4, 5, 6, 7, 8,
                ],
                "12345678-9ABC-DEF0-0102-030405060708",
            ),
            (
                ValueForm::Unicode,
                &[0xe8, 0x96, 0x3d, 0xd8, 0x00, 0xde],
                "雨😀",
            ),
            (ValueForm::Text(gbk), &[0xd3, 0xea], "雨"),
        ] {
            let text =
                written(shape, bytes).map(|text| String::from_utf8_lossy(&text).into_owned());
            assert_eq!(text.as_deref(), Some(expected), "{shape:?} {bytes:?}");
        }
        for (shape, bytes) in [
            (ValueForm::Date, &[0xff, 0xff, 0xff][..]),
            (ValueForm::Int, &[]),
            (ValueForm::Float, &[1]),
            (ValueForm::DateTime2 { scale: 0 }, &[1]),
            (
                ValueForm::Decimal {
                    precision: 38,
                    scale: 0,
                },
                &[1; 18],
            ),
            (ValueForm::Guid, &[1]),
            (
                ValueForm::DateTimeOffset { scale: 7 },
                &[
                    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0x48, 0x03,
                ],
            ),
        ] {
            assert_eq!(written(shape, bytes), None, "{shape:?} {bytes:?}");
        }
    }

    #[test]
    fn a_key_is_kept_as_text_and_compared_as_it_was() {
        let of = |shape| TdsType {
            shape,
            length: LengthForm::Short,
        };
        let bytes = of(ValueForm::Bytes);
        // No text is made of these bytes: two keys would be the same.
        assert_eq!(bytes.text(&[0x80, 0xff]), "0x80ff");
        assert_eq!(bytes.literal_of_text("0x80ff"), "0x80ff");
        assert_eq!(bytes.literal_of_text("0x1;"), "0x3078313b");
        let latin = of(ValueForm::Text(encoding_rs::WINDOWS_1252));
        assert_eq!(latin.literal_of_text("A-1"), "'A-1'");
        assert_eq!(latin.literal_of_text("é'"), "N'é'''");
        assert_eq!(of(ValueForm::Unicode).literal_of_text("A-1"), "N'A-1'");
    }
}
