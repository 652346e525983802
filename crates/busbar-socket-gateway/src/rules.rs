//! The topic of a frame, and whether the frame has the form that its gateway's file says.

use std::borrow::Cow;

use busbar_catalog::{FrameFormat, GatewaySpec, Template, TemplatePart};
use busbar_event::format::Hl7Path;
use busbar_event::topic::{self, TopicSpelling};
use busbar_event::{Class, Error};

use crate::fields::{csv_cells, hl7_values, json_members};

/// Variables of one topic.
pub const VARIABLES_MAX: usize = 16;

/// What a gateway's file says of frames.
#[derive(Clone, Debug)]
pub struct FrameRules {
    form: Form,
    topic: TopicRule,
}

/// The topic and the payload of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuledFrame<'a> {
    /// Topic, checked.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a [u8],
}

#[derive(Clone, Debug)]
enum Form {
    Raw,
    Json {
        names: Vec<Box<str>>,
    },
    Csv {
        delimiter: u8,
        columns: usize,
        places: Vec<usize>,
    },
    Hl7 {
        paths: Vec<Hl7Path>,
    },
}

#[derive(Clone, Debug)]
enum TopicRule {
    Fixed(Box<str>),
    Binary,
    Template(Vec<TopicPiece>),
    /// The first value that the topic names, which is a topic as clients write it.
    Whole(TopicSpelling),
}

#[derive(Clone, Debug)]
enum TopicPiece {
    Text(Box<str>),
    Peer,
    User,
    /// A value of the frame, by its place among those that the topic names.
    Value(usize),
}

impl FrameRules {
    /// From a gateway's file, which was checked.
    ///
    /// # Errors
    /// *Configuration*: the topic is none, or names too many values.
    pub fn new(spec: &GatewaySpec) -> Result<FrameRules, Error> {
        let mut names: Vec<Box<str>> = Vec::new();
        let topic = match &spec.topic {
            None => TopicRule::Binary,
            Some(text) => {
                let template = Template::parse(text).map_err(|(_, error)| error)?;
                match template.literal() {
                    Some(fixed) => {
                        topic::check(fixed)?;
                        TopicRule::Fixed(fixed.into())
                    }
                    None => {
                        let pieces = pieces(&template, &mut names);
                        match &spec.topic_separators {
                            Some(text) => TopicRule::Whole(TopicSpelling::new(text, "")?),
                            None => TopicRule::Template(pieces),
                        }
                    }
                }
            }
        };
        if names.len() > VARIABLES_MAX {
            return Err(Error::new(Class::Configuration, "catalog.count")
                .with("key", "topic")
                .with("found", names.len())
                .with("least", 0)
                .with("most", VARIABLES_MAX));
        }
        let form = match spec.form() {
            FrameFormat::Raw => Form::Raw,
            FrameFormat::Json => Form::Json { names },
            FrameFormat::Hl7 => Form::Hl7 {
                paths: names
                    .iter()
                    .filter_map(|name| Hl7Path::parse(name))
                    .collect(),
            },
            FrameFormat::Csv(csv) => Form::Csv {
                delimiter: csv.delimiter as u8,
                columns: csv.columns.len(),
                places: names
                    .iter()
                    .filter_map(|name| csv.columns.iter().position(|column| **column == **name))
                    .collect(),
            },
        };
        Ok(FrameRules { form, topic })
    }

    /// The topic of every frame, where it is fixed.
    pub fn fixed_topic(&self) -> Option<&str> {
        match &self.topic {
            TopicRule::Fixed(topic) => Some(topic),
            _ => None,
        }
    }

