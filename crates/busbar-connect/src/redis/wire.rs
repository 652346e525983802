//! The protocol, RESP 2: commands out, answers in.

use bytes::{Buf, Bytes, BytesMut};

use super::limits::{ANSWER_BYTES_MAX, DEPTH_MAX, LINE_BYTES_MAX, LIST_MAX, VALUE_BYTES_MAX};

/// An answer, or an element of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// There is no such value.
    Null,
    /// A number.
    Number(i64),
    /// A value, or a word of the server's own such as `OK`.
    Value(Bytes),
    /// The command was refused, and why: `WRONGTYPE Operation against …`.
    Refused(String),
    /// Several.
    List(Vec<Reply>),
}

impl Reply {
    /// A value as text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Reply::Value(value) => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }

    /// The elements of a list.
    pub fn list(&self) -> Option<&[Reply]> {
        match self {
            Reply::List(list) => Some(list),
            _ => None,
        }
    }

    /// What stands behind a name in a list of names and values.
    pub fn member(&self, name: &str) -> Option<&Reply> {
        let mut pairs = self.list()?.chunks_exact(2);
        pairs.find_map(|pair| (pair[0].text() == Some(name)).then_some(&pair[1]))
    }
}

/// Commands, ready to be sent.
#[derive(Debug, Default)]
pub struct Commands {
    bytes: Vec<u8>,
    count: usize,
}

impl Commands {
    /// Adds a command.
    pub fn add(&mut self, words: &[&[u8]]) {
        self.begin(words.len());
        for word in words {
            self.word(word);
        }
    }

    /// Begins a command of so many words, which follow.
    pub fn begin(&mut self, words: usize) {
        self.count += 1;
        self.header(b'*', words);
    }

