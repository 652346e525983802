//! A plug-in's files, as texts, and how files that are none are kept among them.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busbar_event::{Class, Error, hash::fnv1a};
use serde::{Deserialize, Serialize};

use crate::PluginSpec;

/// A plug-in as it is deployed: its spec and the program's files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Package {
    /// What `plugin.yaml` says.
    #[serde(flatten)]
    pub spec: PluginSpec,
    /// The other files, by their path within the plug-in's folder. A file that is no text is a `data:` URL.
    pub files: BTreeMap<String, String>,
}

/// How a file that is no text begins among texts.
const BINARY: &str = "data:application/octet-stream;base64,";

impl Package {
    /// A file's contents as they are kept among texts: text as it is, anything else as a `data:` URL. Text that looks
    /// like one is encoded too, so that every file comes back as it was.
    pub fn text_of(contents: Vec<u8>) -> String {
        match String::from_utf8(contents) {
            Ok(text) if !text.starts_with(BINARY) && !text.contains('\0') => text,
            Ok(text) => format!("{BINARY}{}", STANDARD.encode(text)),
            Err(bytes) => format!("{BINARY}{}", STANDARD.encode(bytes.as_bytes())),
        }
    }

    /// The contents of a file that [`Package::text_of`] has encoded.
    ///
    /// # Errors
    /// `plugin.file-damaged`: what claims to be base64 is none.
    pub fn contents_of(text: &str) -> Result<Vec<u8>, Error> {
        match text.strip_prefix(BINARY) {
            None => Ok(text.as_bytes().to_vec()),
            Some(encoded) => STANDARD.decode(encoded.trim_end()).map_err(|cause| {
                Error::new(Class::Configuration, "plugin.file-damaged").caused_by(cause)
            }),
        }
    }

    /// Whether a file's text stands for one that is no text.
    pub fn is_binary(text: &str) -> bool {
        text.starts_with(BINARY)
    }

    /// A number that is another one for every other package.
    pub fn hash(&self) -> u64 {
        // Maps are sorted, so equal packages have equal texts.
        fnv1a(serde_json::to_string(self).unwrap_or_default().as_bytes())
    }

    /// Writes the files into a folder.
    ///
    /// # Errors
    /// What the disk says, or a file that is damaged.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Error> {
        let failed = |path: &Path, cause: std::io::Error| {
            Error::new(Class::Transient, "plugin.write")
                .with("path", path.display())
                .caused_by(cause)
        };
        std::fs::create_dir_all(folder).map_err(|cause| failed(folder, cause))?;
        for (name, text) in &self.files {
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(|cause| failed(parent, cause))?;
            }
            let contents = Package::contents_of(text)?;
            std::fs::write(&path, contents).map_err(|cause| failed(&path, cause))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_comes_back_as_it_was() {
        for contents in [
            b"print(1)\n".to_vec(),
            Vec::new(),
            vec![0xca, 0xfe, 0xba, 0xbe, 0],
            b"a\0b".to_vec(),
            format!("{BINARY}AAAA").into_bytes(),
        ] {
            let text = Package::text_of(contents.clone());
            assert_eq!(Package::contents_of(&text).unwrap(), contents, "{text}");
        }
        assert!(Package::is_binary(&Package::text_of(vec![0xff])));
        assert!(!Package::is_binary(&Package::text_of(b"data:".to_vec())));
        assert!(Package::contents_of(&format!("{BINARY}*")).is_err());
    }
}
