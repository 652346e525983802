//! From the sources of a plug-in to bytecode.

use busbar_event::{Class, Error};
use rquickjs::module::WriteOptions;
use rquickjs::{CatchResultExt, Context, Module, Runtime};

use super::bytecode::{BytecodeModule, write};
use super::modules::ScriptModules;
use crate::package::Package;

/// Compiles the modules of a plug-in whose sources can be loaded.
///
/// # Errors
/// What the engine says.
pub(crate) fn compile(plugin: &str, package: &Package) -> Result<Vec<u8>, Error> {
    let failed = |message: String| {
        Error::new(Class::Configuration, "plugin.script")
            .with("plugin", plugin)
            .with("message", message)
    };
    let modules = ScriptModules::of(plugin, package)?;
    let mut compiled = Vec::new();
    for (name, text) in modules.sources() {
        // Each with an engine of its own, where a module is made only once.
        let runtime = Runtime::new().map_err(|error| failed(error.to_string()))?;
        modules.serve(&runtime);
        let context = Context::full(&runtime).map_err(|error| failed(error.to_string()))?;
        let code = context.with(|ctx| {
            let options = WriteOptions {
                strip_source: true,
                ..WriteOptions::default()
            };
            let module = Module::declare(ctx.clone(), name, text);
            let code = module.and_then(|module| module.write(options));
            code.catch(&ctx).map_err(|error| failed(error.to_string()))
        });
        compiled.push(BytecodeModule {
            name: name.to_owned(),
            code: code?,
        });
    }
    Ok(write(&compiled))
}
