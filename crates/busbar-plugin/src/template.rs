//! New plug-ins: files that work, to begin with.

use crate::PluginLanguage;

/// The files of a new plug-in, by their path within its folder: one that doubles a number, with a test.
pub fn template(language: PluginLanguage) -> Vec<(&'static str, String)> {
    let (main, text) = match language {
        PluginLanguage::Javascript => ("main.js", include_str!("../templates/main.js")),
        PluginLanguage::Python => ("main.py", include_str!("../templates/main.py")),
        PluginLanguage::Java => ("Main.java", include_str!("../templates/Main.java")),
        PluginLanguage::Perl => ("main.pl", include_str!("../templates/main.pl")),
        PluginLanguage::Scala => ("Main.scala", include_str!("../templates/Main.scala")),
        PluginLanguage::Erlang => ("main.erl", include_str!("../templates/main.erl")),
        PluginLanguage::Command => ("main.jq", include_str!("../templates/main.jq")),
        PluginLanguage::Xslt => ("main.xsl", include_str!("../templates/main.xsl")),
        PluginLanguage::Xsd => ("main.xsd", include_str!("../templates/main.xsd")),
    };
    let how = match language {
        PluginLanguage::Command => {
            "language: command\ncommand: [jq, -c, --unbuffered, -f, main.jq]\n".to_owned()
        }
        other => format!("language: {}\n", other.as_str()),
    };
    let tests = match language {
        PluginLanguage::Xslt => include_str!("../templates/xslt.yaml"),
        PluginLanguage::Xsd => include_str!("../templates/xsd.yaml"),
        _ => include_str!("../templates/plugin.yaml"),
    };
    let spec = format!("{how}{tests}");
    vec![("plugin.yaml", spec), (main, text.to_owned())]
}
