//! What a `.proto` file declares: messages, enums and the methods of services. One file, without imports; both syntaxes, without
//! groups and extensions.

use std::collections::BTreeMap;

use super::words::{Word, Words};

/// A file.
#[derive(Debug, Default)]
pub(super) struct ProtoFile {
    pub messages: Vec<ProtoMessage>,
    pub enums: Vec<ProtoEnum>,
    /// By `package.Service/Method`.
    pub methods: BTreeMap<String, ProtoMethod>,
}

#[derive(Debug, Default)]
pub(super) struct ProtoMessage {
    /// With its package and the messages around it.
    pub name: String,
    pub fields: Vec<ProtoField>,
    /// An entry of a map: its fields are the key and the value.
    pub is_entry: bool,
}

#[derive(Debug)]
pub(super) struct ProtoField {
    pub name: String,
    pub number: u32,
    pub kind: FieldKind,
    pub is_repeated: bool,
    /// Whether the message knows that it is not there. Others then have the value 0, empty or false.
    pub has_presence: bool,
    pub is_packed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldKind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    Text,
    Bytes,
    /// By its number among the messages of the file.
    Message(usize),
    /// By its number among the enums of the file.
    Enum(usize),
}

#[derive(Debug, Default)]
pub(super) struct ProtoEnum {
    pub name: String,
    pub values: Vec<(String, i32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProtoMethod {
    /// The message that goes out, and the one that comes back.
    pub input: usize,
    pub output: usize,
    /// One of them is a stream of messages.
    pub streams: bool,
}

/// What is not understood, and the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProtoFault {
    pub line: usize,
    pub word: String,
    pub code: &'static str,
}

impl ProtoFile {
    /// Reads a file.
    ///
    /// # Errors
    /// The first thing that is not understood.
    pub fn parse(text: &str) -> Result<ProtoFile, ProtoFault> {
        let mut parser = ProtoParser {
            words: Words::new(text)?,
            is_proto3: false,
            package: String::new(),
            file: ProtoFile::default(),
            open: Vec::new(),
            methods: Vec::new(),
        };
        parser.file()?;
        parser.resolve()
    }
}

/// A field whose type is not looked up yet.
struct OpenField {
    message: usize,
    field: usize,
    named: Word,
    /// Whether the file says if numbers are packed.
    packed: Option<bool>,
}

struct OpenMethod {
    name: String,
    input: Word,
    output: Word,
    streams: bool,
}

struct ProtoParser {
    words: Words,
    is_proto3: bool,
    package: String,
    file: ProtoFile,
    open: Vec<OpenField>,
    methods: Vec<OpenMethod>,
}

const DEPTH_MAX: usize = 32;

impl ProtoParser {
    fn file(&mut self) -> Result<(), ProtoFault> {
        while let Some(word) = self.words.next() {
            match word.text.as_str() {
                ";" => {}
                "syntax" => {
                    self.words.expect("=")?;
                    let said = self.words.take()?;
                    self.is_proto3 = match said.text.trim_matches(['"', '\'']) {
                        "proto3" => true,
                        "proto2" => false,
                        _ => return Err(said.fault("connect.proto-word")),
                    };
                    self.words.expect(";")?;
                }
                "package" => {
                    self.package = self.words.take()?.text;
                    self.words.expect(";")?;
                }
                "import" => {
                    let what = self.words.take()?;
                    return Err(what.fault("connect.proto-import"));
                }
                "option" => self.skip_statement()?,
                "message" => {
                    let around = self.package.clone();
                    self.message(&around, 0)?;
                }
                "enum" => {
                    let around = self.package.clone();
                    self.enumeration(&around)?;
                }
                "service" => self.service()?,
                _ => return Err(word.fault("connect.proto-word")),
            }
        }
        Ok(())
    }

    fn message(&mut self, around: &str, depth: usize) -> Result<(), ProtoFault> {
        let named = self.words.take()?;
        if depth == DEPTH_MAX {
            return Err(named.fault("connect.proto-word"));
        }
        let name = qualified(around, &named.text);
        let place = self.file.messages.len();
        self.file.messages.push(ProtoMessage {
            name: name.clone(),
            ..ProtoMessage::default()
        });
        self.words.expect("{")?;
        // Within a `oneof` every field has presence.
        let mut in_oneof = false;
        loop {
            let word = self.words.take()?;
            match word.text.as_str() {
                "}" if in_oneof => in_oneof = false,
                "}" => return Ok(()),
                ";" => {}
                "message" if self.words.second_is("{") => self.message(&name, depth + 1)?,
                "enum" if self.words.second_is("{") => self.enumeration(&name)?,
                "option" | "reserved" | "extensions" => {
                    self.skip_statement()?;
                }
                "oneof" if self.words.second_is("{") => {
                    self.words.take()?;
                    self.words.expect("{")?;
                    in_oneof = true;
                }
                "group" | "extend" => return Err(word.fault("connect.proto-word")),
                "map" if self.words.first_is("<") => self.map(place, &name)?,
                "optional" | "required" | "repeated"
                    if !self.words.second_is("=") || self.words.first_is(".") =>
                {
                    let kind = self.words.take()?;
                    let is_repeated = word.text == "repeated";
                    self.field(place, kind, is_repeated, word.text == "optional")?;
                }
                _ => self.field(place, word, false, in_oneof)?,
            }
        }
    }

