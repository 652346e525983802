//! What a script made of events, read from its values.
//!
//! Events whose parts are plain values are written here. All others (objects of a class, a `toJSON`, an error, half a
//! surrogate pair) are written by the script's own `JSON.stringify`, which costs several times as much and says what is
//! wrong.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ops::Range;

use busbar_event::format::write_json_text;
use busbar_event::{Class, Error};
use rquickjs::{Array, Ctx, Function, Object, Value, qjs};

use crate::answers::{MadeDraft, PluginAnswers};
use crate::events::GivenEvents;
use crate::limits::{ANSWER_DEPTH_MAX, ANSWER_EVENTS_MAX, ANSWER_NAMES_MAX, EVENTS_OF_ONE_MAX};
use crate::machine::WorkerDeath;

/// Reads the results of one interpreter.
pub(super) struct AnswerReader {
    topic: qjs::JSAtom,
    key: qjs::JSAtom,
    time: qjs::JSAtom,
    tags: qjs::JSAtom,
    payload: qjs::JSAtom,
    to_json: qjs::JSAtom,
    /// `Object.prototype`, which lives as long as the interpreter.
    plain: *mut c_void,
    /// Names of properties as they are written, each with its colon. The interpreter keeps these names.
    names: HashMap<qjs::JSAtom, Vec<u8>>,
    /// Bytes of the answer to one batch.
    output_max: usize,
}

/// Why a result is not read here.
enum NotPlain {
    /// The script's own `JSON.stringify` is to write it.
    Unusual,
    TooLong,
}

/// What the results of a batch could not be read for.
pub(super) enum NotRead {
    Death(WorkerDeath),
    Script(rquickjs::Error),
}

impl From<rquickjs::Error> for NotRead {
    fn from(error: rquickjs::Error) -> NotRead {
        NotRead::Script(error)
    }
}

impl AnswerReader {
    pub fn new(ctx: &Ctx<'_>, output_max: usize) -> rquickjs::Result<AnswerReader> {
        let object: Object<'_> = ctx.globals().get("Object")?;
        let plain: Object<'_> = object.get("prototype")?;
        // SAFETY: the context is alive, and texts are given with their lengths.
        let atom = |name: &str| unsafe {
            qjs::JS_NewAtomLen(ctx.as_raw().as_ptr(), name.as_ptr().cast(), name.len() as _)
        };
        Ok(AnswerReader {
            topic: atom("topic"),
            key: atom("key"),
            time: atom("time"),
            tags: atom("tags"),
            payload: atom("payload"),
            to_json: atom("toJSON"),
            // SAFETY: it is an object.
            plain: unsafe { qjs::JS_VALUE_GET_PTR(plain.as_raw()) },
            names: HashMap::new(),
            output_max,
        })
    }

    /// Reads the results of `count` events from the event `first` on. `text` is the script's `JSON.stringify`.
    ///
    /// # Errors
    /// An answer that is none or too long, or what the script throws while it is read. Nothing has been added then.
    pub fn read<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        results: &Array<'js>,
        text: &Function<'js>,
        events: &GivenEvents,
        (first, count): (usize, usize),
        answers: &mut PluginAnswers,
    ) -> Result<(), NotRead> {
        let before = answers.mark();
        let read = self.read_all(ctx, results, text, events, (first, count), answers);
        if read.is_err() {
            answers.reset(before);
        }
        read
    }

    fn read_all<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        results: &Array<'js>,
        text: &Function<'js>,
        events: &GivenEvents,
        (first, count): (usize, usize),
        answers: &mut PluginAnswers,
    ) -> Result<(), NotRead> {
        let bytes_max = answers.buffer().len().saturating_add(self.output_max);
        let rows_max = answers.len() + ANSWER_EVENTS_MAX;
        for at in 0..count {
            let result: Value<'js> = results.get(at)?;
            let event = first + at;
            let before = answers.mark();
            let mut writer = ResultWriter {
                reader: self,
                ctx: ctx.as_raw().as_ptr(),
                answers,
                event,
                topic: events.parts_of(event).topic,
                bytes_max,
            };
            // SAFETY: the value is alive until its end below, and belongs to this context.
            match unsafe { writer.result(result.as_raw(), false) } {
                Ok(()) => {}
                Err(NotPlain::TooLong) => return Err(self.too_long()),
                Err(NotPlain::Unusual) => {
                    answers.reset(before);
                    // What a getter has thrown is thrown again.
                    drop(ctx.catch());
                    let entry: String = text.call((result,))?;
                    let read = answers.read_one(&entry, event);
                    read.map_err(|error| NotRead::Death(WorkerDeath::Rubbish(error)))?;
                    if answers.buffer().len() > bytes_max {
                        return Err(self.too_long());
                    }
                }
            }
            if answers.len() > rows_max {
                let error = Error::new(Class::Permanent, "plugin.rubbish-answer");
                let many = format!("more than {ANSWER_EVENTS_MAX} events");
                let death = WorkerDeath::Rubbish(error.with("cause", many));
                return Err(NotRead::Death(death));
            }
        }
        Ok(())
    }

    fn too_long(&self) -> NotRead {
        let error = Error::new(Class::Permanent, "plugin.output-too-long");
        NotRead::Death(WorkerDeath::Rubbish(
            error.with("bytes_max", self.output_max),
        ))
    }
}