    /// Adds a word to the command that was begun.
    pub fn word(&mut self, word: &[u8]) {
        self.header(b'$', word.len());
        self.bytes.extend_from_slice(word);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// How many commands there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The commands as they are sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn header(&mut self, kind: u8, number: usize) {
        self.bytes.push(kind);
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.bytes.extend_from_slice(&digits[at..]);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// Reads answers from bytes as they come. What has been read of an unfinished answer is kept.
#[derive(Debug, Default)]
pub struct Replies {
    /// Unfinished lists from the outermost, each with the number of elements that are missing.
    open: Vec<(usize, Vec<Reply>)>,
    /// Bytes of the unfinished answer.
    bytes: usize,
}

/// Why bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// They do not follow the protocol: what is wrong.
    Strange(&'static str),
    /// A value, or all of an answer together, is larger than is taken.
    TooLarge,
}

impl Replies {
    /// The next answer and how many bytes its values have; `None` until all of it is there.
    ///
    /// # Errors
    /// Why there will be none.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<(Reply, usize)>, Unreadable> {
        loop {
            let Some(end) = memchr::memchr(b'\n', buffer) else {
                return match buffer.len() > LINE_BYTES_MAX {
                    true => Err(Unreadable::Strange("a line without end")),
                    false => Ok(None),
                };
            };
            let reply = match head(&buffer[..end])? {
                ReplyHead::Whole(reply) => {
                    buffer.advance(end + 1);
                    reply
                }
                ReplyHead::Value(length) => {
                    if length > VALUE_BYTES_MAX || self.bytes + length > ANSWER_BYTES_MAX {
                        return Err(Unreadable::TooLarge);
                    }
                    let whole = end + 1 + length + 2;
                    if buffer.len() < whole {
                        return Ok(None);
                    }
                    let mut value = buffer.split_to(whole);
                    if !value.ends_with(b"\r\n") {
                        return Err(Unreadable::Strange("a value without its end"));
                    }
                    value.advance(end + 1);
                    value.truncate(length);
                    self.bytes += length;
                    Reply::Value(value.freeze())
                }
                ReplyHead::List(length) => {
                    if length > LIST_MAX {
                        return Err(Unreadable::TooLarge);
                    }
                    if self.open.len() >= DEPTH_MAX {
                        return Err(Unreadable::Strange("lists too deep in each other"));
                    }
                    buffer.advance(end + 1);
                    // The list grows with what comes, not with what is announced.
                    self.open.push((length, Vec::new()));
                    continue;
                }
            };
            if let Some(whole) = self.put(reply) {
                return Ok(Some((whole, std::mem::take(&mut self.bytes))));
            }
        }
    }

    /// Puts an element into the innermost list; the whole answer, if it is the last one.
    fn put(&mut self, mut reply: Reply) -> Option<Reply> {
        while let Some((missing, list)) = self.open.last_mut() {
            list.push(reply);
            *missing -= 1;
            if *missing > 0 {
                return None;
            }
            let (_, list) = self.open.pop()?;
            reply = Reply::List(list);
        }
        Some(reply)
    }
}

/// What a line begins.
enum ReplyHead {
    Whole(Reply),
    /// A value of so many bytes.
    Value(usize),
    /// A list of so many elements, at least one.
    List(usize),
}

fn head(line: &[u8]) -> Result<ReplyHead, Unreadable> {
    let line = line.strip_suffix(b"\r");
    let line = line.ok_or(Unreadable::Strange("a line without its end"))?;
    let (kind, text) = line
        .split_first()
        .ok_or(Unreadable::Strange("an empty line"))?;
    let number = || {
        let number = std::str::from_utf8(text).ok();
        let number = number.and_then(|text| text.parse::<i64>().ok());
        number.ok_or(Unreadable::Strange("a number that is none"))
    };
    Ok(match kind {
        b'+' => ReplyHead::Whole(Reply::Value(Bytes::copy_from_slice(text))),
        b'-' => ReplyHead::Whole(Reply::Refused(String::from_utf8_lossy(text).into_owned())),
        b':' => ReplyHead::Whole(Reply::Number(number()?)),
        b'$' | b'*' => match (usize::try_from(number()?), kind) {
            (Err(_), _) => ReplyHead::Whole(Reply::Null),
            (Ok(length), b'$') => ReplyHead::Value(length),
            (Ok(0), _) => ReplyHead::Whole(Reply::List(Vec::new())),
            (Ok(length), _) => ReplyHead::List(length),
        },
        _ => return Err(Unreadable::Strange("an answer of another form")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Reply>, Unreadable> {
        let (mut replies, mut all) = (Replies::default(), Vec::new());
        let mut buffer = BytesMut::from(bytes);
        while let Some((reply, _)) = replies.next(&mut buffer)? {
            all.push(reply);
        }
        Ok(all)
    }

    fn value(text: &'static str) -> Reply {
        Reply::Value(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn answers_are_read_whole_however_they_are_cut() {
        let bytes = b"+OK\r\n:-7\r\n$-1\r\n*0\r\n*2\r\n$4\r\na\r\nb\r\n*3\r\n:1\r\n-ERR no\r\n$0\r\n\r\n*-1\r\n";
        let all = read(bytes).unwrap();
        let inner = Reply::List(vec![
            Reply::Number(1),
            Reply::Refused("ERR no".into()),
            value(""),
        ]);
        let expected = [
            value("OK"),
            Reply::Number(-7),
            Reply::Null,
            Reply::List(Vec::new()),
            Reply::List(vec![value("a\r\nb"), inner]),
            Reply::Null,
        ];
        assert_eq!(all, expected);
        for cut in 0..bytes.len() {
            let (mut replies, mut buffer) = (Replies::default(), BytesMut::new());
            let mut all = Vec::new();
            for piece in [&bytes[..cut], &bytes[cut..]] {
                buffer.extend_from_slice(piece);
                while let Some((reply, _)) = replies.next(&mut buffer).unwrap() {
                    all.push(reply);
                }
            }
            assert_eq!(all, expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_before_it_is_kept() {
        let deep = "*1\r\n".repeat(9);
        for (bytes, why) in [
            ("$999999999999\r\n", Unreadable::TooLarge),
            ("*999999999999\r\n", Unreadable::TooLarge),
            (
                "HTTP/1.1 400\r\n",
                Unreadable::Strange("an answer of another form"),
            ),
            ("$x\r\n", Unreadable::Strange("a number that is none")),
            ("+OK\n", Unreadable::Strange("a line without its end")),
            (
                "$1\r\nabc\r\n",
                Unreadable::Strange("a value without its end"),
            ),
            (
                deep.as_str(),
                Unreadable::Strange("lists too deep in each other"),
            ),
        ] {
            assert_eq!(read(bytes.as_bytes()), Err(why), "{bytes}");
        }
        let endless = vec![b'+'; LINE_BYTES_MAX + 1];
        assert_eq!(
            read(&endless),
            Err(Unreadable::Strange("a line without end"))
        );
    }

    #[test]
    fn commands_are_lists_of_words() {
        let mut commands = Commands::default();
        commands.add(&[b"SET", b"k", b"a\r\nb"]);
        commands.begin(1);
        commands.word(&[b'x'; 12]);
        let text = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n*1\r\n$12\r\nxxxxxxxxxxxx\r\n";
        assert_eq!((commands.bytes(), commands.count()), (text.as_bytes(), 2));
    }
}