    /// The topic and payload of a frame from `user` at address `peer`. `buffer` is kept for its memory.
    ///
    /// # Errors
    /// The code that says why the frame is refused.
    pub fn apply<'a>(
        &'a self,
        frame: &'a [u8],
        peer: &str,
        user: &str,
        buffer: &'a mut String,
    ) -> Result<RuledFrame<'a>, &'static str> {
        if let (Form::Raw, TopicRule::Fixed(topic)) = (&self.form, &self.topic) {
            return Ok(RuledFrame {
                topic,
                payload: frame,
            });
        }
        let mut payload = frame;
        if matches!(self.topic, TopicRule::Binary) {
            let (topic, rest) = binary_topic(frame).ok_or("gateway.frame-topic")?;
            *buffer = topic;
            payload = rest;
        }
        let mut found: [Option<Cow<'_, str>>; VARIABLES_MAX] = Default::default();
        match &self.form {
            Form::Raw => {}
            Form::Json { names } => json_members(payload, names, &mut found[..names.len()])
                .map_err(|()| "gateway.frame-json")?,
            Form::Hl7 { paths } => hl7_values(payload, paths, &mut found[..paths.len()])
                .map_err(|()| "gateway.frame-hl7")?,
            Form::Csv {
                delimiter,
                columns,
                places,
            } => {
                let found = &mut found[..places.len()];
                csv_cells(payload, *delimiter, *columns, places, found)
                    .map_err(|()| "gateway.frame-csv")?;
            }
        }
        let topic = match &self.topic {
            TopicRule::Fixed(topic) => topic,
            TopicRule::Binary => buffer.as_str(),
            TopicRule::Whole(spelling) => {
                let value = found[0].as_deref().unwrap_or_default();
                let topic = spelling.inward(value, peer, user);
                buffer.clear();
                buffer.push_str(&topic.map_err(|_| "gateway.frame-topic")?);
                buffer.as_str()
            }
            TopicRule::Template(pieces) => {
                buffer.clear();
                for piece in pieces {
                    match piece {
                        TopicPiece::Text(text) => buffer.push_str(text),
                        TopicPiece::Peer => buffer.push_str(peer),
                        TopicPiece::User => push_value(user, buffer)?,
                        TopicPiece::Value(at) => {
                            push_value(found[*at].as_deref().unwrap_or_default(), buffer)?;
                        }
                    }
                }
                topic::check(buffer).map_err(|_| "gateway.frame-topic")?;
                buffer.as_str()
            }
        };
        Ok(RuledFrame { topic, payload })
    }
}

/// A value within one level of a topic.
fn push_value(value: &str, topic: &mut String) -> Result<(), &'static str> {
    if value.is_empty() || value.contains(['/', '+', '#', '\0']) {
        return Err("gateway.frame-topic");
    }
    topic.push_str(value);
    Ok(())
}

/// The topic before a payload: its length in binary form, as a number of seven bits a byte (the lowest first, the
/// high bit meaning that more follow), then the binary form.
fn binary_topic(frame: &[u8]) -> Option<(String, &[u8])> {
    let (mut length, mut at) = (0usize, 0);
    loop {
        let byte = *frame.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at == 3 {
            return None;
        }
    }
    let (topic, payload) = frame[at..].split_at_checked(length)?;
    Some((topic::from_binary(topic).ok()?, payload))
}

