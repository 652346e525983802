//! The modules of a plug-in: its files, by their paths within its folder.

use busbar_event::Error;
use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::{Declared, Evaluated};
use rquickjs::{Ctx, Module, Promise, Runtime};

use super::bytecode::{self, BytecodeModule, ENDING};
use crate::package::Package;

/// The modules of a plug-in. A module is read when another one imports it.
#[derive(Clone, Debug)]
pub(super) struct ScriptModules {
    main: String,
    /// Name and text.
    sources: Vec<(String, String)>,
    compiled: Vec<BytecodeModule>,
}

impl ScriptModules {
    /// # Errors
    /// `plugin.bytecode-engine`, `plugin.bytecode-damaged` for a file with bytecode.
    pub fn of(plugin: &str, package: &Package) -> Result<ScriptModules, Error> {
        let file = package.spec.main();
        let (mut main, mut compiled) = (file.to_owned(), Vec::new());
        if let Some(text) = package.files.get(file).filter(|_| file.ends_with(ENDING)) {
            compiled = bytecode::read(plugin, file, &Package::contents_of(text)?)?;
            main = compiled
                .first()
                .map(|first| first.name.clone())
                .unwrap_or(main);
        }
        let is_source = |name: &str| [".js", ".mjs"].iter().any(|end| name.ends_with(end));
        let sources = package.files.iter();
        let sources = sources.filter(|(name, _)| **name == main || is_source(name));
        Ok(ScriptModules {
            sources: sources.map(|(n, text)| (n.clone(), text.clone())).collect(),
            main,
            compiled,
        })
    }

    /// Has what modules import be found.
    pub fn serve(&self, runtime: &Runtime) {
        runtime.set_loader(RelativeNames, self.clone());
    }

    /// Names and texts of those that are there as source; the one that is run comes first.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        let main = |(name, _): &&(String, String)| *name == self.main;
        let others = self.sources.iter().filter(move |source| !main(source));
        let all = self.sources.iter().filter(main).chain(others);
        all.map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Runs the module that the plug-in names.
    pub fn run<'js>(
        &self,
        ctx: &Ctx<'js>,
    ) -> rquickjs::Result<(Module<'js, Evaluated>, Promise<'js>)> {
        self.read(ctx, &self.main)?.eval()
    }

    fn read<'js>(&self, ctx: &Ctx<'js>, name: &str) -> rquickjs::Result<Module<'js, Declared>> {
        if let Some(module) = self.compiled.iter().find(|module| module.name == name) {
            return bytecode::load(ctx, module);
        }
        let source = self.sources.iter().find(|(known, _)| known == name);
        let (name, text) = source.ok_or_else(|| rquickjs::Error::new_loading(name))?;
        Module::declare(ctx.clone(), name.as_str(), text.as_str())
    }
}

impl Loader for ScriptModules {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<Module<'js, Declared>> {
        self.read(ctx, name)
    }
}

/// Names that begin with `./` or `../` are meant from the folder of the module that imports.
struct RelativeNames;

impl Resolver for RelativeNames {
    fn resolve<'js>(
        &mut self,
        _: &Ctx<'js>,
        base: &str,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<String> {
        Ok(resolved(base, name))
    }
}

fn resolved(base: &str, name: &str) -> String {
    if !name.starts_with("./") && !name.starts_with("../") {
        return name.to_owned();
    }
    let folder = base.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "." | "" => {}
            // Nothing is above the plug-in's folder.
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::resolved;

    #[test]
    fn names_are_meant_from_the_folder_of_the_module() {
        for (base, name, expected) in [
            ("main.js", "./a.js", "a.js"),
            ("main.js", "./lib/a.js", "lib/a.js"),
            ("lib/a.js", "./b.js", "lib/b.js"),
            ("lib/a.js", "../c.js", "c.js"),
            ("lib/a.js", "../../../c.js", "c.js"),
            ("lib/a.js", "lib/b.js", "lib/b.js"),
        ] {
            assert_eq!(resolved(base, name), expected, "{base} {name}");
        }
    }
}