/// Writes the result of one event. All methods need values that are alive and belong to the context.
struct ResultWriter<'a> {
    reader: &'a mut AnswerReader,
    ctx: *mut qjs::JSContext,
    answers: &'a mut PluginAnswers,
    event: usize,
    /// The event's own topic.
    topic: &'a str,
    /// How long the buffer may become.
    bytes_max: usize,
}

/// A value that is given back when it is dropped.
struct OwnedScriptValue(*mut qjs::JSContext, qjs::JSValue);

impl Drop for OwnedScriptValue {
    fn drop(&mut self) {
        // SAFETY: it was given to whoever made this, and the context outlives it.
        unsafe { qjs::JS_FreeValue(self.0, self.1) }
    }
}

/// Names of properties that are given back when they are dropped.
struct OwnedScriptNames(*mut qjs::JSContext, *mut qjs::JSPropertyEnum, u32);

impl OwnedScriptNames {
    fn at(&self, place: u32) -> qjs::JSAtom {
        // SAFETY: the table has so many entries; callers stay below.
        unsafe { (*self.1.add(place as usize)).atom }
    }
}

impl Drop for OwnedScriptNames {
    fn drop(&mut self) {
        // SAFETY: the table came from this context.
        unsafe { qjs::JS_FreePropertyEnum(self.0, self.1, self.2) }
    }
}