    fn field(
        &mut self,
        message: usize,
        named: Word,
        is_repeated: bool,
        says_optional: bool,
    ) -> Result<(), ProtoFault> {
        if named.text == "group" {
            return Err(named.fault("connect.proto-word"));
        }
        let name = self.words.take()?;
        self.words.expect("=")?;
        let number = self.words.take()?;
        let number = match number.text.parse::<u32>() {
            Ok(number) if (1..=536_870_911).contains(&number) => number,
            _ => return Err(number.fault("connect.proto-number")),
        };
        let packed = self.options()?;
        self.words.expect(";")?;
        let fields = &mut self.file.messages[message].fields;
        if fields
            .iter()
            .any(|known| known.number == number || known.name == name.text)
        {
            return Err(name.fault("connect.proto-twice"));
        }
        fields.push(ProtoField {
            name: name.text,
            number,
            kind: FieldKind::Bool,
            is_repeated,
            has_presence: !is_repeated && (says_optional || !self.is_proto3),
            is_packed: false,
        });
        self.open.push(OpenField {
            message,
            field: self.file.messages[message].fields.len() - 1,
            named,
            packed,
        });
        Ok(())
    }

    /// `<key, value> name = number;`: entries of a message of their own.
    fn map(&mut self, message: usize, around: &str) -> Result<(), ProtoFault> {
        self.words.expect("<")?;
        let key = self.words.take()?;
        self.words.expect(",")?;
        let value = self.words.take()?;
        self.words.expect(">")?;
        let name = self.words.peek_text().unwrap_or_default();
        let entry = self.file.messages.len();
        let entry_name = qualified(around, &format!("{name}.entry"));
        self.file.messages.push(ProtoMessage {
            name: entry_name.clone(),
            fields: Vec::new(),
            is_entry: true,
        });
        for (number, (name, named)) in [("key", key), ("value", value.clone())]
            .into_iter()
            .enumerate()
        {
            self.file.messages[entry].fields.push(ProtoField {
                name: name.to_owned(),
                number: number as u32 + 1,
                kind: FieldKind::Bool,
                is_repeated: false,
                has_presence: false,
                is_packed: false,
            });
            self.open.push(OpenField {
                message: entry,
                field: number,
                named,
                packed: None,
            });
        }
        let named = Word {
            text: format!(".{entry_name}"),
            line: value.line,
        };
        self.field(message, named, true, false)
    }

