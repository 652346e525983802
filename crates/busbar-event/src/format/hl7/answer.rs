use super::{Hl7Message, Hl7Separators, Hl7Zone};
use crate::{Class, Micros};

/// How a message is acknowledged: what an answer repeats of it, and when it asks for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hl7Answer {
    /// The answer's header segment, in the character set of the message.
    header: Vec<u8>,
    /// MSH-10 of the message, likewise.
    control_id: Vec<u8>,
    separators: Hl7Separators,
    /// MSH-15 and MSH-16; `None` in the original mode, in which one answer is always sent.
    enhanced: Option<(AnswerWhen, AnswerWhen)>,
}

/// A message that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hl7Refusal<'a> {
    /// Transient: the same message may be taken later, which is answered with `AR`. Else it is at fault: `AE`.
    pub class: Class,
    /// The name of the reason, for programs.
    pub code: &'a str,
    /// The reason, for people.
    pub text: &'a str,
}

/// When a sender wants an answer (table 0155).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerWhen {
    Always,
    Never,
    /// When the message was refused.
    Refused,
    /// When it was taken.
    Taken,
}

impl AnswerWhen {
    fn of(text: &str) -> AnswerWhen {
        match text {
            "NE" | "" => AnswerWhen::Never,
            "ER" => AnswerWhen::Refused,
            "SU" => AnswerWhen::Taken,
            // What is not in the table asks for something: an answer more does less harm than one less.
            _ => AnswerWhen::Always,
        }
    }

    fn is_due(self, is_refused: bool) -> bool {
        match self {
            AnswerWhen::Always => true,
            AnswerWhen::Never => false,
            AnswerWhen::Refused => is_refused,
            AnswerWhen::Taken => !is_refused,
        }
    }
}

impl Hl7Answer {
    /// To a message. `now` and `id` are the time and the control id of the answer.
    pub fn to(message: &Hl7Message<'_>, now: Micros, id: u64) -> Hl7Answer {
        let raw = |field| message.raw_field(*b"MSH", field).unwrap_or_default();
        let of = message.separators();
        let (field, component) = (char::from(of.field), char::from(of.component));
        let mut text = format!("MSH{field}");
        text.extend(of.encoding_characters());
        // The receiver of the message sends the answer.
        for number in [5, 6, 3, 4] {
            text.push(field);
            text.push_str(raw(number));
        }
        let time = Hl7Zone::UTC.write(now).unwrap_or_default();
        text.push_str(&format!("{field}{time}{field}{field}ACK"));
        let mut parts = raw(9).split(component);
        if let Some(event) = parts.nth(1).filter(|event| !event.is_empty()) {
            text.push(component);
            text.push_str(event);
            if parts.next().is_some() {
                text.push(component);
                text.push_str("ACK");
            }
        }
        let (processing, version, charset) = (raw(11), raw(12), raw(18));
        text.push_str(&format!("{field}{id}{field}{processing}{field}{version}"));
        if !charset.is_empty() {
            text.extend(std::iter::repeat_n(field, 6));
            text.push_str(charset);
        }
        text.push('\r');
        let encoded = |text: &str| match message.charset().encode(text) {
            Some(bytes) => bytes.into_owned(),
            // It was decoded from this character set.
            None => text.as_bytes().to_vec(),
        };
        let (accept, application) = (raw(15), raw(16));
        Hl7Answer {
            header: encoded(&text),
            control_id: encoded(raw(10)),
            separators: *of,
            enhanced: (!accept.is_empty() || !application.is_empty())
                .then(|| (AnswerWhen::of(accept), AnswerWhen::of(application))),
        }
    }

    /// To what is no message.
    pub fn answer_nothing(now: Micros, id: u64) -> Hl7Answer {
        let time = Hl7Zone::UTC.write(now).unwrap_or_default();
        Hl7Answer {
            header: format!("MSH|^~\\&|||||{time}||ACK|{id}|P|2.5\r").into_bytes(),
            control_id: Vec::new(),
            separators: Hl7Separators::default(),
            enhanced: None,
        }
    }

