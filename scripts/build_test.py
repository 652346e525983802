#!/usr/bin/env python3
"""Tests of the scripts that build and check the tree: licences.py, build.py and rustc-clippy."""

import importlib.machinery
import importlib.util
import tempfile
import unittest
from pathlib import Path

import build
import licences

HERE = Path(__file__).resolve().parent


def script(name):
    """A script without an ending, as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(HERE / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


class Licences(unittest.TestCase):
    ALLOWED = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC"}

    def test_expressions(self):
        for expression, good in [
            ("MIT", True),
            ("GPL-3.0-only", False),
            ("MIT OR GPL-3.0-only", True),
            ("GPL-3.0-only OR MIT", True),
            ("MIT AND GPL-3.0-only", False),
            ("GPL-3.0-only AND MIT", False),
            ("MIT/GPL-3.0-only", True),
            # AND binds closer than OR.
            ("GPL-3.0-only OR MIT AND ISC", True),
            ("GPL-3.0-only AND MIT OR GPL-2.0-only", False),
            ("(GPL-3.0-only OR MIT) AND ISC", True),
            ("(GPL-3.0-only OR MIT) AND BSD-3-Clause", False),
            ("Apache-2.0 WITH LLVM-exception", True),
            ("MIT WITH LLVM-exception", False),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", True),
        ]:
            self.assertEqual(licences.satisfied(expression, self.ALLOWED), good, expression)

    def test_what_is_no_expression(self):
        for expression in ["", "MIT OR", "(MIT", "MIT MIT", "AND MIT", "MIT)"]:
            with self.assertRaises(ValueError, msg=expression):
                licences.satisfied(expression, self.ALLOWED)

    def test_problems(self):
        rules = {
            "licenses": {"allow": ["MIT"], "exceptions": [{"crate": "odd", "allow": ["NCSA"]}]},
            "bans": {"deny": [{"crate": "openssl", "reason": "TLS is rustls with ring"}]},
        }
        registry = "registry+https://example.com/index"

        def found(name="good", licence="MIT", source=registry, dependencies=()):
            package = {"name": name, "version": "1.0.0", "license": licence, "source": source}
            return list(licences.problems([package | {"dependencies": dependencies}], rules))

        self.assertEqual(found(), [])
        self.assertEqual(found("odd", "NCSA AND MIT"), [])
        self.assertIn("GPL-3.0-only", found(licence="GPL-3.0-only")[0])
        self.assertIn("NCSA", found(licence="NCSA")[0])
        self.assertIn("no licence", found(licence=None)[0])
        self.assertIn("no SPDX expression", found(licence="MIT OR")[0])
        self.assertIn("rustls with ring", found("openssl")[0])
        self.assertIn("one registry", found(source="git+https://example.com/good")[0])
        other = {"name": "b", "version": "1.0.0", "license": "MIT", "dependencies": ()}
        both = [other | {"source": registry}] * 2 + [other | {"source": "registry+https://example.org/index"}]
        self.assertIn("example.org", list(licences.problems(both, rules))[0])
        wild = {"name": "serde", "req": "*"}
        self.assertIn("any version of serde", found(source=None, dependencies=[wild])[0])
        self.assertEqual(found(source=None, dependencies=[wild | {"path": "/serde"}]), [])

    def test_a_setting_that_would_be_ignored_is_refused(self):
        self.assertEqual(list(licences.unknown_settings({"bans": {"wildcards": "deny"}})), [])
        self.assertIn("wildcards", *licences.unknown_settings({"bans": {"wildcards": "allow"}}))
        self.assertIn("skip", *licences.unknown_settings({"bans": {"skip": []}}))


class Progress(unittest.TestCase):
    def test_what_is_left_follows_the_work_that_is_done(self):
        progress = build.Progress({"a": 100, "b": 300, "c": 600})
        self.assertIsNone(progress.seconds_left(60))
        progress.finished("a", fresh=False)
        self.assertEqual(progress.seconds_left(60), 540)
        self.assertEqual(progress.line(60), "1 of 3 crates compiled in 1 min 00 s, about 9 min left")
        # Counted once, whatever it is told.
        progress.finished("a", fresh=False)
        self.assertEqual(progress.done, 1)

    def test_what_was_there_does_not_count_as_fast_work(self):
        progress = build.Progress({"a": 100, "b": 300, "c": 600})
        progress.finished("c", fresh=True)
        self.assertIsNone(progress.seconds_left(1))
        progress.finished("a", fresh=False)
        self.assertEqual(progress.seconds_left(10), 30)
        progress.finished("b", fresh=False)
        self.assertEqual(progress.line(40), "3 of 3 crates compiled in 40 s, less than a minute left")

    def test_the_crates_of_the_program(self):
        work = build.work_of_packages()
        names = [package.rsplit("/", 1)[-1] for package in work]
        self.assertTrue(any(name.startswith("busbar-sql#") for name in names), names)
        self.assertFalse(any(name.startswith("busbar-fuzz#") for name in names), names)


class Clippy(unittest.TestCase):
    def test_build_scripts_are_compiled(self):
        linted = script("rustc-clippy").is_linted
        self.assertTrue(linted(["--crate-name", "some", "--emit=dep-info,metadata,link"]))
        self.assertFalse(linted(["--crate-name", "build_script_build", "--emit=dep-info,link"]))
        self.assertFalse(linted(["-vV"]))

    def test_a_program_stays_what_it_is(self):
        wrapper = script("rustc-clippy")
        with tempfile.TemporaryDirectory() as folder:
            deps, program = Path(folder) / "deps", Path(folder) / "busbar"
            deps.mkdir()
            program.write_text("code")
            bin_of = ["--crate-name", "busbar", "--crate-type", "bin", "--out-dir", str(deps), "extra-filename=-1"]
            (deps / "busbar-1").hardlink_to(program)
            wrapper.put_in_place(bin_of)
            self.assertEqual((deps / "busbar-1").read_text(), "code")
            self.assertEqual(program.read_text(), "code")
            library = ["--crate-name", "busbar", "--crate-type", "lib", "--out-dir", str(deps), "extra-filename=-2"]
            wrapper.put_in_place(library)
            self.assertEqual((deps / "libbusbar-2.rlib").read_text(), "")

    def test_asks_for_metadata_only(self):
        wrapper = script("rustc-clippy")
        with tempfile.TemporaryDirectory() as folder:
            empty, full = Path(folder) / "libempty.rlib", Path(folder) / "libfull.rlib"
            empty.touch()
            full.write_text("code")
            arguments = [
                "--crate-name", "some", "--crate-type", "lib", "--emit=dep-info,metadata,link",
                "-C", "extra-filename=-12", "--out-dir", folder,
                "--extern", f"empty={empty}", "--extern", f"full={full}",
            ]
            changed = wrapper.for_clippy(arguments)
            self.assertIn("--emit=dep-info,metadata", changed)
            self.assertIn(f"empty={folder}/libempty.rmeta", changed)
            self.assertIn(f"full={full}", changed)
            self.assertEqual(wrapper.compiled_file(arguments), f"{folder}/libsome-12.rlib")
            self.assertEqual(wrapper.compiled_file([*arguments, "--test"]), f"{folder}/some-12")


if __name__ == "__main__":
    unittest.main()
