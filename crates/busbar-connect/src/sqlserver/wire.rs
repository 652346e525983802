//! The messages of TDS 7.4, the protocol of SQL Server, as clients send them, and how SQL is written.

use bytes::BufMut;

use super::limits::PACKET_BYTES_MAX;

/// Kinds of packets.
pub mod kind {
    pub const BATCH: u8 = 0x01;
    pub const ANSWER: u8 = 0x04;
    pub const LOGIN: u8 = 0x10;
    pub const PRELOGIN: u8 = 0x12;
}

/// Bytes before the content of a packet: kind, status, length, session, number and a reserved one.
pub const HEADER: usize = 8;
/// The status of the last packet of a message.
pub const LAST: u8 = 1;
/// In the status of the first packet of a message: the session is made what it was when it was opened before the message is read.
pub const RESET: u8 = 8;

/// What each side says of encryption.
pub mod encryption {
    /// The login only.
    pub const OFF: u8 = 0;
    /// Everything.
    pub const ON: u8 = 1;
    /// There is none.
    pub const NONE: u8 = 2;
    /// Everything, or the server does not talk.
    pub const REQUIRED: u8 = 3;
}

/// Who logs in, and where.
pub struct TdsLogin<'a> {
    pub user: &'a str,
    pub password: &'a str,
    pub server: &'a str,
    pub database: &'a str,
}

/// Appends a message in packets of so many bytes.
pub fn message(kind: u8, body: &[u8], packet_bytes: usize, out: &mut Vec<u8>) {
    let room = packet_bytes.clamp(512, PACKET_BYTES_MAX) - HEADER;
    let count = body.len().div_ceil(room).max(1);
    for (at, part) in (0..count).map(|at| {
        let begin = at * room;
        (at, &body[begin..body.len().min(begin + room)])
    }) {
        let status = if at + 1 == count { LAST } else { 0 };
        out.put_u8(kind);
        out.put_u8(status);
        // At most 32,767.
        out.put_u16((part.len() + HEADER) as u16);
        out.put_u16(0);
        out.put_u8((at + 1) as u8);
        out.put_u8(0);
        out.extend_from_slice(part);
    }
}

/// What the client says first.
pub fn prelogin(encrypt: u8) -> Vec<u8> {
    let values: [(u8, &[u8]); 5] = [
        (0, &[0, 0, 0, 1, 0, 0]),
        (1, &[encrypt]),
        (2, &[0]),
        (3, &[0; 4]),
        (4, &[0]),
    ];
    let (mut head, mut body) = (Vec::new(), Vec::new());
    let begin = values.len() * 5 + 1;
    for (option, value) in values {
        head.put_u8(option);
        // A few dozen bytes.
        head.put_u16((begin + body.len()) as u16);
        head.put_u16(value.len() as u16);
        body.extend_from_slice(value);
    }
    head.put_u8(0xff);
    head.extend_from_slice(&body);
    head
}

/// What the server answers of encryption, and its version.
pub fn prelogin_answer(body: &[u8]) -> Option<(u8, [u8; 4])> {
    let (mut encrypt, mut version) = (None, [0; 4]);
    let mut rest = body;
    while let [option, a, b, c, d, more @ ..] = rest {
        if *option == 0xff {
            break;
        }
        let begin = usize::from(u16::from_be_bytes([*a, *b]));
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let value = body.get(begin..begin + length)?;
        match (option, value) {
            (0, [one, two, three, four, ..]) => version = [*one, *two, *three, *four],
            (1, [one, ..]) => encrypt = Some(*one),
            _ => {}
        }
        rest = more;
    }
    encrypt.map(|encrypt| (encrypt, version))
}

impl TdsLogin<'_> {
    /// The message. None where a name is longer than the protocol has room for.
    pub fn message(&self, packet_bytes: usize) -> Option<Vec<u8>> {
        const FIXED: usize = 94;
        const NAME_CHARS_MAX: usize = 128;
        let (mut places, mut texts) = (Vec::new(), Vec::new());
        let mut place = |text: &str, hidden: bool| {
            let begin = texts.len();
            for unit in text.encode_utf16() {
                for byte in unit.to_le_bytes() {
                    // A disguise that the protocol asks for, no protection.
                    texts.push(if hidden {
                        byte.rotate_left(4) ^ 0xa5
                    } else {
                        byte
                    });
                }
            }
            let chars = (texts.len() - begin) / 2;
            places.put_u16_le((FIXED + begin) as u16);
            places.put_u16_le(chars as u16);
            chars <= NAME_CHARS_MAX
        };
        // Host, user, password, program, server, nothing, library, language and database.
        let short = [
            place("busbar", false),
            place(self.user, false),
            place(self.password, true),
            place("busbar", false),
            place(self.server, false),
            place("", false),
            place("busbar", false),
            place("", false),
            place(self.database, false),
        ];
        if short.contains(&false) {
            return None;
        }
        places.put_bytes(0, 6);
        for _ in 0..3 {
            places.put_u16_le((FIXED + texts.len()) as u16);
            places.put_u16_le(0);
        }
        places.put_u32_le(0);
        let mut out = Vec::with_capacity(FIXED + texts.len());
        out.put_u32_le((FIXED + texts.len()) as u32);
        out.put_u32_le(0x7400_0004);
        out.put_u32_le(packet_bytes as u32);
        out.put_u32_le(0x0100_0000);
        out.put_u32_le(std::process::id());
        out.put_u32_le(0);
        // The database and the language are told, and no others are taken; settings as ODBC's, which are those of ANSI.
        out.extend_from_slice(&[0xe0, 0x03, 0, 0]);
        out.put_u32_le(0);
        out.put_u32_le(0x0409);
        out.extend_from_slice(&places);
        out.extend_from_slice(&texts);
        Some(out)
    }
}