impl ResultWriter<'_> {
    unsafe fn result(&mut self, value: qjs::JSValue, inner: bool) -> Result<(), NotPlain> {
        // SAFETY: the values are alive and belong to this context, as the callers see to.
        unsafe {
            match qjs::JS_VALUE_GET_NORM_TAG(value) {
                qjs::JS_TAG_NULL | qjs::JS_TAG_UNDEFINED => Ok(()),
                qjs::JS_TAG_BOOL => {
                    if qjs::JS_VALUE_GET_BOOL(value) {
                        self.answers.push_unchanged(self.event);
                    }
                    Ok(())
                }
                qjs::JS_TAG_OBJECT if qjs::JS_IsArray(value) => {
                    let length = self.length(value)?;
                    if inner || length > EVENTS_OF_ONE_MAX as i64 {
                        return Err(NotPlain::Unusual);
                    }
                    for at in 0..length {
                        let made = OwnedScriptValue(
                            self.ctx,
                            qjs::JS_GetPropertyInt64(self.ctx, value, at),
                        );
                        self.result(made.1, true)?;
                    }
                    Ok(())
                }
                qjs::JS_TAG_OBJECT => self.made(value),
                _ => Err(NotPlain::Unusual),
            }
        }
    }

    /// An event that was made.
    unsafe fn made(&mut self, value: qjs::JSValue) -> Result<(), NotPlain> {
        let mut draft = self.answers.begin_made(self.event);
        // SAFETY: the values are alive and belong to this context, as the callers see to.
        let names = unsafe { self.names(value)? };
        for place in 0..names.2 {
            let name = names.at(place);
            // SAFETY: the object and the name are alive.
            let part = OwnedScriptValue(self.ctx, unsafe {
                qjs::JS_GetProperty(self.ctx, value, name)
            });
            // SAFETY: the values are alive and belong to this context, as the callers see to.
            let tag = unsafe { qjs::JS_VALUE_GET_NORM_TAG(part.1) };
            if name == self.reader.time || tag == qjs::JS_TAG_UNDEFINED {
                continue;
            }
            // SAFETY: the values are alive and belong to this context, as the callers see to.
            unsafe {
                if name == self.reader.topic {
                    self.topic(part.1, &mut draft)?;
                } else if name == self.reader.key {
                    let key = match tag {
                        qjs::JS_TAG_NULL => None,
                        _ => Some(self.text(part.1)?),
                    };
                    draft.key(key);
                } else if name == self.reader.tags {
                    self.tags(part.1)?;
                    draft.tags(self.answers);
                } else if name == self.reader.payload {
                    let start = self.answers.buffer().len();
                    self.value(part.1, 0)?;
                    draft.payload(start..self.answers.buffer().len());
                } else {
                    return Err(NotPlain::Unusual);
                }
            }
        }
        self.bounded()?;
        self.answers.end_made(draft);
        Ok(())
    }

    unsafe fn topic(&mut self, value: qjs::JSValue, draft: &mut MadeDraft) -> Result<(), NotPlain> {
        // SAFETY: the values are alive and belong to this context, as the callers see to.
        let range = unsafe { self.text(value)? };
        let start = range.start;
        if self.answers.buffer()[range.clone()] == *self.topic.as_bytes() {
            self.answers.buffer().truncate(start);
        } else {
            draft.topic(range);
        }
        Ok(())
    }

    /// Writes a text as it is.
    unsafe fn text(&mut self, value: qjs::JSValue) -> Result<Range<usize>, NotPlain> {
        let start = self.answers.buffer().len();
        let buffer = self.answers.buffer();
        // SAFETY: the values are alive and belong to this context, as the callers see to.
        unsafe {
            with_text(self.ctx, value, |text| {
                buffer.extend_from_slice(text.as_bytes())
            })?
        }
        self.bounded()?;
        Ok(start..self.answers.buffer().len())
    }

    unsafe fn tags(&mut self, value: qjs::JSValue) -> Result<(), NotPlain> {
        // SAFETY: the values are alive and belong to this context, as the callers see to.
        unsafe {
            if qjs::JS_VALUE_GET_NORM_TAG(value) != qjs::JS_TAG_OBJECT || qjs::JS_IsArray(value) {
                return Err(NotPlain::Unusual);
            }
            let names = self.names(value)?;
            for place in 0..names.2 {
                let name = names.at(place);
                let tag = OwnedScriptValue(self.ctx, qjs::JS_GetProperty(self.ctx, value, name));
                let kind = qjs::JS_VALUE_GET_NORM_TAG(tag.1);
                if matches!(kind, qjs::JS_TAG_UNDEFINED | qjs::JS_TAG_NULL) {
                    continue;
                }
                let text = OwnedScriptValue(self.ctx, qjs::JS_AtomToString(self.ctx, name));
                let name = self.text(text.1)?;
                let value = match kind {
                    qjs::JS_TAG_STRING | qjs::JS_TAG_STRING_ROPE => self.text(tag.1)?,
                    _ => {
                        let start = self.answers.buffer().len();
                        self.value(tag.1, 0)?;
                        start..self.answers.buffer().len()
                    }
                };
                self.answers.add_tag(name, value);
            }
        }
        Ok(())
    }

    /// Writes a value as JSON.
    unsafe fn value(&mut self, value: qjs::JSValue, depth: usize) -> Result<(), NotPlain> {
        self.bounded()?;
        // SAFETY: the values are alive and belong to this context, as the callers see to.
        unsafe {
            match qjs::JS_VALUE_GET_NORM_TAG(value) {
                qjs::JS_TAG_NULL => self.raw(b"null"),
                qjs::JS_TAG_BOOL if qjs::JS_VALUE_GET_BOOL(value) => self.raw(b"true"),
                qjs::JS_TAG_BOOL => self.raw(b"false"),
                qjs::JS_TAG_INT => self.number(qjs::JS_VALUE_GET_INT(value)),
                qjs::JS_TAG_FLOAT64 => {
                    let number = qjs::JS_VALUE_GET_FLOAT64(value);
                    if !number.is_finite() {
                        self.raw(b"null");
                    } else if number.trunc() == number && number.abs() <= WHOLE_MAX {
                        self.number(number as i64);
                    } else {
                        self.number(number);
                    }
                }
                qjs::JS_TAG_STRING | qjs::JS_TAG_STRING_ROPE => {
                    let buffer = self.answers.buffer();
                    with_text(self.ctx, value, |text| write_json_text(text, buffer))?;
                }
                qjs::JS_TAG_OBJECT if depth >= ANSWER_DEPTH_MAX => return Err(NotPlain::Unusual),
                qjs::JS_TAG_OBJECT if qjs::JS_IsArray(value) => return self.list(value, depth),
                qjs::JS_TAG_OBJECT => return self.object(value, depth),
                _ => return Err(NotPlain::Unusual),
            }
        }
        Ok(())
    }

    unsafe fn list(&mut self, value: qjs::JSValue, depth: usize) -> Result<(), NotPlain> {
        // SAFETY: the values are alive and belong to this context, as the callers see to.
        unsafe {
            self.raw(b"[");
            for at in 0..self.length(value)? {
                if at > 0 {
                    self.raw(b",");
                }
                let item =
                    OwnedScriptValue(self.ctx, qjs::JS_GetPropertyInt64(self.ctx, value, at));
                match qjs::JS_VALUE_GET_NORM_TAG(item.1) {
                    qjs::JS_TAG_UNDEFINED => self.raw(b"null"),
                    _ => self.value(item.1, depth + 1)?,
                }
            }
            self.raw(b"]");
        }
        Ok(())
    }

    unsafe fn object(&mut self, value: qjs::JSValue, depth: usize) -> Result<(), NotPlain> {
        // SAFETY: the values are alive and belong to this context, as the callers see to.
        unsafe {
            let names = self.names(value)?;
            let mut between: &[u8] = b"{";
            for place in 0..names.2 {
                let name = names.at(place);
                let member = OwnedScriptValue(self.ctx, qjs::JS_GetProperty(self.ctx, value, name));
                if qjs::JS_VALUE_GET_NORM_TAG(member.1) == qjs::JS_TAG_UNDEFINED {
                    continue;
                }
                self.raw(between);
                between = b",";
                self.name(name)?;
                self.value(member.1, depth + 1)?;
            }
            if between == b"{" {
                self.raw(between);
            }
            self.raw(b"}");
        }
        Ok(())
    }

    /// The names of an object's own properties, if it is a plain object.
    unsafe fn names(&mut self, value: qjs::JSValue) -> Result<OwnedScriptNames, NotPlain> {
        // SAFETY: the values are alive and belong to this context, as the callers see to.
        unsafe {
            let prototype = OwnedScriptValue(self.ctx, qjs::JS_GetPrototype(self.ctx, value));
            let is_object = qjs::JS_VALUE_GET_NORM_TAG(prototype.1) == qjs::JS_TAG_OBJECT;
            if !is_object || qjs::JS_VALUE_GET_PTR(prototype.1) != self.reader.plain {
                return Err(NotPlain::Unusual);
            }
            let (mut table, mut count) = (std::ptr::null_mut(), 0);
            let which = (qjs::JS_GPN_STRING_MASK | qjs::JS_GPN_ENUM_ONLY) as i32;
            let got = qjs::JS_GetOwnPropertyNames(self.ctx, &mut table, &mut count, value, which);
            if got < 0 {
                return Err(NotPlain::Unusual);
            }
            let names = OwnedScriptNames(self.ctx, table, count);
            match (0..count).any(|place| names.at(place) == self.reader.to_json) {
                true => Err(NotPlain::Unusual),
                false => Ok(names),
            }
        }
    }

    unsafe fn length(&mut self, value: qjs::JSValue) -> Result<i64, NotPlain> {
        let mut length = 0;
        // SAFETY: the value is an array, and alive.
        match unsafe { qjs::JS_GetLength(self.ctx, value, &mut length) } {
            0 => Ok(length),
            _ => Err(NotPlain::Unusual),
        }
    }

    /// Writes a property's name and a colon.
    unsafe fn name(&mut self, name: qjs::JSAtom) -> Result<(), NotPlain> {
        if let Some(known) = self.reader.names.get(&name) {
            self.answers.buffer().extend_from_slice(known);
            return Ok(());
        }
        let mut written = Vec::new();
        // SAFETY: the values are alive and belong to this context, as the callers see to.
        unsafe {
            let text = OwnedScriptValue(self.ctx, qjs::JS_AtomToString(self.ctx, name));
            with_text(self.ctx, text.1, |text| write_json_text(text, &mut written))?;
            written.push(b':');
            self.raw(&written);
            if self.reader.names.len() < ANSWER_NAMES_MAX {
                // Its number stays that of this name as long as somebody holds it.
                qjs::JS_DupAtom(self.ctx, name);
                self.reader.names.insert(name, written);
            }
        }
        Ok(())
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.answers.buffer().extend_from_slice(bytes);
    }

    fn number(&mut self, number: impl serde::Serialize) {
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(self.answers.buffer(), &number);
    }

    fn bounded(&mut self) -> Result<(), NotPlain> {
        match self.answers.buffer().len() > self.bytes_max {
            true => Err(NotPlain::TooLong),
            false => Ok(()),
        }
    }
}

/// Whole numbers up to it are written without a fraction: each of them is exact.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Does something with a text of the script.
unsafe fn with_text(
    ctx: *mut qjs::JSContext,
    value: qjs::JSValue,
    then: impl FnOnce(&str),
) -> Result<(), NotPlain> {
    // SAFETY: the values are alive and belong to this context, as the callers see to.
    unsafe {
        let tag = qjs::JS_VALUE_GET_NORM_TAG(value);
        if !matches!(tag, qjs::JS_TAG_STRING | qjs::JS_TAG_STRING_ROPE) {
            return Err(NotPlain::Unusual);
        }
        let mut bytes = 0;
        let start = qjs::JS_ToCStringLen2(ctx, &mut bytes, value, false);
        if start.is_null() {
            return Err(NotPlain::Unusual);
        }
        let text = std::slice::from_raw_parts(start.cast::<u8>(), bytes as usize);
        let whole = std::str::from_utf8(text).map(then);
        qjs::JS_FreeCString(ctx, start);
        whole.map_err(|_| NotPlain::Unusual)
    }
}