fn pieces(template: &Template, names: &mut Vec<Box<str>>) -> Vec<TopicPiece> {
    let piece = |part: &TemplatePart| match part {
        TemplatePart::Literal(text) => TopicPiece::Text(text.as_str().into()),
        TemplatePart::Variable { variable, .. } => match &*variable.name() {
            "peer" => TopicPiece::Peer,
            "user" => TopicPiece::User,
            name => {
                let known = names.iter().position(|known| **known == *name);
                TopicPiece::Value(known.unwrap_or_else(|| {
                    names.push(name.into());
                    names.len() - 1
                }))
            }
        },
    };
    template.parts().iter().map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> FrameRules {
        let bundle = [(
            "gateways/g.yaml".to_owned(),
            format!("protocol: tcp\nlisten: 127.0.0.1:0\n{text}\n"),
        )];
        let bundle = busbar_catalog::Bundle {
            files: bundle.into(),
        };
        let (project, bad) = busbar_catalog::Project::parse(bundle);
        assert!(bad.is_empty(), "{bad:?}");
        FrameRules::new(&project.gateways["g"].spec).unwrap()
    }

    fn apply(rules: &FrameRules, frame: &[u8]) -> Result<(String, Vec<u8>), &'static str> {
        let mut buffer = String::new();
        let ruled = rules.apply(frame, "10.0.0.7", "ann", &mut buffer)?;
        Ok((ruled.topic.to_owned(), ruled.payload.to_vec()))
    }

    #[test]
    fn topics_come_from_the_frame_and_the_connection() {
        let ok = |topic: &str, payload: &[u8]| Ok((topic.to_owned(), payload.to_vec()));
        let raw = rules("topic: a/${peer}/${user}");
        assert_eq!(apply(&raw, b"\xff"), ok("a/10.0.0.7/ann", b"\xff"));
        let json = rules("topic: gauge/${id}/${id}\nformat: json");
        assert_eq!(
            apply(&json, br#"{"id":7}"#),
            ok("gauge/7/7", br#"{"id":7}"#)
        );
        for (frame, code) in [
            (&b"{}"[..], "gateway.frame-json"),
            (b"x", "gateway.frame-json"),
            (br#"{"id":""}"#, "gateway.frame-topic"),
            (br#"{"id":"a/b"}"#, "gateway.frame-topic"),
            (br##"{"id":"#"}"##, "gateway.frame-topic"),
        ] {
            assert_eq!(apply(&json, frame), Err(code));
        }
        let csv = rules("topic: gauge/${id}/rain\nformat: { csv: { columns: [mm, id] } }");
        assert_eq!(apply(&csv, b"1.5,g1"), ok("gauge/g1/rain", b"1.5,g1"));
        assert_eq!(apply(&csv, b"1.5"), Err("gateway.frame-csv"));
        let hl7 = rules("topic: hl7/${MSH.9.2}/${PID.3}\nformat: hl7");
        let message = b"MSH|^~\\&|||||||ADT^A01\rPID|||7^^^H\xff";
        assert_eq!(apply(&hl7, message), ok("hl7/A01/7", message));
        assert_eq!(apply(&hl7, b"PID|||7"), Err("gateway.frame-hl7"));
        assert_eq!(
            apply(&hl7, b"MSH|^~\\&|||||||ADT^A01"),
            Err("gateway.frame-hl7")
        );
        let whole = rules("topic: ${to}\ntopic_separators: _#\nformat: json");
        for (value, topic) in [
            ("gauge_g1_rain", "gauge/g1/rain"),
            ("gauge#g1#rain", "gauge/g1/rain"),
            ("gauge/g_1/rain", "gauge/g_1/rain"),
            ("gauge*g1", "gauge*g1"),
        ] {
            let frame = format!(r#"{{"to":"{value}"}}"#);
            assert_eq!(apply(&whole, frame.as_bytes()), ok(topic, frame.as_bytes()));
        }
        for value in ["", "a/+/b", "a_+", "a_b#c"] {
            let frame = format!(r#"{{"to":"{value}"}}"#);
            assert_eq!(apply(&whole, frame.as_bytes()), Err("gateway.frame-topic"));
        }
        let fixed = rules("topic: a\nformat: json");
        assert_eq!(apply(&fixed, b"[1]"), ok("a", b"[1]"));
        assert_eq!(apply(&fixed, b"[1"), Err("gateway.frame-json"));
    }

    #[test]
    fn a_binary_topic_stands_before_the_payload() {
        let binary = rules("binary_topic: true");
        let topic = topic::to_binary("gauge/g1/rain");
        let mut frame = vec![topic.len() as u8];
        frame.extend(&topic);
        frame.extend(b"12");
        assert_eq!(
            apply(&binary, &frame),
            Ok(("gauge/g1/rain".to_owned(), b"12".to_vec()))
        );
        for len in 0..frame.len() - 2 {
            assert_eq!(
                apply(&binary, &frame[..len]),
                Err("gateway.frame-topic"),
                "{len}"
            );
        }
        assert_eq!(apply(&binary, &[0xff; 9]), Err("gateway.frame-topic"));
        assert_eq!(apply(&binary, &[0, 1]), Err("gateway.frame-topic"));
    }
}
