/// What separates the parts of a message: its fourth byte and MSH-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hl7Separators {
    /// Between fields.
    pub field: u8,
    /// Between components.
    pub component: u8,
    /// Between repetitions of a field.
    pub repetition: Option<u8>,
    /// Around an escape sequence.
    pub escape: Option<u8>,
    /// Between subcomponents.
    pub subcomponent: Option<u8>,
    /// Behind a text that was cut off, since version 2.7.
    pub truncation: Option<u8>,
}

impl Default for Hl7Separators {
    fn default() -> Hl7Separators {
        Hl7Separators {
            field: b'|',
            component: b'^',
            repetition: Some(b'~'),
            escape: Some(b'\\'),
            subcomponent: Some(b'&'),
            truncation: None,
        }
    }
}

impl Hl7Separators {
    /// Those that a header segment (MSH, FHS or BHS) declares.
    ///
    /// # Errors
    /// The byte at which it declares none: they are ASCII, neither letters nor digits, and different.
    pub fn of(segment: &[u8]) -> Result<Hl7Separators, usize> {
        let mut found = [None; 6];
        for (at, byte) in segment.iter().copied().enumerate().skip(3) {
            if at > 3 && Some(byte) == found[0] {
                break;
            }
            let fits = matches!(byte, b' '..=b'~') && !byte.is_ascii_alphanumeric() && byte != b'"';
            let is_new = !found.contains(&Some(byte));
            match found.get_mut(at - 3) {
                Some(place) if fits && is_new => *place = Some(byte),
                _ => return Err(at),
            }
        }
        match found {
            [
                Some(field),
                Some(component),
                repetition,
                escape,
                subcomponent,
                truncation,
            ] => Ok(Hl7Separators {
                field,
                component,
                repetition,
                escape,
                subcomponent,
                truncation,
            }),
            _ => Err(segment.len()),
        }
    }

    /// MSH-2.
    pub fn encoding_characters(&self) -> impl Iterator<Item = char> {
        let more = [
            Some(self.component),
            self.repetition,
            self.escape,
            self.subcomponent,
            self.truncation,
        ];
        more.into_iter().map_while(|byte| byte.map(char::from))
    }

    /// Whether there is no value in a text, only what separates values.
    pub(super) fn is_blank(&self, text: &str) -> bool {
        text.bytes().all(|byte| {
            byte == self.component
                || Some(byte) == self.repetition
                || Some(byte) == self.subcomponent
        })
    }
}

/// A part of a text between separators, counted from zero.
pub(super) fn piece(text: &str, separator: Option<u8>, number: usize) -> Option<&str> {
    let Some(separator) = separator else {
        return (number == 0).then_some(text);
    };
    let bytes = text.as_bytes();
    let mut from = 0;
    for _ in 0..number {
        from += memchr::memchr(separator, &bytes[from..])? + 1;
    }
    let to = memchr::memchr(separator, &bytes[from..]).map_or(bytes.len(), |length| from + length);
    Some(&text[from..to])
}

/// The parts of a text between separators; at least one.
pub(super) fn pieces(text: &str, separator: Option<u8>) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        match separator.and_then(|byte| memchr::memchr(byte, text.as_bytes())) {
            None => Some(text),
            Some(at) => {
                rest = Some(&text[at + 1..]);
                Some(&text[..at])
            }
        }
    })
}

/// Whether a text has a separator in it.
pub(super) fn has(text: &str, separator: Option<u8>) -> bool {
    separator.is_some_and(|byte| memchr::memchr(byte, text.as_bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_what_the_header_declares() {
        assert_eq!(
            Hl7Separators::of(b"MSH|^~\\&|A"),
            Ok(Hl7Separators::default())
        );
        let own = Hl7Separators::of(b"MSH*%$!?#*A").unwrap();
        assert_eq!((own.field, own.component), (b'*', b'%'));
        assert_eq!(own.truncation, Some(b'#'));
        assert_eq!(own.encoding_characters().collect::<String>(), "%$!?#");
        let few = Hl7Separators::of(b"MSH|^").unwrap();
        assert_eq!((few.component, few.repetition), (b'^', None));
        for (segment, at) in [
            (&b"MSH"[..], 3),
            (b"MSH|", 4),
            (b"MSH||A", 6),
            (b"MSHA^~\\&A", 3),
            (b"MSH|^^\\&|", 5),
            (b"MSH|^~\\&#;|", 9),
            (b"MSH|^\xff", 5),
            (b"MSH|^~A&|", 6),
        ] {
            assert_eq!(Hl7Separators::of(segment), Err(at), "{segment:?}");
        }
    }

    #[test]
    fn pieces_are_counted_from_zero() {
        let all: Vec<&str> = pieces("a||b|", Some(b'|')).collect();
        assert_eq!(all, ["a", "", "b", ""]);
        for (number, text) in all.iter().enumerate() {
            assert_eq!(piece("a||b|", Some(b'|'), number), Some(*text));
        }
        assert_eq!(piece("a||b|", Some(b'|'), 4), None);
        assert_eq!(piece("a|b", None, 0), Some("a|b"));
        assert_eq!(pieces("", None).count(), 1);
    }
}
