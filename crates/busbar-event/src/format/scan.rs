//! A scanner of one JSON document: strict, one pass, no allocation.
//!
//! It accepts exactly what RFC 8259 does, of valid UTF-8 (which the caller has checked), with
//! nesting bounded. What is skipped is held to the same rules as what is read, so whether a
//! document is good does not depend on who reads it.

use crate::limits::JSON_DEPTH_MAX;

/// Why a document is none, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It ends too early.
    End,
    /// Something else should be here.
    Syntax(usize),
    /// A character that must be escaped, or an escape that means nothing.
    Text(usize),
    /// Not how a number is written.
    Number(usize),
    /// Nested too deeply.
    Depth(usize),
    /// More after the end.
    Trailing(usize),
    /// Not an object.
    NotObject,
    /// Not UTF-8.
    Utf8(usize),
}

/// A decimal number of at most this many significant digits is unchanged when it is read as a float and
/// written again.
const EXACT_DIGITS: u32 = 15;

/// Whether `mantissa × 10^exponent` is certainly unchanged when it is read as a float and written again.
fn surely_exact(mantissa: u64, exponent: i64) -> bool {
    mantissa < 10u64.pow(EXACT_DIGITS) && (-300..=290).contains(&exponent)
}

/// A piece of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub from: usize,
    pub to: usize,
}

/// What a number consists of: `±mantissa × 10^exponent`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    pub span: Span,
    negative: bool,
    /// Wrong if `long`.
    mantissa: u64,
    exponent: i64,
    /// More digits than fit the mantissa.
    long: bool,
}

#[derive(Debug)]
pub(super) struct Scanner<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

const _: () = assert!(JSON_DEPTH_MAX <= 64, "one bit of a word for each level");

impl<'a> Scanner<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Scanner { bytes, at: 0 }
    }

    /// The next byte that is not white space, which is not consumed.
    #[inline(always)]
    pub fn peek(&mut self) -> Result<u8, Fault> {
        match self.bytes.get(self.at) {
            Some(byte) if *byte > b' ' => Ok(*byte),
            _ => self.peek_far(),
        }
    }

    #[cold]
    fn peek_far(&mut self) -> Result<u8, Fault> {
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Ok(*byte),
            }
        }
        Err(Fault::End)
    }

    /// After the document: nothing but white space.
    pub fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Err(_) => Ok(()),
            Ok(_) => Err(Fault::Trailing(self.at)),
        }
    }

    /// A string, whose opening quote is here: what is between the quotes, and whether there are
    /// escapes in it.
    #[inline(always)]
    pub fn string(&mut self) -> Result<(Span, bool), Fault> {
        let from = self.at + 1;
        let at = plain_end(self.bytes, from);
        if self.bytes.get(at) == Some(&b'"') {
            self.at = at + 1;
            return Ok((Span { from, to: at }, false));
        }
        self.escaped_string(from, at)
    }

    fn escaped_string(&mut self, from: usize, mut at: usize) -> Result<(Span, bool), Fault> {
        loop {
            match self.bytes.get(at) {
                None => return Err(Fault::End),
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok((Span { from, to: at }, true));
                }
                Some(b'\\') => at = escape(self.bytes, at)?.1,
                Some(_) => return Err(Fault::Text(at)),
            }
            at = plain_end(self.bytes, at);
        }
    }

    /// The key of a member and its colon; the opening quote must be here.
    #[inline(always)]
    pub fn key(&mut self) -> Result<(Span, bool), Fault> {
        if self.peek()? != b'"' {
            return Err(Fault::Syntax(self.at));
        }
        let key = self.string()?;
        if self.peek()? != b':' {
            return Err(Fault::Syntax(self.at));
        }
        self.at += 1;
        Ok(key)
    }

    pub fn literal(&mut self, word: &'static [u8]) -> Result<(), Fault> {
        let rest = &self.bytes[self.at..];
        if rest.starts_with(word) {
            self.at += word.len();
            Ok(())
        } else if word.starts_with(rest) {
            Err(Fault::End)
        } else {
            Err(Fault::Syntax(self.at))
        }
    }

    #[inline(always)]
    fn digits(&mut self) -> usize {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.bytes.get(self.at) {
            self.at += 1;
        }
        self.at - from
    }

    #[inline]
    fn skip_number(&mut self) -> Result<(), Fault> {
        let from = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let zero = self.bytes.get(self.at) == Some(&b'0');
        let whole = self.digits();
        if whole == 0 || (zero && whole > 1) {
            return Err(self.bad_number(from));
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(self.bad_number(from));
            }
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.bad_number(from));
            }
        }
        Ok(())
    }

    #[cold]
    fn bad_number(&self, from: usize) -> Fault {
        if self.at >= self.bytes.len() {
            Fault::End
        } else {
            Fault::Number(from)
        }
    }

    /// A number, whose first character is here.
    #[inline]
    pub fn number(&mut self) -> Result<Number, Fault> {
        let from = self.at;
        let negative = self.bytes.get(self.at) == Some(&b'-');
        self.at += usize::from(negative);
        let (mut mantissa, mut significant, mut exponent) = (0u64, 0u32, 0i64);
        let mut take = |scanner: &mut Self| {
            let from = scanner.at;
            while let Some(digit @ b'0'..=b'9') = scanner.bytes.get(scanner.at) {
                mantissa = mantissa
                    .wrapping_mul(10)
                    .wrapping_add(u64::from(digit - b'0'));
                significant += u32::from(significant > 0 || *digit != b'0');
                scanner.at += 1;
            }
            scanner.at - from
        };
        let zero = self.bytes.get(self.at) == Some(&b'0');
        let whole = take(self);
        if whole == 0 || (zero && whole > 1) {
            return Err(self.bad_number(from));
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            let digits = take(self);
            if digits == 0 {
                return Err(self.bad_number(from));
            }
            exponent = -(digits as i64);
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            let minus = self.bytes.get(self.at) == Some(&b'-');
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            let (mut power, first) = (0i64, self.at);
            while let Some(digit @ b'0'..=b'9') = self.bytes.get(self.at) {
                power = (power * 10 + i64::from(digit - b'0')).min(1 << 32);
                self.at += 1;
            }
            if self.at == first {
                return Err(self.bad_number(from));
            }
            exponent += if minus { -power } else { power };
        }
        let span = Span { from, to: self.at };
        Ok(Number {
            span,
            negative,
            mantissa,
            exponent,
            long: significant > 19,
        })
    }

    /// Goes past a value, inside `depth` containers.
    #[inline]
    pub fn skip(&mut self, depth: usize) -> Result<(), Fault> {
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b'-' | b'0'..=b'9' => self.skip_number(),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            b'{' | b'[' => self.skip_container(depth),
            _ => Err(Fault::Syntax(self.at)),
        }
    }

    fn skip_container(&mut self, depth: usize) -> Result<(), Fault> {
        // One bit a level, the innermost lowest: 1 for an object.
        let (mut kinds, mut level) = (0u64, 0);
        'value: loop {
            let byte = self.peek()?;
            match byte {
                b'{' | b'[' => {
                    self.at += 1;
                    if self.peek()? == byte + 2 {
                        self.at += 1;
                    } else {
                        level += 1;
                        if depth + level > JSON_DEPTH_MAX {
                            return Err(Fault::Depth(self.at));
                        }
                        kinds = kinds << 1 | u64::from(byte == b'{');
                        if byte == b'{' {
                            self.key()?;
                        }
                        continue 'value;
                    }
                }
                _ => self.skip(depth)?,
            }
            loop {
                if level == 0 {
                    return Ok(());
                }
                match (self.peek()?, kinds & 1) {
                    (b',', 1) => {
                        self.at += 1;
                        self.key()?;
                        continue 'value;
                    }
                    (b',', _) => {
                        self.at += 1;
                        continue 'value;
                    }
                    (b'}', 1) | (b']', 0) => {
                        self.at += 1;
                        kinds >>= 1;
                        level -= 1;
                    }
                    _ => return Err(Fault::Syntax(self.at)),
                }
            }
        }
    }
}