    /// `[packed = true, …]`: whether it says that numbers are packed.
    fn options(&mut self) -> Result<Option<bool>, ProtoFault> {
        let mut packed = None;
        if !self.words.first_is("[") {
            return Ok(packed);
        }
        let mut depth = 0;
        loop {
            let word = self.words.take()?;
            match word.text.as_str() {
                "[" | "{" => depth += 1,
                "]" | "}" => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(packed);
                    }
                }
                "packed" if self.words.first_is("=") => {
                    self.words.take()?;
                    packed = Some(self.words.take()?.text == "true");
                }
                _ => {}
            }
        }
    }

    fn enumeration(&mut self, around: &str) -> Result<(), ProtoFault> {
        let name = qualified(around, &self.words.take()?.text);
        self.words.expect("{")?;
        let mut values = Vec::new();
        loop {
            let word = self.words.take()?;
            match word.text.as_str() {
                "}" => break,
                ";" => {}
                "option" | "reserved" if !self.words.first_is("=") => self.skip_statement()?,
                _ => {
                    self.words.expect("=")?;
                    let number = self.words.take()?;
                    let value = number.text.parse::<i32>();
                    let value = value.map_err(|_| number.fault("connect.proto-number"))?;
                    self.options()?;
                    self.words.expect(";")?;
                    values.push((word.text, value));
                }
            }
        }
        self.file.enums.push(ProtoEnum { name, values });
        Ok(())
    }

    fn service(&mut self) -> Result<(), ProtoFault> {
        let service = qualified(&self.package, &self.words.take()?.text);
        self.words.expect("{")?;
        loop {
            let word = self.words.take()?;
            match word.text.as_str() {
                "}" => return Ok(()),
                ";" => {}
                "option" => self.skip_statement()?,
                "rpc" => {
                    let method = self.words.take()?.text;
                    let (input, input_streams) = self.parameter()?;
                    self.words.expect("returns")?;
                    let (output, output_streams) = self.parameter()?;
                    if self.words.first_is("{") {
                        self.skip_statement()?;
                    } else {
                        self.words.expect(";")?;
                    }
                    self.methods.push(OpenMethod {
                        name: format!("{service}/{method}"),
                        input,
                        output,
                        streams: input_streams || output_streams,
                    });
                }
                _ => return Err(word.fault("connect.proto-word")),
            }
        }
    }

    /// `(stream Name)`.
    fn parameter(&mut self) -> Result<(Word, bool), ProtoFault> {
        self.words.expect("(")?;
        let mut named = self.words.take()?;
        let streams = named.text == "stream" && !self.words.first_is(")");
        if streams {
            named = self.words.take()?;
        }
        self.words.expect(")")?;
        Ok((named, streams))
    }

    /// To the semicolon, or behind a block in braces.
    fn skip_statement(&mut self) -> Result<(), ProtoFault> {
        let mut depth = 0;
        loop {
            match self.words.take()?.text.as_str() {
                "{" => depth += 1,
                "}" if depth == 1 => {
                    // A semicolon may stand behind it.
                    return Ok(());
                }
                "}" => depth -= 1,
                ";" if depth == 0 => return Ok(()),
                _ => {}
            }
        }
    }

    fn resolve(mut self) -> Result<ProtoFile, ProtoFault> {
        let messages = self.file.messages.iter().enumerate();
        let messages =
            messages.map(|(place, message)| (message.name.clone(), FieldKind::Message(place)));
        let enums = self.file.enums.iter().enumerate();
        let enums = enums.map(|(place, found)| (found.name.clone(), FieldKind::Enum(place)));
        let known: BTreeMap<String, FieldKind> = messages.chain(enums).collect();
        for open in std::mem::take(&mut self.open) {
            let around = self.file.messages[open.message].name.clone();
            let kind =
                scalar(&open.named.text).or_else(|| look_up(&known, &around, &open.named.text));
            let kind = kind.ok_or_else(|| open.named.fault("connect.proto-type"))?;
            let field = &mut self.file.messages[open.message].fields[open.field];
            field.kind = kind;
            let is_number = !matches!(
                kind,
                FieldKind::Text | FieldKind::Bytes | FieldKind::Message(_)
            );
            field.is_packed =
                field.is_repeated && is_number && open.packed.unwrap_or(self.is_proto3);
            field.has_presence |= matches!(kind, FieldKind::Message(_)) && !field.is_repeated;
        }
        for open in std::mem::take(&mut self.methods) {
            let message = |word: &Word| match look_up(&known, &self.package, &word.text) {
                Some(FieldKind::Message(place)) => Ok(place),
                _ => Err(word.fault("connect.proto-type")),
            };
            let method = ProtoMethod {
                input: message(&open.input)?,
                output: message(&open.output)?,
                streams: open.streams,
            };
            self.file.methods.insert(open.name, method);
        }
        Ok(self.file)
    }
}

fn qualified(around: &str, name: &str) -> String {
    match around.is_empty() {
        true => name.to_owned(),
        false => format!("{around}.{name}"),
    }
}

/// A type by its name, from the innermost scope outwards; a name that begins with a dot is whole.
fn look_up(known: &BTreeMap<String, FieldKind>, around: &str, name: &str) -> Option<FieldKind> {
    if let Some(whole) = name.strip_prefix('.') {
        return known.get(whole).copied();
    }
    let mut scope = around;
    loop {
        if let Some(found) = known.get(&qualified(scope, name)) {
            return Some(*found);
        }
        if scope.is_empty() {
            return None;
        }
        scope = scope.rsplit_once('.').map_or("", |(outer, _)| outer);
    }
}

fn scalar(name: &str) -> Option<FieldKind> {
    Some(match name {
        "double" => FieldKind::Double,
        "float" => FieldKind::Float,
        "int32" => FieldKind::Int32,
        "int64" => FieldKind::Int64,
        "uint32" => FieldKind::Uint32,
        "uint64" => FieldKind::Uint64,
        "sint32" => FieldKind::Sint32,
        "sint64" => FieldKind::Sint64,
        "fixed32" => FieldKind::Fixed32,
        "fixed64" => FieldKind::Fixed64,
        "sfixed32" => FieldKind::Sfixed32,
        "sfixed64" => FieldKind::Sfixed64,
        "bool" => FieldKind::Bool,
        "string" => FieldKind::Text,
        "bytes" => FieldKind::Bytes,
        _ => return None,
    })
}