    /// The codes with which it is answered: one in the original mode; in the enhanced mode those that MSH-15 and MSH-16
    /// ask for, up to two.
    pub fn codes(&self, refusal: Option<&Hl7Refusal<'_>>) -> impl Iterator<Item = &'static str> {
        let number = match refusal.map(|refusal| refusal.class) {
            None => 0,
            Some(Class::Transient) => 2,
            Some(_) => 1,
        };
        let (accept, application) = match self.enhanced {
            None => (AnswerWhen::Never, AnswerWhen::Always),
            Some(modes) => modes,
        };
        let is_refused = refusal.is_some();
        let accept = accept
            .is_due(is_refused)
            .then(|| ["CA", "CE", "CR"][number]);
        let application = application
            .is_due(is_refused)
            .then(|| ["AA", "AE", "AR"][number]);
        accept.into_iter().chain(application)
    }

    /// Appends an answer with one of these codes.
    pub fn write(&self, code: &str, refusal: Option<&Hl7Refusal<'_>>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header);
        let of = &self.separators;
        out.extend_from_slice(b"MSA");
        out.push(of.field);
        out.extend_from_slice(code.as_bytes());
        out.push(of.field);
        out.extend_from_slice(&self.control_id);
        if let Some(refusal) = refusal {
            out.push(of.field);
            self.text(refusal.text, out);
            let (number, name) = match refusal.class {
                Class::Transient => ("207", "Application internal error"),
                _ => ("102", "Data type error"),
            };
            out.extend_from_slice(b"\rERR");
            out.extend([of.field; 3]);
            out.extend_from_slice(number.as_bytes());
            out.push(of.component);
            out.extend_from_slice(name.as_bytes());
            out.push(of.component);
            out.extend_from_slice(b"HL70357");
            out.push(of.field);
            out.push(b'E');
            out.push(of.field);
            self.text(refusal.code, out);
            out.extend([of.field; 3]);
            self.text(refusal.text, out);
        }
        out.push(b'\r');
    }

    /// A text of this program, which is ASCII but for what it quotes. Separators of the message become blanks.
    fn text(&self, text: &str, out: &mut Vec<u8>) {
        let of = &self.separators;
        let separators = [
            Some(of.field),
            Some(of.component),
            of.repetition,
            of.escape,
            of.subcomponent,
            of.truncation,
        ];
        out.extend(text.chars().map(|letter| match u8::try_from(letter) {
            Ok(byte) if separators.contains(&Some(byte)) || byte.is_ascii_control() => b' ',
            Ok(byte) if byte.is_ascii() => byte,
            _ => b'?',
        }));
    }
}

impl Hl7Message<'_> {
    /// Its separators.
    pub fn separators(&self) -> &Hl7Separators {
        &self.separators
    }

    /// The first field of this segment and number, with its escape sequences.
    pub fn raw_field(&self, segment: [u8; 3], field: usize) -> Option<&str> {
        let segment = self.named(segment).next()?;
        self.field(segment, field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Hl7Reader;

    fn answer(message: &str, refusal: Option<&Hl7Refusal<'_>>) -> Vec<String> {
        let mut reader = Hl7Reader::of_any_bytes();
        let message = reader.read(message.as_bytes()).unwrap();
        let answer = Hl7Answer::to(&message, 0, 7);
        let write = |code| {
            let mut out = Vec::new();
            answer.write(code, refusal, &mut out);
            String::from_utf8(out).unwrap()
        };
        answer.codes(refusal).map(write).collect()
    }

    const FAULT: Hl7Refusal<'_> = Hl7Refusal {
        class: Class::Permanent,
        code: "gateway.frame-hl7",
        text: "bad | 中",
    };

    #[test]
    fn a_message_is_answered_to_its_sender() {
        let message =
            "MSH|^~\\&|HIS|WARD&1|LIS|LAB|2026||ADT^A01^ADT_A01|M|P|2.5||||||UNICODE UTF-8\r";
        let header = "MSH|^~\\&|LIS|LAB|HIS|WARD&1|19700101000000+0000||ACK^A01^ACK|7|P|2.5||||||UNICODE UTF-8\r";
        assert_eq!(answer(message, None), [format!("{header}MSA|AA|M\r")]);
        assert_eq!(
            answer(message, Some(&FAULT)),
            [format!(
                "{header}MSA|AE|M|bad   ?\rERR|||102^Data type error^HL70357|E|gateway.frame-hl7|||bad   ?\r"
            )]
        );
        let later = Hl7Refusal {
            class: Class::Transient,
            ..FAULT
        };
        assert!(answer(message, Some(&later))[0].contains("MSA|AR|M|"));
        let own = answer("MSH*%$!?*A*B*C*D***QRY%R02*X*P*2.2\r", None);
        let expected = "MSH*%$!?*C*D*A*B*19700101000000+0000**ACK%R02*7*P*2.2\rMSA*AA*X\r";
        assert_eq!(own, [expected]);
        assert_eq!(
            answer("MSH|^~\\&|A", None),
            ["MSH|^~\\&|||A||19700101000000+0000||ACK|7||\rMSA|AA|\r"]
        );
    }

    #[test]
    fn the_enhanced_mode_says_which_answers_are_due() {
        let codes = |modes: &str, refusal: Option<&Hl7Refusal<'_>>| {
            let message = format!("MSH|^~\\&|||||||ADT^A01|M|P|2.5|||{modes}");
            let code = |answer: String| answer.split('|').rev().nth(1).map(str::to_owned);
            let taken: Vec<String> = answer(&message, refusal)
                .into_iter()
                .filter_map(|answer| {
                    let at = answer.find("MSA|")?;
                    code(answer[at..at + 8].to_owned())
                })
                .collect();
            taken.join(" ")
        };
        for (modes, taken, refused) in [
            ("|", "AA", "AE"),
            ("AL|NE", "CA", "CE"),
            ("AL|AL", "CA AA", "CE AE"),
            ("NE|AL", "AA", "AE"),
            ("NE|NE", "", ""),
            ("ER|SU", "AA", "CE"),
            ("|AL", "AA", "AE"),
            ("XX|NE", "CA", "CE"),
        ] {
            assert_eq!(codes(modes, None), taken, "{modes}");
            assert_eq!(codes(modes, Some(&FAULT)), refused, "{modes}");
        }
    }

    #[test]
    fn what_is_no_message_is_answered_too() {
        let mut out = Vec::new();
        Hl7Answer::answer_nothing(0, 1).write("AE", None, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "MSH|^~\\&|||||19700101000000+0000||ACK|1|P|2.5\rMSA|AE|\r"
        );
    }
}