impl Number {
    /// The number if it is a whole one of 64 bits, however it is written; `bytes` are the document's.
    #[inline]
    pub fn as_int(&self, bytes: &[u8]) -> Option<i64> {
        if self.long {
            return self.shortened(bytes)?.as_int(bytes);
        }
        let magnitude = match self.exponent {
            0 => self.mantissa,
            _ if self.mantissa == 0 => 0,
            1..=19 => self.mantissa.checked_mul(10u64.pow(self.exponent as u32))?,
            -19..=-1 => {
                let divisor = 10u64.pow(-self.exponent as u32);
                if !self.mantissa.is_multiple_of(divisor) {
                    return None;
                }
                self.mantissa / divisor
            }
            _ => return None,
        };
        if self.negative {
            0i64.checked_sub_unsigned(magnitude)
        } else {
            magnitude.try_into().ok()
        }
    }

    /// The nearest number of 64 bits with a fraction, or `None` if it is too large for one.
    #[inline]
    pub fn as_float(&self, bytes: &[u8]) -> Option<f64> {
        // A product or quotient of two numbers that are exact is rounded once, so it is right.
        const POWERS: [f64; 23] = [
            1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
            1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
        ];
        if !self.long && self.mantissa <= 1 << 53 {
            let value = self.mantissa as f64;
            let value = if self.negative { -value } else { value };
            match self.exponent {
                0..=22 => return Some(value * POWERS[self.exponent as usize]),
                -22..=-1 => return Some(value / POWERS[-self.exponent as usize]),
                _ => {}
            }
        }
        let text = std::str::from_utf8(&bytes[self.span.from..self.span.to]).ok()?;
        text.parse().ok().filter(|value: &f64| value.is_finite())
    }

    /// Whether it is written without fraction and exponent.
    pub fn is_whole(&self) -> bool {
        self.exponent == 0
    }