/// Statements as a message, within a transaction if there is one.
pub fn batch(sql: &str, transaction: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(22 + sql.len() * 2);
    out.put_u32_le(22);
    out.put_u32_le(18);
    out.put_u16_le(2);
    out.put_u64_le(transaction);
    out.put_u32_le(1);
    for unit in sql.encode_utf16() {
        out.put_u16_le(unit);
    }
    out
}

/// A name as an identifier.
pub fn identifier(name: &str) -> String {
    format!("[{}]", name.replace(']', "]]"))
}

/// A table as it is written in SQL.
pub fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(table))
}

/// A text as a literal of Unicode.
pub fn literal(text: &str) -> String {
    written(text, "N", "nvarchar(max)")
}

/// A text of ASCII as a literal of single bytes, with which columns of such are compared in their own order and by their index.
pub fn plain(text: &str) -> String {
    written(text, "", "varchar(max)")
}

/// In SQL Server a backslash at the end of a line is no part of a text, nor is the end of the line. The first of several pieces has
/// a type without a bound, because pieces of shorter types would together be cut to 8,000 bytes.
fn written(text: &str, begin: &str, whole: &str) -> String {
    let mut out = String::with_capacity(text.len() + 3);
    let folds = text.contains("\\\n") || text.contains("\\\r");
    if folds {
        out.push_str("(CAST(");
    }
    out.push_str(begin);
    out.push('\'');
    let mut chars = text.chars().peekable();
    let mut open = folds;
    while let Some(char) = chars.next() {
        if char == '\'' {
            out.push('\'');
        }
        out.push(char);
        if char == '\\' && chars.peek().is_some_and(|next| matches!(next, '\n' | '\r')) {
            out.push('\'');
            if std::mem::take(&mut open) {
                out.push_str(&format!(" AS {whole})"));
            }
            out.push_str(&format!(" + {begin}'"));
        }
    }
    out.push('\'');
    if folds {
        out.push(')');
    }
    out
}

/// Bytes as a literal.
pub fn bytes_literal(bytes: &[u8]) -> String {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    format!("0x{}", digits.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_literals_that_stay_what_they_are() {
        for (text, expected) in [
            ("", "N''"),
            ("it's 雨", "N'it''s 雨'"),
            ("a\\b", "N'a\\b'"),
            ("a\\\nb", "(CAST(N'a\\' AS nvarchar(max)) + N'\nb')"),
            // As messages of HL7 have it, whose segments end with a carriage return alone.
            ("a\\\rb", "(CAST(N'a\\' AS nvarchar(max)) + N'\rb')"),
            (
                "a\\\r\nb\\\nc",
                "(CAST(N'a\\' AS nvarchar(max)) + N'\r\nb\\' + N'\nc')",
            ),
        ] {
            assert_eq!(literal(text), expected, "{text:?}");
        }
        for (text, expected) in [
            ("it's N'x", "'it''s N''x'"),
            ("a\\\nb", "(CAST('a\\' AS varchar(max)) + '\nb')"),
        ] {
            assert_eq!(plain(text), expected, "{text:?}");
        }
        assert_eq!(identifier("a]b"), "[a]]b]");
        assert_eq!(bytes_literal(&[0, 255]), "0x00ff");
    }

    #[test]
    fn messages_are_cut_into_packets() {
        let mut out = Vec::new();
        message(kind::BATCH, &[7; 1000], 512, &mut out);
        assert_eq!(&out[..8], [1, 0, 2, 0, 0, 0, 1, 0]);
        assert_eq!(&out[512..520], [1, 1, 1, 248, 0, 0, 2, 0]);
        assert_eq!(out.len(), 1016);
        let login = TdsLogin {
            user: "sa",
            password: "a",
            server: "s",
            database: "d",
        };
        let message = login.message(4096).expect("short names");
        // What is said of its length is its length.
        assert_eq!(message[..4], (message.len() as u32).to_le_bytes());
        let long = "x".repeat(129);
        assert!(
            TdsLogin {
                user: &long,
                ..login
            }
            .message(4096)
            .is_none()
        );
    }

    #[test]
    fn what_the_server_says_of_encryption_is_found() {
        assert_eq!(
            prelogin_answer(&prelogin(encryption::ON)),
            Some((1, [0, 0, 0, 1]))
        );
        assert_eq!(prelogin_answer(&[1, 0, 200, 0, 1, 0xff]), None);
        assert_eq!(prelogin_answer(&[]), None);
    }
}
