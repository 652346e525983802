//! Answers to HL7 messages that come in blocks of MLLP.

use busbar_event::format::{Hl7Answer, Hl7Reader, Hl7Refusal};
use busbar_event::{Class, Error, Micros};

use crate::framing::Framing;

/// Makes the answers of one thread.
#[derive(Debug)]
pub(crate) struct MllpAnswers {
    reader: Hl7Reader,
    /// Answers made so far; with the time, the control id of an answer.
    made: u64,
}

/// How a message is answered.
#[derive(Debug)]
pub(crate) struct MllpAnswer {
    answer: Hl7Answer,
    /// What is wrong with the message, if it cannot be read.
    fault: Option<Error>,
}

impl Default for MllpAnswers {
    fn default() -> MllpAnswers {
        MllpAnswers {
            reader: Hl7Reader::of_any_bytes(),
            made: 0,
        }
    }
}

impl MllpAnswers {
    /// The answer to a message, and the code that says why it cannot be taken, if it cannot be read.
    pub fn to(&mut self, message: &[u8], now: Micros) -> (MllpAnswer, Option<&'static str>) {
        let id = self.id(now);
        let fault = match self.reader.read(message) {
            Ok(message) => {
                let answer = Hl7Answer::to(&message, now, id);
                return (
                    MllpAnswer {
                        answer,
                        fault: None,
                    },
                    None,
                );
            }
            Err(fault) => fault,
        };
        // Its header may tell who is to be answered.
        let end = memchr::memchr2(b'\r', b'\n', message).unwrap_or(message.len());
        let answer = match self.reader.read(&message[..end]) {
            Ok(header) => Hl7Answer::to(&header, now, id),
            Err(_) => Hl7Answer::answer_nothing(now, id),
        };
        let fault = Some(fault);
        (MllpAnswer { answer, fault }, Some("gateway.frame-hl7"))
    }

    /// The answer to what is no message.
    pub fn answer_nothing(&mut self, now: Micros) -> MllpAnswer {
        MllpAnswer {
            answer: Hl7Answer::answer_nothing(now, self.id(now)),
            fault: None,
        }
    }

    fn id(&mut self, now: Micros) -> u64 {
        self.made += 1;
        now.unsigned_abs().wrapping_add(self.made)
    }
}

impl MllpAnswer {
    /// Appends the answers that are due, each as a block.
    pub fn write(
        &self,
        refused: Option<(&'static str, Class)>,
        framing: &Framing,
        out: &mut Vec<u8>,
    ) {
        let text;
        let refusal = match refused {
            None => None,
            Some((code, class)) => {
                text = match &self.fault {
                    Some(fault) => fault.to_string(),
                    None => Error::new(class, code).to_string(),
                };
                let text = text.as_str();
                Some(Hl7Refusal { class, code, text })
            }
        };
        let mut block = Vec::new();
        for code in self.answer.codes(refusal.as_ref()) {
            block.clear();
            self.answer.write(code, refusal.as_ref(), &mut block);
            framing.write(&block, out);
        }
    }
}
