use std::collections::BTreeSet;

use clap::CommandFactory as _;

use super::*;

/// Calls `each` with the path of every command.
fn walk(command: &Command, path: &str, each: &mut dyn FnMut(&Command, &str)) {
    each(command, path);
    for below in command.get_subcommands() {
        walk(below, &joined(path, below.get_name()), each);
    }
}

/// Every code that the help of the program asks for, with what the code says in English.
fn wanted() -> Vec<(String, Option<String>)> {
    let mut wanted = Vec::new();
    walk(&crate::Cli::command(), "", &mut |command, path| {
        let about = command.get_about().map(ToString::to_string);
        if let Some(more) = command.get_long_about().map(ToString::to_string) {
            let (_, more) = more.split_once("\n\n").expect("two paragraphs");
            wanted.push((more_code(path), Some(more.to_owned())));
        }
        wanted.push((about_code(path), about));
        for arg in command.get_arguments() {
            let help = arg.get_help().map(ToString::to_string);
            wanted.push((argument_code(arg, path), help));
            let names = arg.get_value_names().unwrap_or_default();
            for name in names.iter().filter(|_| arg.get_action().takes_values()) {
                let code = format!("help.value.{name}");
                wanted.push((code, Some(name.to_string())));
            }
        }
    });
    wanted.push((
        "help.exit-codes".to_owned(),
        Some(crate::EXIT_CODES.to_owned()),
    ));
    wanted
}

#[test]
fn every_command_and_option_has_its_words_in_each_language() {
    let mut wrong = Vec::new();
    for (code, english) in wanted() {
        let english = english.unwrap_or_else(|| panic!("{code}: the code says nothing"));
        if messages::template(Language::En, &code) != Some(&*english) {
            wrong.push(format!("{code} = {english}"));
        }
        let chinese = messages::template(Language::Zh, &code).unwrap_or_default();
        if !chinese.contains(|letter: char| ('\u{4e00}'..='\u{9fff}').contains(&letter)) {
            wrong.push(format!("{code}: nothing in Chinese"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_catalogue_helps_with_nothing_that_is_gone() {
    let wanted: BTreeSet<String> = wanted().into_iter().map(|(code, _)| code).collect();
    let own = ["help.--help", "help.--version", "help.help"];
    for (code, _) in messages::all(Language::En) {
        let spare = code.starts_with("help.")
            && !code.starts_with("help.word.")
            && !own.contains(&code)
            && !wanted.contains(code);
        assert!(!spare, "nothing asks for {code}");
    }
}

#[test]
fn no_english_is_left_in_chinese_help() {
    let mut program = in_language(crate::Cli::command(), Language::Zh);
    let mut pages = Vec::new();
    fn collect(command: &mut Command, pages: &mut Vec<String>) {
        pages.push(command.render_help().to_string());
        pages.push(command.render_long_help().to_string());
        for below in command.get_subcommands_mut().filter(|c| !c.is_hide_set()) {
            collect(below, pages);
        }
    }
    collect(&mut program, &mut pages);
    assert!(pages.len() > 60, "{} pages", pages.len());
    for page in &pages {
        for english in [
            "Usage",
            "Options",
            "OPTIONS",
            "COMMAND",
            "Commands",
            "Arguments",
            "default",
            "env:",
            "possible",
            "Print ",
            "Node:",
        ] {
            assert!(!page.contains(english), "{english} in:\n{page}");
        }
        for line in page.lines() {
            assert!(
                say::width(line) <= 80,
                "{} columns: {line}",
                say::width(line)
            );
        }
    }
}

#[test]
fn no_option_of_a_command_means_two_things() {
    for language in Language::ALL {
        let mut program = in_language(crate::Cli::command(), language);
        program.build();
        walk(&program, "", &mut |command, path| {
            let mut seen = BTreeSet::new();
            for arg in command.get_arguments() {
                let long = arg.get_long().map(|long| format!("--{long}"));
                let short = arg.get_short().map(|short| format!("-{short}"));
                let id = Some(arg.get_id().to_string());
                for name in [long, short, id].into_iter().flatten() {
                    assert!(seen.insert(name.clone()), "{path}: {name} twice");
                }
            }
        });
    }
}

#[test]
fn chinese_help_is_asked_for_and_parsed_as_the_english_is() {
    let parse =
        |args: &[&str]| in_language(crate::Cli::command(), Language::Zh).try_get_matches_from(args);
    for args in [
        &["busbar", "--help"][..],
        &["busbar", "flows", "-h"],
        &["busbar", "help", "flows", "pause"],
    ] {
        let told = parse(args).unwrap_err();
        assert_eq!(told.kind(), clap::error::ErrorKind::DisplayHelp, "{args:?}");
        assert!(told.to_string().contains("用法: busbar"), "{told}");
    }
    let version = parse(&["busbar", "flows", "--version"]).unwrap_err();
    assert_eq!(version.kind(), clap::error::ErrorKind::DisplayVersion);
    let matches = parse(&["busbar", "flows", "--json", "pause", "a", "--node", "b"]).unwrap();
    assert!(matches.get_flag("json"));
    assert_eq!(matches.get_one::<String>("node").unwrap(), "b");
}

#[test]
fn wide_text_is_broken_where_it_may_be() {
    assert_eq!(wrapped("显示帮助，然后结束", 10), "显示帮助，\n然后结束");
    assert_eq!(wrapped("显示帮助，然后结束", 8), "显示帮\n助，然后\n结束");
    assert_eq!(wrapped("ab cd ef", 5), "ab cd\nef");
    assert_eq!(wrapped("用 --limit 调大", 12), "用 --limit\n调大");
}