    /// Whether it is a zero with a minus sign.
    pub fn is_negative_zero(&self) -> bool {
        self.negative && !self.long && self.mantissa == 0
    }

    /// The same number with this sign.
    pub fn with_sign(self, negative: bool) -> Number {
        Number { negative, ..self }
    }

    /// Whether this number is unchanged when it is read as a float and written again.
    #[inline]
    pub fn is_exact_float(&self, bytes: &[u8]) -> bool {
        if !self.long && surely_exact(self.mantissa, self.exponent) {
            return true;
        }
        self.as_float(bytes)
            .is_some_and(|value| self.is_written_as(value, bytes))
    }

    #[cold]
    fn is_written_as(&self, value: f64, bytes: &[u8]) -> bool {
        let mut buffer = zmij::Buffer::new();
        let written = buffer.format_finite(value).as_bytes();
        let Ok(written) = Scanner::new(written).number() else {
            return false;
        };
        let given = match self.long {
            true => self.shortened(bytes),
            false => Some(*self),
        };
        given.is_some_and(|given| given.reduced() == written.reduced())
    }

    /// Mantissa and exponent with no zero at the mantissa's end.
    fn reduced(&self) -> (u64, i64) {
        let (mut mantissa, mut exponent) = (self.mantissa, self.exponent);
        while mantissa != 0 && mantissa.is_multiple_of(10) {
            mantissa /= 10;
            exponent += 1;
        }
        (mantissa, if mantissa == 0 { 0 } else { exponent })
    }

    /// A number of more digits than the mantissa holds, without the zeros at its end; `None` if it still has
    /// too many.
    #[cold]
    fn shortened(&self, bytes: &[u8]) -> Option<Number> {
        let text = bytes.get(self.span.from..self.span.to)?;
        let digits = text.iter().take_while(|byte| !matches!(byte, b'e' | b'E'));
        let digits: Vec<u8> = digits
            .filter(|byte| byte.is_ascii_digit())
            .copied()
            .collect();
        let zeros = digits
            .iter()
            .rev()
            .take_while(|digit| **digit == b'0')
            .count();
        let mut mantissa = 0u64;
        for digit in &digits[..digits.len() - zeros] {
            mantissa = mantissa
                .checked_mul(10)?
                .checked_add(u64::from(digit - b'0'))?;
        }
        Some(Number {
            mantissa,
            exponent: self.exponent + zeros as i64,
            long: false,
            ..*self
        })
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The first byte from `at` on that is a quote, a backslash or a control character.
#[inline(always)]
pub(super) fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        // Each term has the high bit of a byte set if the byte is the one looked for; bytes above
        // the lowest such one may be wrong, which does not matter.
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let found = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let found = found & HIGHS;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(byte) = bytes.get(at) {
        if matches!(byte, b'"' | b'\\' | 0..=0x1f) {
            break;
        }
        at += 1;
    }
    at
}

/// The character that the escape at `at` stands for, and where the escape ends.
fn escape(bytes: &[u8], at: usize) -> Result<(char, usize), Fault> {
    let plain = match bytes.get(at + 1) {
        None => return Err(Fault::End),
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => {
            let high = hex(bytes, at + 2)?;
            if !(0xd800..0xe000).contains(&high) {
                return char::from_u32(high)
                    .map(|c| (c, at + 6))
                    .ok_or(Fault::Text(at));
            }
            // The first half of a pair, and the second must follow.
            if high >= 0xdc00 {
                return Err(Fault::Text(at));
            }
            match bytes.get(at + 6..at + 8) {
                Some(b"\\u") => {}
                Some(_) => return Err(Fault::Text(at)),
                None => return Err(Fault::End),
            }
            let low = hex(bytes, at + 8)?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(Fault::Text(at));
            }
            let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            return char::from_u32(code)
                .map(|c| (c, at + 12))
                .ok_or(Fault::Text(at));
        }
        Some(_) => return Err(Fault::Text(at)),
    };
    Ok((plain, at + 2))
}

fn hex(bytes: &[u8], at: usize) -> Result<u32, Fault> {
    let digits = bytes.get(at..at + 4).ok_or(Fault::End)?;
    digits.iter().try_fold(0, |value, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or(Fault::Text(at))?;
        Ok(value << 4 | digit)
    })
}

/// Appends what a string with escapes stands for. The string was scanned before.
pub(super) fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < raw.len() {
        let from = at;
        at = memchr::memchr(b'\\', &raw[at..]).map_or(raw.len(), |offset| at + offset);
        out.extend_from_slice(&raw[from..at]);
        if at < raw.len() {
            let Ok((c, next)) = escape(raw, at) else {
                return;
            };
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            at = next;
        }
    }
}

/// Whether the bytes are one JSON document.
pub fn is_json(bytes: &[u8]) -> bool {
    let mut scanner = Scanner::new(bytes);
    scanner.skip(0).and_then(|()| scanner.end()).is_ok() && std::str::from_utf8(bytes).is_ok()
}
