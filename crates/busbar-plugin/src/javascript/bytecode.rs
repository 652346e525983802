//! JavaScript in compiled form: the engine's bytecode of all modules of a plug-in, in one file.
//!
//! | bytes | what |
//! | --- | --- |
//! | 16 | `busbar-bytecode` and a line feed |
//! | up to 64 | the engine that reads it, such as `quickjs 0.16.2, 64 bit, little-endian`, and a line feed |
//! | 32 | SHA-256 of all that follows |
//! | 4 | number of modules; the first one is run |
//! | 4 + n | of each module its name: length and UTF-8 |
//! | 4 + n | of each module its bytecode: length and bytes |
//!
//! Numbers are little-endian. The checksum finds damage. It does not prove who has made the file, and the engine trusts
//! what it reads: bytecode can do whatever the process can.

use busbar_event::{Class, Error};
use rquickjs::module::Declared;
use rquickjs::{Ctx, Module, qjs};
use sha2::{Digest, Sha256};

const MAGIC: &[u8] = b"busbar-bytecode\n";
const ENGINE_BYTES_MAX: usize = 64;
const SUM_BYTES: usize = 32;

/// How the name of a file with bytecode ends.
pub(crate) const ENDING: &str = ".qjs";

/// A module in compiled form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BytecodeModule {
    pub name: String,
    pub code: Vec<u8>,
}

/// The modules of a file with bytecode; the first one is run.
///
/// # Errors
/// `plugin.bytecode-engine` when another engine has to read it; `plugin.bytecode-damaged` when it is not as it was written.
pub(crate) fn read(plugin: &str, file: &str, bytes: &[u8]) -> Result<Vec<BytecodeModule>, Error> {
    let damaged = || {
        Error::new(Class::Configuration, "plugin.bytecode-damaged")
            .with("plugin", plugin)
            .with("file", file)
    };
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let end = rest.iter().take(ENGINE_BYTES_MAX).position(|b| *b == b'\n');
    let (made_for, rest) = rest.split_at(end.ok_or_else(damaged)?);
    let made_for = String::from_utf8_lossy(made_for);
    if made_for != engine() {
        return Err(Error::new(Class::Configuration, "plugin.bytecode-engine")
            .with("plugin", plugin)
            .with("file", file)
            .with("made_for", busbar_event::quote(&made_for))
            .with("engine", engine()));
    }
    let (sum, body) = rest[1..].split_at_checked(SUM_BYTES).ok_or_else(damaged)?;
    if Sha256::digest(body).as_slice() != sum {
        return Err(damaged());
    }
    modules(body).ok_or_else(damaged)
}

fn modules(mut body: &[u8]) -> Option<Vec<BytecodeModule>> {
    let count = number(&mut body)?;
    let mut modules = Vec::new();
    for _ in 0..count {
        let name = String::from_utf8(counted(&mut body)?.to_vec()).ok()?;
        let code = counted(&mut body)?.to_vec();
        modules.push(BytecodeModule { name, code });
    }
    (body.is_empty() && !modules.is_empty()).then_some(modules)
}

fn number(body: &mut &[u8]) -> Option<usize> {
    let (number, rest) = body.split_first_chunk::<4>()?;
    *body = rest;
    usize::try_from(u32::from_le_bytes(*number)).ok()
}

fn counted<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = number(body)?;
    let (bytes, rest) = body.split_at_checked(count)?;
    *body = rest;
    Some(bytes)
}

/// Modules as a file, for [`read`].
pub(super) fn write(modules: &[BytecodeModule]) -> Vec<u8> {
    let mut body = Vec::new();
    let number = |body: &mut Vec<u8>, number: usize| {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        body.extend_from_slice(&number.to_le_bytes());
    };
    number(&mut body, modules.len());
    for module in modules {
        for bytes in [module.name.as_bytes(), &module.code] {
            number(&mut body, bytes.len());
            body.extend_from_slice(bytes);
        }
    }
    let sum = Sha256::digest(&body);
    [MAGIC, engine().as_bytes(), b"\n", sum.as_slice(), &body].concat()
}

/// Reads a module that [`read`] has checked.
pub(super) fn load<'js>(
    ctx: &Ctx<'js>,
    module: &BytecodeModule,
) -> rquickjs::Result<Module<'js, Declared>> {
    // SAFETY: this version of the engine has written it, as header and checksum say. Who deploys a plug-in may run
    // programs on the machine anyway.
    unsafe { Module::load(ctx.clone(), &module.code) }
}

/// The engine, and what else bytecode depends on.
fn engine() -> String {
    // SAFETY: a static text that ends with a zero.
    let version = unsafe { std::ffi::CStr::from_ptr(qjs::JS_GetVersion()) };
    let order = if cfg!(target_endian = "big") {
        "big"
    } else {
        "little"
    };
    let bits = usize::BITS;
    format!(
        "quickjs {}, {bits} bit, {order}-endian",
        version.to_string_lossy()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (Vec<BytecodeModule>, Vec<u8>) {
        let module = |name: &str, code: &[u8]| BytecodeModule {
            name: name.to_owned(),
            code: code.to_vec(),
        };
        let modules = vec![module("a.js", &[1, 2, 3]), module("main.js", &[])];
        let bytes = write(&modules);
        (modules, bytes)
    }

    #[test]
    fn what_is_written_is_read() {
        let (modules, bytes) = file();
        assert_eq!(read("rain", "main.qjs", &bytes).unwrap(), modules);
        assert!(engine().len() < ENGINE_BYTES_MAX, "{}", engine());
    }

    #[test]
    fn a_file_that_is_cut_or_changed_anywhere_is_refused() {
        let (_, bytes) = file();
        for at in 0..bytes.len() {
            let cut = read("rain", "main.qjs", &bytes[..at]).unwrap_err();
            assert_eq!(cut.code(), "plugin.bytecode-damaged", "cut at {at}");
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let error = read("rain", "main.qjs", &changed).unwrap_err();
            assert!(error.code().starts_with("plugin.bytecode-"), "{error}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(read("rain", "main.qjs", &longer).is_err());
    }

    #[test]
    fn bytecode_of_another_engine_is_refused_with_both_names() {
        let (_, bytes) = file();
        let engine = engine();
        let text = engine.as_bytes();
        let at = bytes
            .windows(text.len())
            .position(|part| part == text)
            .unwrap();
        let other = engine.replace("quickjs 0", "quickjs 9");
        let mut changed = bytes.clone();
        changed[at..at + text.len()].copy_from_slice(other.as_bytes());
        let error = read("rain", "main.qjs", &changed).unwrap_err();
        assert_eq!(error.code(), "plugin.bytecode-engine");
        let message = error.to_string();
        assert!(
            message.contains(&engine) && message.contains(&other),
            "{message}"
        );
    }
}
